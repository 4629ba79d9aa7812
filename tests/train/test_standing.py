"""From which rank a new world goes on, and what is still to be done about its step."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from distrain.checkpoint.store import Progress
from distrain.data.order import Batch
from distrain.step.settlement import StepResult
from distrain.train.standing import Done, described, foremost, taken_over

RESULT = StepResult(
    np.asarray(0.1, np.float32),
    np.asarray(True),
    np.asarray(False),
    np.asarray(32768.0, np.float32),
    np.asarray([0, 1, 0, 0, 0], np.float32),
    np.asarray(0.2),
    np.asarray([1 / 3, 2.0]),
    np.zeros([0, 2], np.float32),
    np.asarray(2.0, np.float32),
    np.asarray(8.0, np.float32),
    np.zeros([2, 3], np.float32),
    np.asarray(0),
)


def progress(step: int) -> Progress:
    return Progress(step=step, position=8 * step, epoch_loss=step / 3, best=0.1, best_step=1)


def done(step: int) -> Done:
    return Done(progress(step - 1), progress(step), Batch(8 * step - 8, 8), [1, 2], 0.5, RESULT)


def standing(step: int | None, *, unfinished: bool) -> dict[str, Any] | None:
    if step is None:
        return None
    value: dict[str, Any] = json.loads(json.dumps(described(progress(step), done(step) if unfinished else None)))
    return value


@pytest.mark.parametrize(
    ("ranks", "root"),
    [
        ([(None, False), (None, False)], None),
        ([(None, False), (4, False)], 1),
        ([(4, False), (4, False), (4, False)], 0),
        ([(4, False), (5, False), (4, True)], 1),
        ([(4, False), (4, True), (4, True)], 1),
        ([(3, True), (4, False), (None, False)], 1),
    ],
)
def test_the_furthest_with_something_left_to_do(ranks: list[tuple[int | None, bool]], root: int | None) -> None:
    assert foremost([standing(step, unfinished=unfinished) for step, unfinished in ranks]) == root


def test_it_is_taken_over_as_it_is() -> None:
    value = standing(5, unfinished=True)
    assert value is not None
    reached, over = taken_over(value, lambda batch: [batch.start])
    assert over is not None
    assert reached == over.after == progress(5)
    assert (over.before, over.batch, over.indices) == (progress(4), Batch(32, 8), [32])
    for name, array in RESULT._asdict().items():
        other = getattr(over.result, name)
        assert other.dtype == array.dtype
        assert np.array_equal(other, array), name


def test_nothing_left_to_do() -> None:
    value = standing(5, unfinished=False)
    assert value is not None
    assert taken_over(value, lambda batch: []) == (progress(5), None)


def test_what_counts_is_the_progress_right_after_the_step() -> None:
    """The end of an epoch has set its sums to 0 by the time that another rank's failure is noticed."""
    unfinished = described(Progress(step=5, position=40), done(5))
    assert Progress(**unfinished["progress"]) == progress(5)
