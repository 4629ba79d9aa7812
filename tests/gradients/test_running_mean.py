"""The running mean against the formula of the trainer of 2016, evaluated by NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from distrain.gradients.running_mean import RunningMean, sum_of_squares

SHAPES = ((3, 3, 2, 4), (4,), (), (1, 7))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_it_is_the_formula_of_the_origin(dtype: str, tolerance: float, signal: float) -> None:
    """Relative to the norm of each variable's mean; pure noise, whose mean shrinks, is the harder case."""
    random = np.random.default_rng(1)
    scales = 10.0 ** np.arange(-len(SHAPES), 0)
    mean = RunningMean([tf.Variable(tf.zeros(shape, dtype)) for shape in SHAPES])
    update = tf.function(mean.update, autograph=False)
    expected = [np.zeros(shape) for shape in SHAPES]
    for n in range(500):
        drawn = [scale * (signal + random.standard_normal(shape)) for shape, scale in zip(SHAPES, scales, strict=True)]
        gradients = [np.asarray(gradient, dtype) for gradient in drawn]
        squares = update([tf.constant(gradient) for gradient in gradients])
        expected = [
            average * (1 - 1 / (n + 1)) + gradient.astype(np.float64) / (n + 1)
            for average, gradient in zip(expected, gradients, strict=True)
        ]
    assert int(mean.count) == 500
    for got, average, square in zip(mean.means, expected, squares.numpy(), strict=True):
        norm = np.linalg.norm(average)
        assert np.linalg.norm(got.numpy() - average) <= tolerance * norm
        assert abs(np.sqrt(square) - norm) <= tolerance * norm


def test_it_holds_for_a_hundred_thousand_steps() -> None:
    """Rounding must not pile up: the mean of a thousand gradients, a hundred times over, is their plain mean."""
    gradients = 1 + np.random.default_rng(2).standard_normal((1000, 8)).astype(np.float32)
    mean = RunningMean([tf.Variable(tf.zeros(8))])

    @tf.function
    def rounds() -> None:
        for row in tf.range(100_000) % 1000:
            mean.update([tf.constant(gradients)[row]])

    rounds()
    expected = gradients.astype(np.float64).mean(axis=0)
    assert np.linalg.norm(mean.means[0].numpy() - expected) <= 1e-5 * np.linalg.norm(expected)
    assert int(mean.count) == 100_000


def test_the_first_gradient_is_the_first_mean() -> None:
    mean = RunningMean([tf.Variable(tf.ones(3))])
    squares = mean.update([tf.constant([3.0, 0.0, 4.0])])
    assert mean.means[0].numpy().tolist() == [3, 0, 4]
    assert squares.numpy().tolist() == [25]


def test_it_keeps_shapes_types_and_is_not_trained() -> None:
    variables = [tf.Variable(tf.ones((2, 3), tf.float64)), tf.Variable(1.0)]
    mean = RunningMean(variables)
    assert [(one.shape, one.dtype) for one in mean.means] == [(one.shape, one.dtype) for one in variables]
    assert all(one.numpy().sum() == 0 and not one.trainable for one in mean.means)
    assert mean.count.dtype == tf.int64


@pytest.mark.parametrize("value", [3.0, [3.0, -4.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_sum_of_squares(value: Any) -> None:
    assert float(sum_of_squares(tf.constant(value))) == np.sum(np.square(value))
