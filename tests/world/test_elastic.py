"""Where the ranks of a new world find each other, with Horovod's own store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from horovod.runner.common.util import secret
from horovod.runner.http.http_server import RendezvousServer

from distrain.world.elastic import Membership


@pytest.fixture
def membership(monkeypatch: pytest.MonkeyPatch) -> Iterator[Membership]:
    server = RendezvousServer()
    port = server.start(address="127.0.0.1")
    server.init([])
    for name, value in secret.job_key_environment(server.key).items():
        monkeypatch.setenv(name, value)
    yield Membership(
        {
            "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
            "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
            "HOROVOD_HOSTNAME": "localhost",
            "HOROVOD_LOCAL_RANK": "0",
        }
    )
    server.stop()


def meet(membership: Membership, ranks: list[int], size: int, seconds: float) -> list[bool]:
    with ThreadPoolExecutor(size) as executor:
        return list(executor.map(lambda rank: membership.meet(rank, size, seconds), ranks))


def test_all_go_on_once_all_are_there(membership: Membership) -> None:
    late = threading.Timer(0.5, lambda: membership.meet(1, 3, 10))
    since = time.monotonic()
    late.start()
    assert meet(membership, [2, 0], 3, 10) == [True, True]
    assert time.monotonic() - since >= 0.5
    late.join()


def test_one_alone_waits_for_nobody(membership: Membership) -> None:
    assert membership.meet(0, 1, 0)


@pytest.mark.parametrize("ranks", [[0, 2], [1, 2], [2]])
def test_nobody_goes_on_where_one_does_not_come(ranks: list[int], membership: Membership) -> None:
    assert meet(membership, ranks, 3, 0.3) == [False] * len(ranks)


def test_who_has_given_up_on_rank_0_is_not_waited_for(membership: Membership) -> None:
    assert meet(membership, [1], 2, 0.1) == [False]
    assert not membership.meet(0, 2, 10)


def test_who_comes_too_late_does_not_wait(membership: Membership) -> None:
    assert meet(membership, [0, 2], 3, 0.2) == [False, False]
    since = time.monotonic()
    assert not membership.meet(1, 3, 10)
    assert time.monotonic() - since < 2
