"""The noise scale's interval covers what it should, and the advice says what the formulas say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from distrain.gradients.advice import NoiseScale, _ratio_interval, advise, efficiency, noise_scale, student
from distrain.gradients.measures import Floats, signal_and_noise

NOISE = 60.0  # trace of the covariance of one example's gradient


def _estimates(steps: int, true_signal: float, seed: int, *, groups: int = 2, each: int = 4) -> tuple[Floats, Floats]:
    """Signal and noise of so many steps with gradients of 30 dimensions."""
    drawn = np.random.default_rng(seed).normal(size=(steps, groups, 30)) * np.sqrt(NOISE / 30 / each)
    gradients = drawn + np.sqrt(true_signal / 30)
    local = (gradients**2).sum(axis=2).mean(axis=1)
    square = (gradients.mean(axis=1) ** 2).sum(axis=1)
    signal, noise = signal_and_noise(square, local, groups, groups * each)
    return signal, noise


@pytest.mark.parametrize(("steps", "signal"), [(64, 4.0), (200, 0.4), (40, 0.4), (64, 0.005)])
def test_the_interval_covers_the_truth_as_often_as_it_says(steps: int, signal: float) -> None:
    covered = []
    for seed in range(400):
        found = noise_scale(*_estimates(steps, signal, seed))
        assert found is not None
        covered.append(found.low <= NOISE / signal <= found.high)
    # 95 %, three standard errors of 400 draws to each side.
    assert 0.917 <= np.mean(covered) <= 0.983


def test_an_epoch_of_zeros_tells_nothing() -> None:
    """As where a hinge loss has nothing left to lower."""
    found = noise_scale(np.zeros(64), np.zeros(64))
    assert found is not None
    assert (found.low, found.high) == (0, math.inf)
    assert advise(found, batch_size=8, workers=2, examples_per_second=3.0).text


@pytest.mark.parametrize("bottom", [3.0, 0.5, -0.5, 0.0])
@pytest.mark.parametrize("top", [2.0, 0.3])
@pytest.mark.parametrize("covariance", [-0.2, 0.0, 0.2])
def test_the_interval_holds_the_ratios_that_are_compatible(top: float, bottom: float, covariance: float) -> None:
    spread = np.array([[0.25, covariance], [covariance, 0.25]])
    low, high = _ratio_interval(top, bottom, spread, 2.0)
    ratios = np.linspace(0, 100, 100_001)
    errors = np.sqrt(spread[0, 0] - 2 * ratios * covariance + ratios**2 * spread[1, 1])
    compatible = ratios[np.abs(top - ratios * bottom) <= 2 * errors]
    assert low == pytest.approx(compatible.min(), abs=2e-3)
    assert (high == pytest.approx(compatible.max(), abs=2e-3)) if compatible.max() < 100 else (high > 100)


def test_a_clear_signal_is_bounded_on_both_sides_and_none_at_all_on_one() -> None:
    clear = noise_scale(*_estimates(200, 4.0, seed=1))
    assert clear is not None
    assert 10 < clear.low < clear.value < clear.high < 20
    hidden = noise_scale(*_estimates(200, 0.0, seed=1))
    assert hidden is not None
    assert hidden.high == math.inf
    assert hidden.low > 50


def test_noise_that_is_not_there_gives_a_scale_of_zero() -> None:
    found = noise_scale(np.full(40, 2.0), np.zeros(40))
    assert found == NoiseScale(0.0, 0.0, 0.0, 40)


def test_neighbouring_steps_that_resemble_each_other_do_not_feign_certainty() -> None:
    """Each estimate five times over: the interval must not shrink with the number of rows."""
    signal, noise = _estimates(100, 4.0, seed=3)
    once, five = noise_scale(signal, noise), noise_scale(np.repeat(signal, 5), np.repeat(noise, 5))
    assert once is not None
    assert five is not None
    assert (five.high - five.low) == pytest.approx(once.high - once.low, rel=0.05)


def test_steps_that_cannot_be_told_are_left_out_and_few_tell_nothing() -> None:
    signal, noise = _estimates(30, 4.0, seed=2)
    expected = noise_scale(signal, noise)
    gaps = [np.insert(values, [0, 7, 7], np.nan) for values in (signal, noise)]
    assert noise_scale(*gaps) == expected
    assert noise_scale(signal[:9], noise[:9]) is None
    assert noise_scale(np.full(50, np.nan), np.full(50, np.nan)) is None


@pytest.mark.parametrize(("freedom", "quantile"), [(4, 2.776), (9, 2.262), (19, 2.093), (1000, 1.962)])
def test_students_quantile(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, rel=0.005)


def test_efficiency_is_that_of_pollux() -> None:
    assert efficiency(40, 40) == 0.5
    assert efficiency(40, 80, 8) == pytest.approx(48 / 120)
    assert efficiency(40, 8, 8) == 1
    assert efficiency(math.inf, 8) == 1
    assert efficiency(0, 8, 4) == 0.5


def _advised(value: float, low: float, high: float, **changed: Any) -> tuple[str, dict[str, float]]:
    options: dict[str, Any] = {"batch_size": 8, "workers": 2, "examples_per_second": 30.0}
    advice = advise(NoiseScale(value, low, high, 64), **{**options, **changed})
    assert "\n" not in advice.text
    assert all(map(math.isfinite, advice.values.values()))
    return advice.text, advice.values


def test_a_batch_below_the_noise_scale() -> None:
    text, values = _advised(40.0, 24.0, 72.0)
    assert "noise scale 40 (95 %: 24 to 72), batch 8 of 2 workers: 30 examples/s are worth 22.5 to 27;" in text
    assert "pay up to about 40, 10 workers of 4;" in text
    assert "twice both would be 1.6 to 1.82 times as fast at most" in text
    assert values["efficiency"] == pytest.approx(40 / 48)
    assert values["useful_examples_per_second"] == pytest.approx(30 * 40 / 48)
    assert values["gain_of_doubling"] == pytest.approx(2 * 48 / 56)
    assert values["gain_of_doubling_low"] == pytest.approx(1.6)


def test_a_batch_beyond_it() -> None:
    text, values = _advised(2.0, 1.0, 4.0)
    assert "larger batches hardly pay" in text
    assert values["useful_examples_per_second_high"] == pytest.approx(30 * 4 / 12)


def test_a_batch_within_the_interval_is_no_reason_for_anything() -> None:
    for low, high in ((2.0, 40.0), (2.0, math.inf), (0.0, math.inf)):
        text, _ = _advised(12.0, low, high)
        assert "64 steps do not tell whether larger batches pay" in text
    assert "1 to 2 times as fast" in text


def test_no_signal_over_the_noise_is_no_promise() -> None:
    text, values = _advised(math.inf, 200.0, math.inf, examples_per_second=None)
    assert "no signal seen over the noise (noise scale, 95 %: 200 to no bound)" in text
    assert "pay up to 200 at least" in text
    assert not {"noise_scale", "noise_scale_high", "examples_per_second"} & values.keys()
    text, _ = _advised(500.0, 200.0, math.inf)
    assert "500 (95 %: 200 to no bound)" in text


def test_it_says_that_it_is_no_law() -> None:
    assert "not a law" in _advised(40.0, 30.0, 60.0)[0]
