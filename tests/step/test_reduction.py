"""Gradients of several ranks reduced in 16 bits and by Adasum, against sums and trees of NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.step.adasum import adapted
from distrain.step.reduction import Piece, Slices, added
from tests.ranks import on_all, world_of
from tests.reductions import adasum, sum_in

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
        # Adasum's products aside nothing else leaves a rank.
        assert {name for rank in world for name in rank.sent} <= {"uint16", "float64"}
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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("size", [*SIZES, 4])
def test_adasum_is_its_formula(size: int, dtype: str, tolerance: float) -> None:
    gradients = _gradients(size, dtype)
    counts = [rank + 1.0 for rank in range(size)]
    for number, total in enumerate(_reduced(adapted, gradients, counts)):
        means = [each[number].astype(np.float64) / count for each, count in zip(gradients, counts, strict=True)]
        np.testing.assert_allclose(total, adasum(means), rtol=tolerance, atol=tolerance)


def test_adasum_averages_what_agrees_and_adds_what_does_not() -> None:
    same = [np.arange(1.0, 5.0)]
    np.testing.assert_allclose(_reduced(adapted, [same, same, same, same])[0], same[0], rtol=1e-12)
    apart = [[row] for row in np.diag([1.0, 2.0, 3.0, 4.0])]
    np.testing.assert_allclose(_reduced(adapted, apart)[0], [1, 2, 3, 4], rtol=1e-12)


def test_a_rank_without_examples_changes_no_others_gradient() -> None:
    gradients = _gradients(2, "float64")
    nothing = [np.zeros_like(each) for each in gradients[0]]
    for total, own in zip(_reduced(adapted, [nothing, gradients[1]], [0.0, 1.0]), gradients[1], strict=True):
        np.testing.assert_allclose(total, own, rtol=1e-15)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_adasum_hides_nothing_that_is_not_finite(bad: float) -> None:
    gradients = _gradients(3)
    gradients[1][3][2, 0, 0] = bad
    assert not np.isfinite(_reduced(adapted, gradients)[3]).all()


def test_adasum_in_16_bits_is_close() -> None:
    gradients = _gradients(3)
    whole, half = _reduced(adapted, gradients), _reduced(adapted, gradients, wire=tf.bfloat16)
    for one, other in zip(whole, half, strict=True):
        error = np.linalg.norm(one - other) / np.linalg.norm(one)
        assert 1e-5 < error < 2**-7
