"""What an epoch's signal and noise say about the batch size and the number of workers; pure functions of values.

The noise scale S/G2 (McCandlish et al. 2018) is the batch size at which half of what an example could give is lost to
averaging what the batch already knew: one step of B examples makes the progress of `B * phi / (phi + B)` examples
taken in tiny steps. That share, and its ratio between two batch sizes, `(phi + B0) / (phi + B)`, is the statistical
efficiency by which Pollux (Qiao et al. 2021) weighs throughput. It holds for plain gradient descent with a learning
rate that fits the batch size, and says nothing of how well a model generalises: a trend to watch, not a law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BLOCKS = 20
FEWEST_BLOCKS = 5
CONFIDENCE = 0.95
CAUTION = "a trend, not a law"
ONE_GROUP = "noise scale: cannot be told from one group of examples a step; take two workers, or train.accumulate: 2"


@dataclass(frozen=True)
class NoiseScale:
    """The ratio of mean noise to mean signal, in examples, and its 95 % interval; infinity: no signal was seen."""

    value: float
    low: float
    high: float
    steps: int


@dataclass(frozen=True)
class Advice:
    """One line for people, and its numbers for programs (finite ones only)."""

    text: str
    values: dict[str, float]


def noise_scale(signal: Floats, noise: Floats) -> NoiseScale | None:
    """The noise scale of the steps with estimates `signal` and `noise`, [n], unsmoothed; None where n is too small.

    The interval is Fieller's (1954) for the ratio of two means, which stays right where the signal is hardly above
    zero and the ratio's own distribution has no mean. Blocks of consecutive steps, not steps, count as independent:
    neighbours resemble each other, and what drifts in the course of the epoch shows as spread.
    """
    told = np.isfinite(signal) & np.isfinite(noise)
    signal, noise = signal[told], noise[told]
    count = min(BLOCKS, len(signal) // 2)
    if count < FEWEST_BLOCKS:
        return None
    # Equal blocks; what is left over at the beginning, where most changes, is left out of the spread alone.
    length = len(signal) // count
    blocks = np.stack([values[-count * length :].reshape(count, length).mean(axis=1) for values in (noise, signal)])
    top, bottom = float(noise.mean()), float(signal.mean())
    spread = np.cov(blocks) / count
    low, high = _ratio_interval(top, bottom, spread, student(count - 1))
    value = max(top, 0.0) / bottom if bottom > 0 else math.inf
    return NoiseScale(value, low, high, len(signal))


def _ratio_interval(top: float, bottom: float, spread: Floats, quantile: float) -> tuple[float, float]:
    """All ratios r >= 0 for which `top - r * bottom` is within `quantile` standard errors of 0; the hull of them.

    `spread` [2, 2] is the covariance of (top, bottom). The bounds solve a r^2 - 2 b r + c = 0.
    """
    square = quantile**2
    a = bottom**2 - square * spread[1, 1]
    b = top * bottom - square * spread[0, 1]
    c = top**2 - square * spread[0, 0]
    inner = b**2 - a * c
    if inner < 0:
        return 0.0, math.inf
    if a == b == c == 0:
        return 0.0, math.inf  # nothing was measured but zeros
    # Not (b - root)/a, which is a difference of like numbers where a is small.
    stable = b + math.copysign(math.sqrt(inner), b)
    roots = sorted(root for root in (_over(stable, a), _over(c, stable)) if not math.isnan(root))
    if a > 0:
        return max(0.0, roots[0]), max(0.0, roots[-1])
    # The signal is not above its own error: no upper bound. Ratios up to the lower root, where not negative, count too.
    return (0.0 if roots[0] >= 0 else max(0.0, roots[-1])), math.inf


def _over(top: float, bottom: float) -> float:
    return top / bottom if bottom else math.nan


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The two-sided quantile of Student's t, by the expansion of Abramowitz and Stegun 26.7.5; good to 0.5 % from 4."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def efficiency(scale: float, batch_size: float, reference: float = 0.0) -> float:
    """What an example is worth in steps of `batch_size`, against steps of `reference` (0: as small as can be)."""
    return 1.0 if math.isinf(scale) or scale + batch_size == 0 else (scale + reference) / (scale + batch_size)


def advise(scale: NoiseScale, *, batch_size: int, workers: int, examples_per_second: float | None) -> Advice:
    """What to say of a noise scale in a run of so many workers, at a measured speed.

    `useful_examples_per_second` is that speed times what an example is worth in steps of this size, by which runs
    with other batch sizes compare; `gain_of_doubling` how many times as fast twice the workers with twice the batch
    would be if they took no longer over a step. Each has the bounds that follow from those of the noise scale.
    """
    scales = {"": scale.value, "_low": scale.low, "_high": scale.high}
    share = {end: efficiency(value, batch_size) for end, value in scales.items()}
    gain = {end: 2 * efficiency(value, 2 * batch_size, batch_size) for end, value in scales.items()}
    values: dict[str, float] = {f"noise_scale{end}": value for end, value in scales.items()}
    values |= {"batch_size": batch_size, "workers": workers}
    values |= {f"efficiency{end}": value for end, value in share.items()}
    values |= {f"gain_of_doubling{end}": value for end, value in gain.items()}
    speed = ""
    if examples_per_second is not None:
        useful = {end: examples_per_second * value for end, value in share.items()}
        values["examples_per_second"] = examples_per_second
        values |= {f"useful_examples_per_second{end}": value for end, value in useful.items()}
        speed = f" {examples_per_second:.3g} examples/s are worth {_range(useful['_low'], useful['_high'])};"
    text = (
        f"{_said(scale)}, batch {batch_size} of {workers} worker{'s' if workers > 1 else ''}:{speed} "
        f"{_pays(scale, batch_size, workers)}; twice both would be {_range(gain['_low'], gain['_high'])} times as fast "
        f"at most ({CAUTION})"
    )
    return Advice(text, {name: value for name, value in values.items() if math.isfinite(value)})


def _said(scale: NoiseScale) -> str:
    bounds = f"95 %: {_number(scale.low)} to {'no bound' if math.isinf(scale.high) else _number(scale.high)}"
    if math.isinf(scale.value):
        return f"no signal seen over the noise (noise scale, {bounds})"
    return f"noise scale {_number(scale.value)} ({bounds})"


def _pays(scale: NoiseScale, batch_size: int, workers: int) -> str:
    """Whether more examples a step pay; nothing where the interval does not tell."""
    if scale.high < batch_size:
        return "larger batches hardly pay"
    if scale.low < batch_size:
        return f"{scale.steps} steps do not tell whether larger batches pay"
    if math.isinf(scale.high):
        return f"larger batches pay up to {_number(scale.low)} at least"
    most = scale.value * workers / batch_size
    return (
        f"larger batches pay up to about {_number(scale.value)}, {_number(most)} workers of {batch_size / workers:.3g}"
    )


def _range(low: float, high: float) -> str:
    ends = f"{low:.3g}", f"{high:.3g}"
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{float(f'{value:.2g}'):,.0f}"
