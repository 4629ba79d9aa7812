"""What the moments of a step say: norms, coherence, alignment, signal and noise; pure functions of values.

Signal and noise are those of McCandlish et al., "An Empirical Model of Large-Batch Training" (2018), appendix A, in a
form for groups of unequal size: with m groups of n_j examples, T in all, group gradients g_j and the gradient g over
all of them, let A = sum(n_j |g_j|^2) / T and M = |g|^2. From E|g_j|^2 = G2 + S/n_j follow the unbiased estimates
S = T (A - M) / (m - 1) of the trace of the covariance of one example's gradient, and G2 = M - S/T of the squared
norm of the true gradient. A group is one worker's share of the batch, or a part of it where gradients accumulate.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Of each variable, and of all together.
MEASURES = (
    "norm",
    "mean_norm",
    "update_ratio",
    "coherence",
    "alignment",
    "agreement",
    "signal",
    "noise",
    "noise_scale",
    "snr",
)


@dataclass(frozen=True)
class Moments:
    """What one step measured, per variable ([variables], float64), equal on every rank.

    `norm_squares` |g_n|^2; `mean_squares` |m_n|^2 and `previous_squares` |m_(n-1)|^2 of the running mean; `products`
    g_n . m_(n-1); `typical_squares` the mean of |g_i|^2 over the steps that the running mean is over;
    `local_squares` A, the mean over examples of the squared norm of their group's gradient; `weight_squares` and
    `update_squares` |w|^2 and |dw|^2 after the update; `signal` and `noise` the smoothed G2 and S (nan before the
    first). `groups` m and `examples` T of this step.
    """

    norm_squares: Floats
    mean_squares: Floats
    previous_squares: Floats
    products: Floats
    typical_squares: Floats
    local_squares: Floats
    weight_squares: Floats
    update_squares: Floats
    signal: Floats
    noise: Floats
    groups: int
    examples: int


# Its arrays, in their order.
ROWS = tuple(field.name for field in fields(Moments))[:-2]


@dataclass(frozen=True)
class RankMoments:
    """What each rank saw of one step: its number, its examples' mean loss, and the norm of their own gradient.

    The norm is the root of the mean of |g_j|^2 over the rank's groups. A rank without examples in the step is absent;
    with more than 64 ranks they take turns.
    """

    ranks: npt.NDArray[np.int64]
    losses: Floats
    norms: Floats
    examples: npt.NDArray[np.int64]


def signal_and_noise(norm_squares: Any, local_squares: Any, groups: Any, examples: Any) -> tuple[Any, Any]:
    """The unbiased estimates (G2, S) of one step from M, A, m > 1 and T; numbers, arrays or tensors alike."""
    noise = examples * (local_squares - norm_squares) / (groups - 1)
    return norm_squares - noise / examples, noise


def measures(moments: Moments) -> dict[str, Floats]:
    """Each of `MEASURES` as [variables + 1]: last comes the value over all variables. nan: cannot be told.

    `signal` and `noise` are those of this step alone and may be negative; `noise_scale` (examples) and `snr` are
    ratios of the smoothed ones, the noise scale infinite where no signal has been seen above the noise.
    """
    # Few numbers, each step: what counts is how many operations there are, not what they compute.
    rows = np.concatenate([getattr(moments, name) for name in ROWS]).reshape(len(ROWS), -1)
    whole = np.concatenate([rows, rows.sum(axis=1, keepdims=True)], axis=1)
    norm, mean, previous, product, typical, local, weight, update, _, _ = whole
    unknown = np.full_like(norm, np.nan)
    signal, noise, agreement = unknown, unknown, unknown
    with np.errstate(divide="ignore", invalid="ignore"):
        if moments.groups > 1:
            signal, noise = signal_and_noise(norm, local, moments.groups, moments.examples)
            agreement = norm / local
        # Estimates may be below zero where there is little of either; what they estimate may not.
        positive_signal, positive_noise = np.maximum(whole[-2:], 0.0)
        norms, mean_norms = np.sqrt(whole[:2])
        return {
            "norm": norms,
            "mean_norm": mean_norms,
            "update_ratio": np.sqrt(update / weight),
            "coherence": mean / typical,
            "alignment": product / np.sqrt(norm * previous),
            "agreement": agreement,
            "signal": signal,
            "noise": noise,
            "noise_scale": positive_noise / positive_signal,
            "snr": positive_signal / (positive_noise / moments.examples),
        }
