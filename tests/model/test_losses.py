"""Losses against NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.model.losses import EPSILON, cross_entropy, dice

SHAPES = [(4,), (3, 5, 2)]


def _drawn(shape: tuple[int, ...], classes: int = 3) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    random = np.random.default_rng(1)
    return random.integers(0, classes, shape).astype(np.int32), 3 * random.standard_normal((*shape, classes))


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    powers: npt.NDArray[np.float64] = np.exp(logits)
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 4.0)])
def test_cross_entropy(shape: tuple[int, ...], weights: tuple[float, ...] | None) -> None:
    """Class weights are factors, not normalised: with all of them 2 the loss doubles."""
    labels, logits = _drawn(shape)
    picked = -np.log(np.take_along_axis(_softmax(logits), labels[..., None].astype(np.int64), axis=-1))[..., 0]
    expected = (picked * np.asarray(weights or (1, 1, 1))[labels]).reshape(shape[0], -1).mean(axis=1)
    np.testing.assert_allclose(cross_entropy(weights)(tf.constant(labels), tf.constant(logits)), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_dice(shape: tuple[int, ...]) -> None:
    labels, logits = _drawn(shape)
    predicted, true = _softmax(logits).reshape(shape[0], -1), np.eye(3)[labels].reshape(shape[0], -1)
    expected = 1 - 2 * (predicted * true).sum(axis=1) / (predicted.sum(axis=1) + true.sum(axis=1) + EPSILON)
    np.testing.assert_allclose(dice()(tf.constant(labels), tf.constant(logits)), expected, rtol=1e-12)


@pytest.mark.parametrize(("right", "expected"), [(True, 0.0), (False, 1.0)])
def test_dice_is_0_for_all_right_and_1_for_all_wrong(right: bool, expected: float) -> None:
    labels = np.array([[[0, 1], [1, 0]]], np.int32)
    logits = 100 * np.eye(2)[labels if right else 1 - labels]
    # EPSILON beside the 8 of predicted and true shares.
    np.testing.assert_allclose(dice()(tf.constant(labels), tf.constant(logits)), [expected], atol=2e-6)


@pytest.mark.parametrize("loss", [cross_entropy(), cross_entropy((1.0, 2.0)), dice()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_keep_the_type_and_are_finite_for_sure_predictions(loss: object, dtype: str) -> None:
    assert callable(loss)
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4]], dtype)
    values = loss(tf.constant([0, 0]), logits)
    assert values.dtype == dtype
    assert values.shape == (2,)
    assert np.isfinite(values).all()
