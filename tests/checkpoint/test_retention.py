"""Which checkpoints stay."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from distrain.checkpoint.retention import Retention, with_best
from distrain.checkpoint.store import Progress
from distrain.job.duration import Duration

EXAMPLES = 80


def kept(retention: Retention, *steps: int, best_step: int | None = None) -> list[int]:
    """What is on disk after checkpoints at `steps`, pruned after each; 8 examples a step."""
    disk: list[Progress] = []
    for step in steps:
        best = best_step if best_step in steps[: steps.index(step) + 1] else None
        disk.append(Progress(step=step, position=8 * step, best_step=best))
        retained = retention.retained(disk)
        disk = [progress for progress in disk if progress.step in retained]
    return [progress.step for progress in disk]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_the_newest(keep: int) -> None:
    assert kept(Retention(keep, None, EXAMPLES), *range(10, 60, 10)) == list(range(10, 60, 10))[-keep:]


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (Duration(30, "step"), [30, 60, 90, 100]),
        (Duration(2, "epoch"), [20, 40, 60, 80, 100]),
        (Duration(400, "example"), [50, 100]),
        (Duration(35, "step"), [40, 70, 100]),
    ],
)
def test_the_first_of_each_so_many_for_good(every: Duration, expected: list[int]) -> None:
    assert kept(Retention(1, every, EXAMPLES), *range(10, 110, 10)) == expected


def test_one_that_was_asked_for_in_between_stands_in_for_the_next() -> None:
    assert kept(Retention(1, Duration(30, "step"), EXAMPLES), 10, 31, 40, 60, 70) == [31, 60, 70]


def test_the_best() -> None:
    assert kept(Retention(1, None, EXAMPLES), 10, 20, 30, 40, best_step=20) == [20, 40]


@pytest.mark.parametrize(
    ("metric", "values", "steps"),
    [
        ("loss", [0.5, 0.4, 0.4, 0.6, 0.3], [1, 2, 2, 2, 5]),
        ("iou", [0.5, 0.4, 0.5, 0.6, 0.3], [1, 1, 1, 4, 4]),
        ("loss", [math.nan, 0.4, math.nan, -math.inf], [None, 2, 2, 4]),
        ("accuracy", [math.nan, 0.0], [None, 2]),
    ],
)
def test_which_is_the_best(metric: str, values: list[float], steps: list[int | None]) -> None:
    progress, seen = Progress(), []
    for step, value in enumerate(values, start=1):
        progress = with_best(replace(progress, step=step), metric, {metric: value})
        seen.append(progress.best_step)
    assert seen == steps


def test_no_metric_no_best() -> None:
    assert with_best(Progress(step=3), None, {"loss": 0.1}) == Progress(step=3)
