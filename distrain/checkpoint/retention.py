"""Which checkpoints stay: a pure function of how far each had come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from distrain.checkpoint.store import Progress
from distrain.job.duration import Cursor, Duration


@dataclass(frozen=True)
class Retention:
    """Keep the newest `keep`, the first at or after each multiple of `every`, and the best that the newest knows of."""

    keep: int
    every: Duration | None
    epoch_examples: int

    def retained(self, saved: list[Progress]) -> set[int]:
        """The steps to keep of those saved, which are given oldest first."""
        kept = {progress.step for progress in saved[-self.keep :]}
        if saved and saved[-1].best_step is not None:
            kept.add(saved[-1].best_step)
        if self.every is not None:
            kept |= {
                after.step
                for before, after in pairwise([Progress(), *saved])
                if self.every.due(_cursor(before), _cursor(after), epoch_examples=self.epoch_examples)
            }
        return kept


def _cursor(progress: Progress) -> Cursor:
    return Cursor(progress.step, progress.position)


# Validation metrics of which more is better.
RISING = ("dice", "iou", "accuracy")


def with_best(progress: Progress, metric: str | None, values: Mapping[str, float]) -> Progress:
    """The progress with this step as its best, where `values` of a validation say so; a NaN is never the best."""
    if metric is None:
        return progress
    value = values[metric]
    best = progress.best if progress.best is not None else -math.inf if metric in RISING else math.inf
    better = value > best if metric in RISING else value < best
    return replace(progress, best=value, best_step=progress.step) if better else progress
