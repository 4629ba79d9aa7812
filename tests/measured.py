"""Made-up statistics of gradients, as a run would measure them; no TensorFlow here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distrain.gradients.measures import Moments, RankMoments, measures
from distrain.job.load import resolved
from distrain.log.folder import RunFolder, claim, write_job
from distrain.log.gradient_table import GradientTable
from tests.support import make_job

NAMES = ("down/kernel", "down/bias", "up/kernel")


def moments(step: int = 1, *, groups: int = 2, **changed: Any) -> Moments:
    """Those of 3 variables, all different, and different at each step."""
    values: dict[str, Any] = {
        "norm_squares": np.array([4.0, 1.0, 9.0]) + 0.01 * step,
        "mean_squares": np.array([1.0, 0.25, 4.0]),
        "previous_squares": np.array([1.0, 0.25, 4.0]),
        "products": np.array([1.0, -0.1, 3.0]),
        "typical_squares": np.array([4.0, 1.0, 9.0]),
        "local_squares": np.array([6.0, 3.0, 10.0]) + 0.02 * step,
        "weight_squares": np.array([1.0, 0.01, 100.0]),
        "update_squares": np.array([1e-6, 1e-6, 1e-4]),
        "signal": np.array([2.0, 1.0, 8.0]),
        "noise": np.array([16.0, 0.5, 8.0]),
        "groups": groups,
        "examples": 8,
    }
    return Moments(**{**values, **changed})


def ranks(step: int = 1, losses: tuple[float, ...] = (0.5, 0.625)) -> RankMoments:
    """Those of ranks with these losses, plus something small that is now one rank's and now the other's.

    A single one tells nothing, as in a world of 1.
    """
    count = len(losses)
    if count == 1:
        return RankMoments(np.arange(0), np.empty(0), np.empty(0), np.arange(0))
    small = 0.01 * np.random.default_rng(step).normal(size=count)
    return RankMoments(
        np.arange(count), np.array(losses) + small, np.array(losses) + 1 + small, np.full(count, 8 // count)
    )


def fill(table: GradientTable, first: int, last: int, *, epoch_steps: int = 10) -> None:
    """Write the steps `first` to `last`, without closing."""
    for step in range(first, last + 1):
        table.write(step, (step - 1) // epoch_steps, measures(moments(step)), ranks(step))


def make_run(path: Path) -> RunFolder:
    """A folder as a run makes it at its start."""
    claim(path).close()
    write_job(RunFolder(path), resolved(make_job()), {"distrain": "0"})
    return RunFolder(path)
