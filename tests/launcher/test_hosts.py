"""Other hosts: waiting for them, and the interface by which they are reached."""

from __future__ import annotations

import pytest

from distrain.errors import BadInput
from distrain.launcher.hosts import Answer, common_interface, interface_towards, wait_for

HERE = Answer(("lo", "eth0"))
AWAY = Answer(problem="ssh: connect to host h2 port 22: Connection refused")


class Clock:
    """Hosts that answer later: `answers` are what each says at the first, second, ... time of asking."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = answers
        self.pauses = 0

    def ask(self, host: str) -> Answer:
        said = self.answers[host]
        return said[min(self.pauses, len(said) - 1)]

    def pause(self, seconds: float) -> None:
        self.pauses += 1


def test_all_hosts_are_waited_for() -> None:
    clock = Clock(h1=[HERE], h2=[AWAY, AWAY, HERE])
    answers = wait_for(lambda: ["h1", "h2", "h1"], 60, asked=clock.ask, pause=clock.pause)
    assert answers == {"h1": HERE, "h2": HERE}
    assert clock.pauses == 2


def test_and_told_of_where_they_do_not_come() -> None:
    clock = Clock(h1=[HERE], h2=[AWAY])
    with pytest.raises(BadInput, match=r"1 of 2 hosts answer by ssh after 0 s, expected all 2.*; h2: .* refused"):
        wait_for(lambda: ["h1", "h2"], 0, asked=clock.ask, pause=clock.pause)


def test_an_elastic_world_waits_for_the_least_and_for_hosts_that_are_named_later() -> None:
    clock = Clock(h1=[HERE], h2=[AWAY])
    answers = wait_for(lambda: ["h1", "h2"] if clock.pauses else [], 60, least=1, asked=clock.ask, pause=clock.pause)
    assert answers == {"h1": HERE}
    assert clock.pauses == 1


def test_the_interface_that_all_have() -> None:
    towards = {"h1": "eth0", "h2": "eth0", "h3": "ib0"}
    both = {"h1": HERE, "h2": HERE}
    assert common_interface(both, towards.get) == "eth0"
    assert common_interface(both | {"localhost": HERE}, towards.get) == "eth0"


@pytest.mark.parametrize(
    "answers",
    [
        {"h1": HERE, "h3": Answer(("lo", "eth0", "ib0"))},  # reached by two
        {"h1": HERE, "h2": Answer(("lo", "ens3"))},  # it has another name there
        {"unknown": HERE},
        {"localhost": HERE},
        {},
    ],
)
def test_and_none_where_they_have_none(answers: dict[str, Answer]) -> None:
    towards = {"h1": "eth0", "h2": "eth0", "h3": "ib0"}
    assert common_interface(answers, towards.get) is None


def test_this_machine_is_reached_by_its_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no-such-host.invalid") is None
