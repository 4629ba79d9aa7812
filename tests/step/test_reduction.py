"""Gradients of several ranks reduced in 16 bits, against sums of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.step.reduction import Piece, Slices, added
from tests.ranks import on_all, world_of
from tests.reductions import sum_in

Arrays = list[npt.NDArray[Any]]

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (7, 2, 3), (2,)]
SIZES = [1, 2, 3, 5]
# Half the distance of neighbours, relative: float16 has 11 bits, bfloat16 has 8.
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def _gradients(size: int, dtype: str = "float32") -> list[Arrays]:
    random = np.random.default_rng(size)
    return [[random.normal(size=shape).astype(dtype) for shape in SHAPES] for _ in range(size)]


def _reduced(
    kind: Any, gradients: list[Arrays], counts: list[float] | None = None, wire: tf.DType | None = None
) -> Arrays:
    """What rank 0 gets; all others get the same bits."""
    world = world_of(len(gradients))

    def reduce(rank: int) -> Arrays:
        slices = Slices([tf.constant(each) for each in gradients[rank]], world[rank], wire)
        count = tf.constant(1.0 if counts is None else counts[rank], tf.float64)
        return [total.numpy() for total in kind(slices)([tf.constant(each) for each in gradients[rank]], count)]

    first, *others = on_all(world, reduce)
    for other in others:
        assert [one.tobytes() for one in other] == [one.tobytes() for one in first]
    if wire is not None:
        assert {name for rank in world for name in rank.sent} == {"uint16"}
    return first


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("wire", [tf.float16, tf.bfloat16], ids=lambda wire: wire.name)
def test_a_sum_in_16_bits_is_rounded_once_in_and_once_out(wire: tf.DType, size: int) -> None:
    gradients = _gradients(size)
    half = wire.as_numpy_dtype
    for number, total in enumerate(_reduced(added, gradients, wire=wire)):
        assert total.tobytes() == sum_in(half, [rank[number] for rank in gradients]).tobytes()
        exact = np.sum([rank[number].astype(np.float64) for rank in gradients], axis=0)
        absolute = np.sum([np.abs(rank[number].astype(np.float64)) for rank in gradients], axis=0)
        rounding = ROUNDING[wire.name]
        # Each part, the sum of the rounded parts, and what float32 loses.
        assert np.all(np.abs(total - exact) <= rounding * (absolute + np.abs(exact) + rounding * absolute) + 1e-6)


def test_whole_numbers_of_64_bits_are_added_as_they_are() -> None:
    gradients = _gradients(3, "float64")
    for total, parts in zip(_reduced(added, gradients), zip(*gradients, strict=True), strict=True):
        assert total.tobytes() == (parts[0] + parts[1] + parts[2]).tobytes()


def test_what_is_too_large_for_16_bits_is_infinite_on_all_ranks() -> None:
    gradients = _gradients(2)
    gradients[0][1][2] = gradients[1][1][2] = 40_000  # each may be sent, their sum may not
    totals = _reduced(added, gradients, wire=tf.float16)
    assert np.isinf(totals[1][2])
    assert np.isfinite(_reduced(added, gradients, wire=tf.bfloat16)[1]).all()
    gradients[1][3][0, 0, 0] = np.nan
    assert np.isnan(_reduced(added, gradients, wire=tf.bfloat16)[3][0, 0, 0])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_slices_have_every_element_once(size: int) -> None:
    models = [tf.zeros(shape) for shape in SHAPES]
    world = world_of(size)
    found = [[] for _ in SHAPES]  # type: list[list[int]]
    for rank in range(size):
        slices = Slices(models, world[rank])
        pieces = slices.pieces(rank)
        assert pieces == sorted(pieces, key=lambda piece: piece.start)
        assert all(0 <= piece.start < piece.stop <= slices.length for piece in pieces)
        for piece in pieces:
            found[piece.tensor].append(piece.stop - piece.start)
    assert [sum(lengths) for lengths in found] == [model.shape.num_elements() for model in models]
    assert Slices(models, world[0]).pieces(0)[0] == Piece(0, 0, min(12, Slices(models, world[0]).length))
