"""The running mean in its modes against the formulas, evaluated by NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.gradients.measures import Moments
from distrain.gradients.running_mean import RunningMean, sum_of_squares, sums_of_squares
from distrain.gradients.statistics import Contribution, GradientStatistics, as_moments
from distrain.kernels import compiled

SHAPES = ((3, 3, 2, 4), (4,), (), (1, 7), (5000,))
Floats = npt.NDArray[np.float64]


def _feed(statistics: GradientStatistics) -> Any:
    one = tf.constant(1.0, tf.float64)

    def update(gradients: list[tf.Tensor]) -> tf.Tensor:
        nothing = Contribution(tf.zeros(len(gradients), gradients[0].dtype), tf.ones([], gradients[0].dtype))
        return statistics.update(gradients, nothing, one)

    compiled = tf.function(update, autograph=False)

    def feed(gradients: list[npt.NDArray[Any]]) -> Moments | None:
        return as_moments(compiled([tf.constant(gradient) for gradient in gradients]), 1.0, 1.0)

    return feed


def _drawn(random: np.random.Generator, dtype: str, signal: float = 0.5) -> list[npt.NDArray[Any]]:
    scales = 10.0 ** np.arange(-len(SHAPES), 0)
    return [
        np.asarray(scale * (signal + random.standard_normal(shape)), dtype)
        for shape, scale in zip(SHAPES, scales, strict=True)
    ]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_it_is_the_formula_of_the_origin(way: str, dtype: str, tolerance: float, signal: float) -> None:
    """Relative to the norm of each variable's mean; pure noise, whose mean shrinks, is the harder case."""
    random = np.random.default_rng(1)
    statistics = GradientStatistics([tf.Variable(tf.zeros(shape, dtype)) for shape in SHAPES])
    feed = _feed(statistics)
    expected = [np.zeros(shape) for shape in SHAPES]
    for n in range(300):
        gradients = _drawn(random, dtype, signal)
        previous = [np.sum(average**2) for average in expected]
        products = [np.sum(average * gradient) for average, gradient in zip(expected, gradients, strict=True)]
        moments = feed(gradients)
        expected = [
            average * (1 - 1 / (n + 1)) + gradient.astype(np.float64) / (n + 1)
            for average, gradient in zip(expected, gradients, strict=True)
        ]
        assert moments is not None
        close: dict[str, Any] = {"rtol": 20 * tolerance}
        np.testing.assert_allclose(moments.mean_squares, [np.sum(average**2) for average in expected], **close)
        np.testing.assert_allclose(moments.previous_squares, previous, **close)
        scales = np.sqrt(np.array(previous) * moments.norm_squares)
        np.testing.assert_allclose((moments.products - products) / np.maximum(scales, 1e-300), 0, atol=20 * tolerance)
    assert int(statistics.running_mean.count) == 300
    for mean, average in zip(statistics.running_mean.means(), expected, strict=True):
        assert mean.shape == average.shape
        assert np.linalg.norm(mean.numpy() - average) <= tolerance * np.linalg.norm(average)


def _exponential(gradients: list[Floats], decay: float) -> Floats:
    weights = decay ** np.arange(len(gradients))[::-1]
    total: Floats = np.tensordot(weights / weights.sum(), np.array(gradients), 1)
    return total


@pytest.mark.parametrize(("mode", "options"), [("exponential", {"decay": 0.9}), ("window", {"window": 70})])
def test_the_other_modes_are_their_formulas(way: str, mode: Any, options: dict[str, Any]) -> None:
    """A window of 70 is folded once before it ends; the exponential's weights sum to 1 from the first step on."""
    random = np.random.default_rng(2)
    statistics = GradientStatistics([tf.Variable(tf.zeros(6, tf.float64))], mode=mode, **options)
    feed = _feed(statistics)
    seen: list[Floats] = []
    for n in range(1, 221):
        seen.append(random.standard_normal(6) + 0.3)
        moments = feed([seen[-1]])
        if mode == "window":
            inside = seen[(n - 1) // 70 * 70 :]
            mean = np.mean(inside, axis=0)
            before = np.mean(inside[:-1], axis=0) if len(inside) > 1 else np.zeros(6)
            typical = np.mean([np.sum(one**2) for one in inside])
        else:
            mean = _exponential(seen, 0.9)
            before = _exponential(seen[:-1], 0.9) if n > 1 else np.zeros(6)
            typical = _exponential([np.atleast_1d(np.sum(one**2)) for one in seen], 0.9)[0]
        assert moments is not None
        np.testing.assert_allclose(statistics.running_mean.means()[0], mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.mean_squares[0], np.sum(mean**2), rtol=1e-9)
        np.testing.assert_allclose(moments.previous_squares[0], np.sum(before**2), rtol=1e-9)
        np.testing.assert_allclose(moments.products[0], np.sum(before * seen[-1]), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.typical_squares[0], typical, rtol=1e-9)


def test_it_holds_for_a_hundred_thousand_steps(way: str) -> None:
    """Rounding must not pile up, be the gradients noise, all the same, or slowly going somewhere."""
    steps = 100_000
    random = np.random.default_rng(3)
    noise = np.array([0, 0, 1e-3, 1.0, 10.0, 0, 0, 1e-3, 1.0, 10.0, 1e-2, 0])
    drift = np.array([0, 0, 0, 0, 0, 1.0, 1e-3, 1e-3, 1e-4, 1.0, 1e-2, 1e-5])
    rows = (1 / 3 + noise * random.standard_normal((1000, 12))).astype(np.float32)
    slopes = (drift / steps).astype(np.float32)
    statistics = GradientStatistics([tf.Variable(tf.zeros(12))], every=steps)

    @tf.function
    def rounds() -> None:
        nothing = Contribution(tf.zeros(1), tf.ones([]))
        for step in tf.range(steps):
            gradient = tf.constant(rows)[step % 1000] + tf.cast(step, tf.float32) * slopes
            statistics.update([gradient], nothing, tf.ones([]))

    rounds()
    numbers = np.arange(steps, dtype=np.float32)
    expected = sum((rows + numbers[at : at + 1000, None] * slopes).sum(0, np.float64) for at in range(0, steps, 1000))
    got = statistics.running_mean.means()[0].numpy()
    np.testing.assert_allclose(got, expected / steps, rtol=1e-5)


def test_the_first_gradient_is_the_first_mean(way: str) -> None:
    statistics = GradientStatistics([tf.Variable(tf.ones(3))])
    moments = _feed(statistics)([np.array([3.0, 0.0, 4.0], np.float32)])
    assert statistics.running_mean.means()[0].numpy().tolist() == [3, 0, 4]
    assert moments.mean_squares.tolist() == [25]
    assert moments.previous_squares.tolist() == moments.products.tolist() == [0]


def test_it_keeps_shapes_types_and_is_not_trained() -> None:
    variables = [tf.Variable(tf.ones((2, 3), tf.float64)), tf.Variable(1.0)]
    mean = RunningMean(variables)
    for kept in (mean.recent, mean.base, mean.means()):
        assert [(one.shape, one.dtype) for one in kept] == [(one.shape, one.dtype) for one in variables]
        assert all(one.numpy().sum() == 0 for one in kept)
    assert not any(one.trainable for one in [*mean.recent, *mean.base])
    assert mean.count.dtype == tf.int64


@pytest.mark.parametrize("value", [3.0, [3.0, -4.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_sum_of_squares(value: Any) -> None:
    assert float(sum_of_squares(tf.constant(value))) == np.sum(np.square(value))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("by_kernel", [True, False])
def test_sums_of_squares_of_many_tensors(by_kernel: bool, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.serve(tf.zeros(3))
    if not by_kernel:
        monkeypatch.setattr(compiled, "serve", lambda value: False)
    random = np.random.default_rng(5)
    # Of no elements, of less than a vector, of a run and one more, of several parts of work.
    shapes = [(0,), (), (7,), (2048,), (2049,), (31, 5), (70_001,), (300, 500)]
    values = [np.asarray(10 ** (number % 3) * random.standard_normal(shape)) for number, shape in enumerate(shapes)]
    values = [value.astype(dtype) for value in values]
    found = sums_of_squares([tf.constant(value) for value in values])
    assert found.dtype == dtype
    expected = [np.sum(np.square(value.astype(np.float64))) for value in values]
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == "float32" else 1e-14)


def test_squares_that_overflow_or_are_unknown_are_told() -> None:
    unknown, infinite, large = ([1.0, np.nan], [np.inf, 1.0], [1e30, 1.0])
    found = sums_of_squares([tf.constant(value, tf.float32) for value in (unknown, infinite, large, [3.0, 4.0])])
    assert np.isnan(found[0])
    assert np.isposinf(found[1:3]).all()
    assert found[3] == 25
