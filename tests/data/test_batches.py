"""A rank's share of each batch, read ahead: what is in it, and what becomes of it where reading fails."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from distrain.data.batches import Batches, LocalBatch, Plan
from distrain.data.order import Batch, drawn
from distrain.data.provider import Example
from distrain.data.source import Source
from distrain.job.schema import Reading
from distrain.world.topology import World
from tests.support import Numbered


def _as_read(example: Example, index: int, epoch: int) -> Example:
    return example


def _source(examples: int = 10, *unreadable: int) -> Source:
    provider = Numbered(examples, unreadable)
    return Source(provider, provider.spec, _as_read)


def _batches(
    count: int,
    source: Source,
    *,
    batch_size: int = 4,
    rank: int = 0,
    size: int = 1,
    position: int = 0,
    drop: bool = False,
) -> list[LocalBatch]:
    plan = Plan(seed=7, batch_size=batch_size, remainder="drop" if drop else "keep")
    batches = Batches(source, plan, World(rank, size, rank, size), position)
    try:
        return [batches.next() for _ in range(count)]
    finally:
        batches.close()


def test_a_batch_holds_the_examples_of_its_indices() -> None:
    for number, local in enumerate(_batches(5, _source())):
        start = [0, 4, 8, 10, 14][number]
        assert local.batch == Batch(start, [4, 4, 2, 4, 4][number])
        assert local.indices == drawn(local.batch, rank=0, size=1, examples=10, seed=7)
        assert local.images[:, 1, 2, 0].tolist() == local.indices
        assert local.labels.tolist() == [index % 3 for index in local.indices]
        assert local.weights.tolist() == [1] * len(local.indices)
        dtypes = [array.dtype.name for array in (local.images, local.labels, local.weights)]
        assert dtypes == ["float32", "int32", "float32"]
        assert local.error is None


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_share_each_batch_and_who_has_none_takes_part_with_weight_0(size: int) -> None:
    alone = _batches(6, _source())
    ranks = [_batches(6, _source(), rank=rank, size=size) for rank in range(size)]
    for number, whole in enumerate(alone):
        shares = [rank[number] for rank in ranks]
        assert [index for share in shares for index in share.indices] == whole.indices
        assert sum(float(share.weights.sum()) for share in shares) == len(whole.indices)
        for share in shares:
            assert share.images.shape == (max(1, len(share.indices)), 4, 4, 1)
            assert len(share.labels) == len(share.weights) == len(share.images)
            assert share.weights.sum() == len(share.indices)
            assert np.isfinite(share.images).all()
    assert any(not rank[2].indices for rank in ranks) is (size > 2)


def test_an_example_that_cannot_be_read_is_told_not_raised() -> None:
    source = _source(10, 3)
    epoch = _batches(3, source)
    broken = [local for local in epoch if local.error is not None]
    assert len(broken) == 1
    assert str(broken[0].error) == "picture_3.png: broken"
    assert 3 in broken[0].indices
    assert broken[0].weights.tolist() == [0]
    assert broken[0].images.shape == (1, 4, 4, 1)
    read = [index for local in epoch if local.error is None for index in local.indices]
    assert sorted(read + broken[0].indices) == list(range(10))


def test_an_example_of_another_shape_is_told_by_its_index() -> None:
    source = replace(_source(3), spec=replace(Numbered(3).spec, image_shape=(4, 5, 1)))
    (local,) = _batches(1, source)
    assert "(4, 4, 1)" in str(local.error)
    assert "expected (4, 5, 1)" in str(local.error)


@pytest.mark.parametrize("position", [0, 4, 8, 10, 24, 10 * 10**9 + 4])
def test_resuming_goes_on_where_the_position_is(position: int) -> None:
    """As if the epochs before had been drawn: the next batches are those of that place."""
    resumed = _batches(3, _source(), position=position)
    assert resumed[0].batch.start == position
    for local in resumed:
        assert local.indices == drawn(local.batch, rank=0, size=1, examples=10, seed=7)


def test_a_remainder_can_be_dropped() -> None:
    assert [local.batch.start for local in _batches(5, _source(), drop=True)] == [0, 4, 10, 14, 20]


def test_preparation_is_told_index_and_epoch() -> None:
    def prepare(example: Example, index: int, epoch: int) -> Example:
        assert example.image[0, 0, 0] == index
        return example._replace(image=example.image + 100 * epoch)

    locals_ = _batches(5, replace(_source(), prepare=prepare))
    for local, epoch in zip(locals_, [0, 0, 0, 1, 1], strict=True):
        assert local.images[:, 0, 0, 0].tolist() == [index + 100 * epoch for index in local.indices]


def test_batches_come_in_order_though_later_ones_are_read_first() -> None:
    """The first batch can only be read once the second has been: two threads, or nothing would ever come."""
    first, second = (drawn(Batch(start, 4), rank=0, size=1, examples=10, seed=7) for start in (0, 4))
    second_was_read = threading.Event()

    def prepare(example: Example, index: int, epoch: int) -> Example:
        if index in first and epoch == 0:
            assert second_was_read.wait(30)
        if index == second[-1]:
            second_was_read.set()
        return example

    assert [local.indices for local in _batches(2, replace(_source(), prepare=prepare))] == [first, second]


def test_without_threads_it_reads_what_is_asked_for_where_it_is_asked() -> None:
    read: list[tuple[int, int]] = []

    def prepare(example: Example, index: int, epoch: int) -> Example:
        read.append((threading.get_ident(), index))
        return example

    source = replace(_source(), prepare=prepare)
    expected = [local.indices for local in _batches(3, _source())]
    batches = Batches(source, Plan(7, 4, "keep"), World(), 0, Reading(threads=0))
    assert [batches.next().indices for _ in range(3)] == expected
    assert read == [(threading.get_ident(), index) for indices in expected for index in indices]
    batches.close()


def test_it_reads_ahead_but_not_without_end() -> None:
    read: list[int] = []

    def prepare(example: Example, index: int, epoch: int) -> Example:
        read.append(index)
        return example

    before = {thread.ident for thread in threading.enumerate()}
    batches = Batches(replace(_source(1000), prepare=prepare), Plan(7, 4, "keep"), World(), 0)
    batches.next()
    workers = [thread for thread in threading.enumerate() if thread.ident not in before]
    batches.close()
    for thread in workers:
        thread.join(30)
    assert len(workers) >= 1
    assert not any(thread.is_alive() for thread in workers)
    assert 4 <= len(read) <= 4 * (Reading().ahead + 1)
