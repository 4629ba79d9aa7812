"""Each rank's share of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import distrain.keras as hvd
from distrain.keras import place
from distrain.world.control import AloneControl
from distrain.world.start import Started
from distrain.world.topology import World

X = np.arange(10)[:, None] * 10
Y = np.arange(10)


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> Any:
    def become(rank: int, size: int) -> None:
        started = Started(World(rank=rank, size=size, controller="gloo"), AloneControl(), close=lambda: None)
        monkeypatch.setattr(place, "_places", [place.Place(started)])

    return become


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_shares_of_all_ranks_are_the_batch(as_rank: Any, size: int) -> None:
    batches: list[list[int]] = [[] for _ in range(4)]
    for rank in range(size):
        as_rank(rank, size)
        dataset = hvd.shared(tf.data.Dataset.from_tensor_slices((X, Y)).batch(3))
        for batch, (x, y) in zip(batches, dataset.as_numpy_iterator(), strict=True):
            assert np.array_equal(x[:, 0], y * 10)
            batch.extend(y.tolist())
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def epochs(as_rank: Any, size: int, *, start: int = 0, remainder: str = "keep") -> list[list[int]]:
    """The labels of each batch of two epochs, over all ranks."""
    found: list[list[int]] = []
    for rank in range(size):
        as_rank(rank, size)
        examples = hvd.Examples((X, Y), batch_size=4, seed=2, remainder=remainder)
        examples.start = start
        batches = [y.tolist() for _, y in examples.dataset().take(2 * examples.steps_per_epoch).as_numpy_iterator()]
        found = [one + other for one, other in zip(found or [[]] * len(batches), batches, strict=True)]
    return found


def test_the_order_is_the_same_for_any_number_of_ranks(as_rank: Any) -> None:
    alone = epochs(as_rank, 1)
    assert [len(batch) for batch in alone] == [4, 4, 2] * 2
    first, second = ([label for batch in alone[at : at + 3] for label in batch] for at in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert epochs(as_rank, 2) == epochs(as_rank, 3) == alone


def test_it_goes_on_where_it_is_told_to(as_rank: Any) -> None:
    assert epochs(as_rank, 2, start=4)[:2] == epochs(as_rank, 1)[4:6]
    assert [len(batch) for batch in epochs(as_rank, 2, remainder="drop")] == [4, 4] * 2
    assert epochs(as_rank, 2, start=3, remainder="drop")[0] == epochs(as_rank, 2, remainder="drop")[3]


def test_providers_are_read(as_rank: Any) -> None:
    from distrain.data.circles import Circles

    as_rank(0, 1)
    provider = Circles(examples=5, size=20, seed=1, discs=1, radius=(2, 4), border=2, noise=20.0)
    x, y = next(hvd.Examples(provider, batch_size=2, seed=1).dataset().as_numpy_iterator())
    assert x.shape == (2, *provider.spec.image_shape)
    assert y.shape == (2, *provider.spec.label_shape)
    assert any(np.array_equal(x[0], provider.read(index).image) for index in range(5))
