"""Whether a rank's share of the data is like the others': a paired test on what ranks saw; pure functions of values.

Which examples of a batch a rank gets is dealt at random, and the training does not depend on it: it sees the batch.
So the difference d between two ranks' mean losses at a step is as likely positive as negative, independently from step
to step, whatever the model and the batch. For t = sum(d) / sqrt(sum(d^2)) chance then gives |t| >= x with a probability
of at most 2 exp(-x^2 / 2) (Hoeffding 1963, the signs being fair coins): no normality and no steady noise needed. This
is exact for two ranks with equal shares, and close otherwise: the difference has mean zero then, too. A rank whose
labels are shuffled cannot lower its loss where the others do, and stands out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SURE = 1e-3  # how improbable chance must be for a rank to be named


@dataclass(frozen=True)
class Odd:
    """A rank that differs: in its `measure` ("loss" or "norm") by `ratio` to the others, over so many steps.

    `chance` bounds the probability that any rank of a sound run looks like that in either measure.
    """

    rank: int
    measure: str
    ratio: float
    steps: int
    chance: float

    @property
    def text(self) -> str:
        """One line for people."""
        odds = f"{1 / self.chance:.0e}" if self.chance > 1e-15 else "more than 1e+15"
        where = "data" if self.measure == "loss" else "data and device"
        return (
            f"rank {self.rank}: its {self.measure} is {self.ratio:.3g} times the others' over {self.steps} steps, "
            f"which chance does once in {odds} runs: look at its {where}"
        )


def odd_ranks(ranks: npt.NDArray[np.int64], losses: Floats, norms: Floats, examples: Floats) -> list[Odd]:
    """The ranks that stand out, the most striking first; losses before norms.

    Arrays are [steps, ranks], nan where a rank was not in a step. The most striking rank is set aside and the rest
    compared anew, since one odd rank makes the others differ from the mean as well. Of two that differ it is the one
    with the larger loss or norm.
    """
    found: list[Odd] = []
    trials = 2 * len(ranks)  # two measures, any rank
    left = list(range(len(ranks)))
    for measure, values in (("loss", losses), ("norm", norms)):
        while len(left) > 1:
            odd = _most_striking(ranks, values, examples, left, measure, trials)
            if odd is None:
                break
            found.append(odd)
            left.remove(int(np.flatnonzero(ranks == odd.rank)[0]))
    return found


def relative(values: Floats, examples: Floats, left: list[int], measure: str) -> Floats:
    """How far each of the ranks `left` is from the mean of the others, in units of the step's mean; [steps, left].

    All means are over examples. Zero where there is nothing to compare. The square norm of a gradient falls with the
    number of its examples: norms are compared at steps with equal shares only.
    """
    counts = np.where(np.isfinite(values[:, left]), examples[:, left], 0.0)
    shown = np.where(counts > 0, values[:, left], 0.0)
    if measure == "norm":
        largest = counts.max(axis=1, keepdims=True)
        counts = np.where(((counts == 0) | (counts == largest)).all(axis=1, keepdims=True), counts, 0.0)
    total, sums = counts.sum(axis=1, keepdims=True), (counts * shown).sum(axis=1, keepdims=True)
    scale = (counts * np.abs(shown)).sum(axis=1, keepdims=True)
    others = total - counts
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = (shown - (sums - counts * shown) / others) / (scale / total)
    return np.where((counts > 0) & (others > 0) & (scale > 0), differences, 0.0)


def _most_striking(
    ranks: npt.NDArray[np.int64], values: Floats, examples: Floats, left: list[int], measure: str, trials: int
) -> Odd | None:
    differences = relative(values, examples, left, measure)
    steps = (differences != 0).sum(axis=0)
    squares = np.sqrt((differences**2).sum(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = np.where(squares > 0, differences.sum(axis=0) / squares, 0.0)
        effects = np.where(steps > 0, differences.sum(axis=0) / steps, 0.0)
    chances = np.minimum(1.0, trials * 2 * np.exp(-(scores**2) / 2))
    candidates = chances < SURE
    if len(left) == 2:
        candidates &= effects > 0
    if not candidates.any():
        return None
    place = int(np.argmax(np.where(candidates, np.abs(effects), -1.0)))
    number = left[place]
    at = differences[:, place] != 0
    own, rest = values[at, number], values[at][:, [other for other in left if other != number]]
    ratio = float(np.mean(own) / np.mean(np.nanmean(rest, axis=1)))
    chance = max(float(chances[place]), math.ulp(0.0))
    return Odd(int(ranks[number]), measure, ratio, int(steps[place]), chance)
