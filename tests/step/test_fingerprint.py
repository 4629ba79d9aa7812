"""The proof that ranks hold the same bits must see any bit that differs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.step import fingerprint
from distrain.step.fingerprint import build_fingerprint
from distrain.world.collectives import AloneCollectives


class OtherFingerprint(AloneCollectives):
    """A world of 2, whose other rank has this fingerprint."""

    def __init__(self, other: npt.NDArray[np.int64]) -> None:
        self._extremes = np.concatenate([other, -other])

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        return tf.maximum(tensor, self._extremes)


def _variables(seed: int = 1) -> list[tf.Variable]:
    random = np.random.default_rng(seed)
    arrays: list[npt.NDArray[np.generic]] = [
        random.standard_normal((3, 3, 2)).astype(np.float32),
        random.standard_normal(5),
        np.asarray(random.integers(-(2**62), 2**62)),
        random.standard_normal(4).astype(np.float16),
        np.array([1, 2, 3], np.int32),
        # Of the form of others, which are looked at together.
        random.standard_normal(5),
        random.standard_normal((3, 3, 2)).astype(np.float32),
    ]
    return [tf.Variable(array) for array in arrays]


def _own(variables: Sequence[tf.Variable]) -> npt.NDArray[np.int64]:
    return build_fingerprint(variables, AloneCollectives())()[0]


def _flip(variable: tf.Variable, bit: int) -> None:
    array = np.atleast_1d(variable.numpy()).copy()
    raw = array.view(np.uint8).reshape(-1)
    raw[bit // 8] ^= 1 << bit % 8
    variable.assign(array.reshape(variable.shape))


def test_the_same_bits_are_the_same_on_all_ranks() -> None:
    own, same = build_fingerprint(_variables(), OtherFingerprint(_own(_variables())))()
    assert same
    assert own.tolist() == _own(_variables()).tolist()


@pytest.mark.parametrize("large", [1, fingerprint.LARGE])
@pytest.mark.parametrize("number", range(7))
def test_every_single_bit_is_seen_and_told_by_its_variable(
    number: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "LARGE", large)
    variables = _variables()
    before = _own(variables)
    compare = build_fingerprint(variables, OtherFingerprint(before))
    for bit in range(variables[number].numpy().nbytes * 8):
        _flip(variables[number], bit)
        own, same = compare()
        assert not same
        assert np.flatnonzero(own != before).tolist() == [number], bit
        _flip(variables[number], bit)
    assert compare()[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [([1.0, 2.0, 3.0], [2.0, 1.0, 3.0]), ([0.0], [-0.0]), ([[1.0, 2.0], [3.0, 4.0]], [[1.0, 3.0], [2.0, 4.0]])],
)
def test_order_and_sign_of_zero_count(one: list[object], other: list[object]) -> None:
    assert _own([tf.Variable(one)]) != _own([tf.Variable(other)])


def test_nan_is_equal_to_the_same_nan() -> None:
    variables = [tf.Variable([float("nan"), 1.0])]
    assert build_fingerprint(variables, OtherFingerprint(_own(variables)))()[1]
