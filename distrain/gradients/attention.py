"""Which variables need attention, by their measures over the newest steps; pure functions of values.

The rules are few, each with a bound that a healthy run keeps far from; docs/gradient-statistics.md says why these. A
finding is a reason to look, not a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

RECENT = 200  # measured steps that are looked at
BEFORE = 2000  # measured steps before those, with which norms are compared
FEWEST = 20  # measured steps that a comparison needs

EXPLODING = 10.0
MOVING_FAST = 0.1
HARDLY_MOVING = 1e-6
TURNING_BACK = -0.3
NO_SIGNAL = 0.01


@dataclass(frozen=True)
class Finding:
    """What is the matter with a variable: the rule's name, and the number that broke it in words."""

    rule: str
    text: str


# The gravest first.
RULES = ("dead", "exploding", "moving fast", "turning back", "hardly moving", "no signal")


def findings(recent: Mapping[str, Floats], norms_before: Floats) -> list[list[Finding]]:
    """For each variable what needs attention, the gravest first.

    `recent` holds measures over the newest steps, [n, variables] each; `norms_before` [k, variables] the norms of the
    steps before those. What counts is what is typical of a measure, so that one odd step is no finding.
    """
    middle = {name: typical_of(name, values) for name, values in recent.items()}
    earlier = typical(norms_before) if len(norms_before) >= FEWEST else np.full_like(middle["norm"], np.nan)
    found = []
    for number, norm in enumerate(middle["norm"]):
        own = {name: float(values[number]) for name, values in middle.items()}
        # An update ratio is infinite where the weights are still zero, as biases are at first: no finding.
        ratio, growth = own["update_ratio"], float(norm / earlier[number]) if earlier[number] > 0 else np.nan
        dead = not (recent["norm"][:, number] > 0).any()
        moves = not dead and np.isfinite(ratio)
        checks = (
            (dead, "no gradient at any of these steps"),
            (growth > EXPLODING, f"norm {growth:.2g} times that of before"),
            (moves and ratio > MOVING_FAST, f"a step changes it by {ratio:.2g} of its norm"),
            (own["alignment"] < TURNING_BACK, f"against its own mean, cosine {own['alignment']:.2f}"),
            (moves and ratio < HARDLY_MOVING, f"a step changes it by {ratio:.1e} of its norm"),
            (not dead and own["snr"] < NO_SIGNAL, f"signal {own['snr']:.1g} of the noise in a batch"),
        )
        found.append([Finding(rule, text) for rule, (broken, text) in zip(RULES, checks, strict=True) if broken])
    return found


def order(found: list[list[Finding]]) -> list[int]:
    """The variables' numbers, those with the gravest findings first, the others in the model's order."""

    def gravity(number: int) -> list[int]:
        return [*(RULES.index(one.rule) for one in found[number]), len(RULES)]

    return sorted(range(len(found)), key=gravity)


def typical_of(measure: str, values: Floats) -> Floats:
    """What is typical of a measure's values [n, ...]: the median, of the alignment the mean.

    The cosine of few dimensions is now near 1 and now near -1, of one dimension always: its median says nothing, while
    being bounded its mean cannot be carried off by one step.
    """
    if measure != "alignment":
        return typical(values)
    told = np.isfinite(values)
    counts = told.sum(axis=0)
    means: Floats = np.where(told, values, 0.0).sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.nan)


def typical(values: Floats) -> Floats:
    """The median over steps [n, ...] of those where it can be told; nan where it never can."""
    told = ~np.isnan(values).all(axis=0)
    result = np.full(values.shape[1:], np.nan)
    if told.any():
        result[told] = np.nanmedian(values[:, told], axis=0)
    return result
