"""The order of the examples: each exactly once per epoch, whoever draws it, and the same for every world."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.order import FEW, Batch, ByShard, batch_at, drawn, epoch_steps, mix, permute
from distrain.data.provider import Sharding

SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 10**6)


def _order(examples: int, *, seed: int = 7, epoch: int = 0) -> npt.NDArray[np.uint64]:
    return permute(np.arange(examples, dtype=np.uint64), examples=examples, seed=seed, epoch=epoch)


def _epoch(examples: int, batch_size: int, remainder: str, *, epoch: int = 0) -> list[Batch]:
    position, batches = epoch * examples, list[Batch]()
    while True:
        batch = batch_at(position, examples=examples, batch_size=batch_size, remainder=remainder)
        if batch.start // examples > epoch:
            return batches
        batches.append(batch)
        position = batch.stop


@settings(max_examples=150, deadline=None)
@given(examples=st.integers(1, 5000), seed=SEEDS, epoch=EPOCHS)
def test_an_epoch_is_a_bijection(examples: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(_order(examples, seed=seed, epoch=epoch)), np.arange(examples))


@pytest.mark.parametrize("examples", [*range(1, 34), 63, 64, 65, 255, 256, 257, 4095, 4096, 4097])
def test_small_epochs_and_those_beside_powers_of_two_are_bijections(examples: int) -> None:
    for seed in range(20):
        assert np.array_equal(np.sort(_order(examples, seed=seed)), np.arange(examples))


@settings(max_examples=100, deadline=None)
@given(examples=st.one_of(st.integers(FEW + 1, 300), st.integers(10**6, 10**12)), seed=SEEDS, epoch=EPOCHS)
def test_places_have_the_same_index_one_by_one_and_together(examples: int, seed: int, epoch: int) -> None:
    places = np.arange(min(examples, 300), dtype=np.uint64)
    together = permute(places, examples=examples, seed=seed, epoch=epoch)
    for count in (1, FEW):
        few = permute(places[:count], examples=examples, seed=seed, epoch=epoch)
        assert few.dtype == np.uint64
        assert few.tolist() == together[:count].tolist()


@settings(max_examples=50, deadline=None)
@given(examples=st.integers(5000, 10**12), seed=SEEDS, epoch=EPOCHS, data=st.data())
def test_no_two_of_many_places_give_the_same_index(examples: int, seed: int, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, examples - 5000))
    apart = data.draw(st.integers(1, max(1, (examples - start) // 5000)))
    places = start + apart * np.arange(5000, dtype=np.uint64)
    indices = permute(places, examples=examples, seed=seed, epoch=epoch)
    assert len(np.unique(indices)) == 5000
    assert indices.max() < examples


@settings(max_examples=50, deadline=None)
@given(
    examples=st.integers(1, 300),
    batch_size=st.integers(1, 400),
    remainder=st.sampled_from(["keep", "drop"]),
    seed=SEEDS,
    epoch=EPOCHS,
    data=st.data(),
)
def test_all_ranks_draw_each_example_once_even_where_workers_come_and_go(
    examples: int, batch_size: int, remainder: str, seed: int, epoch: int, data: st.DataObject
) -> None:
    if remainder == "drop":
        batch_size = min(batch_size, examples)
    batches = _epoch(examples, batch_size, remainder, epoch=epoch)
    sizes = data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=5))
    seen: Counter[int] = Counter()
    for number, batch in enumerate(batches):
        size = sizes[number % len(sizes)]
        shares = [drawn(batch, rank=rank, size=size, examples=examples, seed=seed) for rank in range(size)]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        together = [index for share in shares for index in share]
        assert together == drawn(batch, rank=0, size=1, examples=examples, seed=seed)
        seen.update(together)
    expected = examples if remainder == "keep" else examples - examples % batch_size
    assert len(seen) == seen.total() == expected
    assert max(seen) < examples
    assert len(batches) == epoch_steps(examples=examples, batch_size=batch_size, remainder=remainder)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_order_is_the_same_for_any_number_of_workers(size: int) -> None:
    batches = [*_epoch(100, 8, "keep"), *_epoch(100, 8, "keep", epoch=1)]
    one = [drawn(batch, rank=0, size=1, examples=100, seed=7) for batch in batches]
    several = [
        [index for rank in range(size) for index in drawn(batch, rank=rank, size=size, examples=100, seed=7)]
        for batch in batches
    ]
    assert several == one
    assert one[0] == [int(index) for index in _order(100)[:8]]
    assert one[13] == [int(index) for index in _order(100, epoch=1)[:8]]


def test_batches_end_with_their_epoch() -> None:
    batches = [*_epoch(10, 4, "keep"), *_epoch(10, 4, "keep", epoch=1)]
    assert [(batch.start, batch.size) for batch in batches] == [(0, 4), (4, 4), (8, 2), (10, 4), (14, 4), (18, 2)]
    assert batch_at(7, examples=10, batch_size=4, remainder="drop") == Batch(10, 4)
    assert batch_at(6, examples=10, batch_size=4, remainder="drop") == Batch(6, 4)
    assert batch_at(13, examples=10, batch_size=25, remainder="keep") == Batch(13, 7)


def test_starting_far_on_in_a_huge_data_set_costs_no_memory() -> None:
    """A table of the epoch would take 8 GB; what is drawn takes a few kilobytes."""
    tracemalloc.start()
    try:
        batch = batch_at(10**12 + 123_456, examples=10**9, batch_size=64, remainder="keep")
        indices = drawn(batch, rank=1, size=3, examples=10**9, seed=7)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (batch.start, batch.size, len(indices)) == (10**12 + 123_456, 64, 21)
    assert len(set(indices)) == 21
    assert all(0 <= index < 10**9 for index in indices)
    assert peak < 100_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((7, 0), (7, 1)),
        ((7, 0), (8, 0)),
        ((0, 0), (0, 1)),
        ((7, 7), (8, 6)),  # seed and epoch + 1 exchanged
        ((1, 0), (2, 1)),  # seed = epoch + 1, twice
        ((2**63 - 1, 0), (2**62, 0)),
    ],
)
def test_other_seeds_and_epochs_have_another_order(one: tuple[int, int], other: tuple[int, int]) -> None:
    """Two independent orders of 5000 share one place on average; more than 10 have a probability of 1e-8."""
    orders = [_order(5000, seed=seed, epoch=epoch) for seed, epoch in (one, other)]
    assert np.count_nonzero(orders[0] == orders[1]) <= 10


@pytest.mark.parametrize("examples", [2, 3, 5, 10])
def test_every_index_is_as_likely_at_every_place(examples: int) -> None:
    """Chi-square over (place, index); beyond 4 standard deviations of its distribution with a probability of 1e-4."""
    found = np.zeros((examples, examples))
    for seed in range(100 * examples):
        found[np.arange(examples), _order(examples, seed=seed).astype(np.int64)] += 1
    chi_square = float(((found - 100) ** 2 / 100).sum())
    freedom = (examples - 1) ** 2
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("examples", [100, 1000, 4096])
def test_neighbours_are_torn_apart(examples: int) -> None:
    """Over many epochs the mean distance of neighbours is that of random pairs, N / 3, within 4 standard errors."""
    orders = [_order(examples, epoch=epoch).astype(np.int64) for epoch in range(200)]
    distances = np.concatenate([np.abs(np.diff(order)) for order in orders])
    error = distances.std() / len(distances) ** 0.5
    assert abs(distances.mean() - (examples + 1) / 3) < 4 * error


SHARDINGS = st.builds(
    Sharding,
    st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any).map(tuple),
    st.integers(1, 70),
    st.integers(1, 20),
)


@settings(max_examples=150, deadline=None)
@given(sharding=SHARDINGS, seed=SEEDS, epoch=EPOCHS)
def test_the_order_by_shard_is_a_bijection(sharding: Sharding, seed: int, epoch: int) -> None:
    examples = sum(sharding.counts)
    order = ByShard(sharding).indices(np.arange(examples, dtype=np.uint64), seed=seed, epoch=epoch)
    assert np.array_equal(np.sort(order), np.arange(examples))


@settings(max_examples=50, deadline=None)
@given(sharding=SHARDINGS, seed=SEEDS, epoch=EPOCHS, batch_size=st.integers(1, 100), data=st.data())
def test_the_order_by_shard_is_the_same_whoever_reads_and_wherever_it_starts(
    sharding: Sharding, seed: int, epoch: int, batch_size: int, data: st.DataObject
) -> None:
    examples = sum(sharding.counts)
    whole = ByShard(sharding).indices(np.arange(examples, dtype=np.uint64), seed=seed, epoch=epoch).tolist()
    together: list[int] = []
    for batch in _epoch(examples, batch_size, "keep", epoch=epoch):
        size = data.draw(st.integers(1, 64))
        order = ByShard(sharding)  # as after a restart
        for rank in range(size):
            together += drawn(batch, rank=rank, size=size, examples=examples, seed=seed, order=order)
    assert together == whole


def test_the_order_by_shard_goes_through_lanes_and_blocks() -> None:
    """Four lanes of one shard each; a shard's blocks come in their order, shuffled within."""
    order = ByShard(Sharding((32,) * 4, 8, 4)).indices(np.arange(128, dtype=np.uint64), seed=7, epoch=0)
    lanes = order.astype(np.int64).reshape(32, 4).T
    assert sorted(lane[0] // 32 for lane in lanes) == [0, 1, 2, 3]
    for lane in lanes:
        assert len(set(lane // 32)) == 1
        for block in range(4):
            inside = lane[8 * block : 8 * block + 8] % 32
            assert sorted(inside) == list(range(8 * block, 8 * block + 8))
    assert any((np.diff(lane) < 0).any() for lane in lanes)
    other = ByShard(Sharding((32,) * 4, 8, 4)).indices(np.arange(128, dtype=np.uint64), seed=7, epoch=1)
    assert np.count_nonzero(order == other) < 20


def test_shards_of_a_huge_data_set_cost_no_more_than_their_number() -> None:
    sharding = Sharding((10**9,) * 1000, 1000, 8)
    tracemalloc.start()
    try:
        order = ByShard(sharding)
        batch = batch_at(7 * 10**12 + 123_456, examples=10**12, batch_size=64, remainder="keep")
        indices = drawn(batch, rank=1, size=3, examples=10**12, seed=7, order=order)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(set(indices)) == 21
    assert max(indices) < 10**12
    assert peak < 500_000


def test_mix_is_splitmix64() -> None:
    """The first words of the published generator for the seed 1234567, whose state grows by the golden gamma."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    words = [mix((1234567 + number * golden) & mask) for number in range(3)]
    assert words == [6457827717110365317, 3203168211198807973, 9817491932198370423]
