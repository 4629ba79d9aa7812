"""Which GPU a worker takes."""

from __future__ import annotations

import pytest

from distrain.errors import BadInput
from distrain.world.devices import gpu_for
from distrain.world.topology import World


def _world(local_rank: int, local_size: int) -> World:
    return World(rank=local_rank, size=local_size, local_rank=local_rank, local_size=local_size)


def test_each_worker_takes_one_of_its_own() -> None:
    assert [gpu_for(_world(rank, 3), gpus=4, shared=False) for rank in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_too_few_are_refused_by_all_workers(rank: int) -> None:
    """By those too that would have one: they would wait for the others."""
    with pytest.raises(BadInput, match="3 workers on a host with 2 GPUs, expected one GPU for each"):
        gpu_for(_world(rank, 3), gpus=2, shared=False)


def test_where_they_are_shared_workers_take_turns() -> None:
    assert [gpu_for(_world(rank, 3), gpus=2, shared=True) for rank in range(3)] == [0, 1, 0]
