"""What is read from moments: unbiased where it is an estimate, exact where it is a formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.gradients.measures import MEASURES, ROWS, Moments, measures, signal_and_noise
from distrain.gradients.statistics import Contribution, GradientStatistics, as_moments, group_contribution

TRUE_GRADIENT = np.array([0.5, -0.25, 0.0, 0.125])
SPREADS = np.array([1.0, 2.0, 0.5, 3.0])

# Examples of each group: workers with equal shares, shares that differ, two workers with micro-batches, a tail.
SHARES = {
    "two workers": [4, 4],
    "four workers": [2, 2, 2, 2],
    "uneven": [3, 1, 4],
    "very uneven": [13, 1, 1, 1],
    "two workers in micro-batches": [2, 2, 1, 2, 2, 1],
    "one example a group": [1] * 8,
}


@pytest.mark.parametrize("shares", SHARES.values(), ids=SHARES.keys())
def test_signal_and_noise_are_unbiased(shares: list[int]) -> None:
    """Over 2000 draws, within three standard errors; m for m - 1 anywhere is many of them away."""
    random = np.random.default_rng(7)
    draws, total = 2000, sum(shares)
    examples = TRUE_GRADIENT + SPREADS * random.standard_normal((draws, total, 4))
    starts = np.cumsum([0, *shares[:-1]])
    group_sums = np.add.reduceat(examples, starts, axis=1)
    norm_squares = np.sum(examples.mean(axis=1) ** 2, axis=1)
    local_squares = np.sum(np.sum(group_sums**2, axis=2) / shares, axis=1) / total
    signal, noise = signal_and_noise(norm_squares, local_squares, len(shares), total)
    for estimates, truth in ((signal, np.sum(TRUE_GRADIENT**2)), (noise, np.sum(SPREADS**2))):
        error = np.std(estimates) / np.sqrt(draws)
        assert abs(np.mean(estimates) - truth) < 3 * error


def test_contributions_of_groups_add_up_to_the_moments_of_the_step() -> None:
    """Two workers of two micro-batches each, of unequal size, through what the step calls."""
    random = np.random.default_rng(8)
    shares = [3, 2, 4, 1]
    gradients = [random.standard_normal((share, 5)) for share in shares]
    statistics = GradientStatistics([tf.Variable(tf.zeros(5, tf.float64))], smoothing=0.0)
    parts = [
        group_contribution(
            [tf.constant(part.sum(axis=0))], tf.constant(float(len(part)), tf.float64), tf.constant(True)
        )
        for part in gradients
    ]
    same = statistics.contribution([tf.constant(gradients[0].mean(axis=0))], tf.constant(3))
    np.testing.assert_allclose(same.squares, parts[0].squares)
    total = Contribution(*(sum(values) for values in zip(*parts, strict=True)))
    everything = np.concatenate(gradients)
    rows = statistics.update([tf.constant(everything.mean(axis=0))], total, tf.constant(10.0, tf.float64))
    moments = as_moments(rows, total.groups, tf.constant(10.0))
    assert moments is not None
    assert (moments.groups, moments.examples) == (4, 10)
    local = sum(len(part) * np.sum(part.mean(axis=0) ** 2) for part in gradients) / 10
    np.testing.assert_allclose(moments.local_squares, [local])
    signal, noise = signal_and_noise(np.sum(everything.mean(axis=0) ** 2), local, 4, 10)
    np.testing.assert_allclose(moments.signal, [signal])
    np.testing.assert_allclose(moments.noise, [noise])


def test_smoothing_weighs_the_estimates_without_bias_from_the_start() -> None:
    """The weights of the past fall by the factor; they sum to 1 from the first measured step on."""
    random = np.random.default_rng(9)
    statistics = GradientStatistics([tf.Variable(tf.zeros(3, tf.float64))], smoothing=0.8)
    signals: list[float] = []
    for _ in range(12):
        gradients = random.standard_normal((2, 3))
        total = Contribution(tf.constant([np.sum(gradients**2)]), tf.constant(2.0, tf.float64))
        rows = statistics.update([tf.constant(gradients.mean(axis=0))], total, tf.constant(2.0, tf.float64))
        moments = as_moments(rows, total.groups, tf.constant(2.0))
        norm = np.sum(gradients.mean(axis=0) ** 2)
        signals.append(float(signal_and_noise(norm, np.sum(gradients**2) / 2, 2, 2)[0]))
        weights = 0.8 ** np.arange(len(signals))[::-1]
        assert moments is not None
        np.testing.assert_allclose(moments.signal, [np.average(signals, weights=weights)])


def test_one_group_tells_nothing_of_the_noise() -> None:
    statistics = GradientStatistics([tf.Variable(tf.zeros(3))])
    total = Contribution(tf.constant([5.0]), tf.constant(1.0))
    moments = as_moments(statistics.update([tf.ones(3)], total, tf.constant(4.0)), total.groups, tf.constant(4.0))
    assert moments is not None
    told = measures(moments)
    for name in ("agreement", "signal", "noise", "noise_scale", "snr"):
        assert np.isnan(told[name]).all(), name
    assert told["norm"].tolist() == [np.sqrt(3.0)] * 2


def test_a_square_that_overflows_is_not_smoothed_in() -> None:
    statistics = GradientStatistics([tf.Variable(tf.zeros(3))])
    signals = []
    for local in (8.0, np.inf, 8.0):
        total = Contribution(tf.constant([local], tf.float32), tf.constant(2.0))
        moments = as_moments(statistics.update([tf.ones(3)], total, tf.constant(2.0)), total.groups, tf.constant(2.0))
        assert moments is not None
        signals.append(moments.signal[0])
    np.testing.assert_allclose(signals, signals[0])


def _moments(**fields: npt.NDArray[np.float64]) -> Moments:
    moments = Moments(**dict.fromkeys(ROWS, np.ones(2)), groups=2, examples=8)
    return replace(moments, **fields)  # type: ignore[arg-type]  # arrays only


def test_each_measure_is_its_formula_for_each_variable_and_over_all() -> None:
    told = measures(
        _moments(
            norm_squares=np.array([4.0, 12.0]),
            mean_squares=np.array([1.0, 8.0]),
            previous_squares=np.array([4.0, 0.0]),
            products=np.array([2.0, 0.0]),
            typical_squares=np.array([2.0, 16.0]),
            local_squares=np.array([8.0, 12.0]),
            weight_squares=np.array([100.0, 300.0]),
            update_squares=np.array([1.0, 3.0]),
            signal=np.array([2.0, -1.0]),
            noise=np.array([6.0, 10.0]),
        )
    )
    assert tuple(told) == MEASURES
    expected = {
        "norm": [2, np.sqrt(12), 4],
        "mean_norm": [1, np.sqrt(8), 3],
        "update_ratio": [0.1, 0.1, 0.1],
        "coherence": [0.5, 0.5, 0.5],
        "alignment": [0.5, np.nan, 2 / 8],
        "agreement": [0.5, 1, 16 / 20],
        "signal": [0, 12, 12],
        "noise": [32, 0, 32],
        "noise_scale": [3, np.inf, 16],
        "snr": [2 / (6 / 8), 0, 1 / 2],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(told[name], values, err_msg=name)


def test_nothing_to_divide_by_is_told_as_nan_not_raised() -> None:
    zeros = np.zeros(2)
    told = measures(Moments(**dict.fromkeys(ROWS, zeros), groups=2, examples=8))
    assert all(np.isnan(told[name]).all() for name in ("update_ratio", "coherence", "alignment", "noise_scale"))
