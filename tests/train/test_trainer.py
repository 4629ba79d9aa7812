"""What a step makes of a run's progress, and what a run does not put up with: functions of values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from distrain.checkpoint.store import Progress
from distrain.data.batches import LocalBatch
from distrain.data.order import Batch
from distrain.errors import BadInput, Diverged
from distrain.step.settlement import BAD, FLAGS, StepResult
from distrain.train.trainer import advanced, beyond_limits
from tests.support import make_job

NOTHING = tf.zeros([0])


def _after(
    progress: Progress,
    start: int,
    stop: int,
    *,
    loss: float = 2.0,
    applied: bool = True,
    overflowed: bool = False,
    bad: int = 0,
) -> Progress:
    flags = np.zeros(FLAGS)
    flags[BAD] = bad
    floats, whole = np.zeros(0, np.float32), np.zeros(0, np.int32)
    batch = LocalBatch(Batch(start, stop - start), [], floats, whole, floats)
    numbers: dict[str, Any] = dict.fromkeys(StepResult._fields, NOTHING)
    told = {"loss": tf.constant(loss), "applied": tf.constant(applied), "overflowed": tf.constant(overflowed)}
    result = StepResult(**{**numbers, **told, "flags": flags})
    return advanced(progress, batch, result, 10)


def test_an_epochs_sums_begin_anew_with_its_first_batch() -> None:
    progress = _after(Progress(), 0, 6)
    progress = _after(progress, 6, 10, loss=1.0, bad=1)
    assert (progress.step, progress.position) == (2, 10)
    assert (progress.epoch_loss, progress.epoch_examples, progress.epoch_bad) == (15.0, 9, 1)
    progress = _after(progress, 10, 16, loss=3.0)
    assert (progress.epoch_loss, progress.epoch_examples, progress.epoch_bad) == (18.0, 6, 0)


def test_a_skipped_step_moves_the_position_alone() -> None:
    progress = _after(_after(Progress(), 0, 6), 6, 10, applied=False)
    assert (progress.step, progress.position, progress.skipped, progress.skipped_in_row) == (1, 10, 1, 1)
    assert (progress.epoch_loss, progress.epoch_examples) == (12.0, 6)
    assert _after(progress, 10, 16).skipped_in_row == 0


def test_a_loss_scale_that_was_too_high_is_no_sign_of_divergence() -> None:
    progress = _after(_after(Progress(), 0, 3), 3, 6, applied=False)
    progress = _after(progress, 6, 10, loss=float("inf"), applied=False, overflowed=True)
    assert (progress.step, progress.position, progress.skipped, progress.skipped_in_row) == (1, 10, 1, 1)
    assert (progress.epoch_loss, progress.epoch_examples) == (6.0, 3)


def test_a_batch_that_could_not_be_read_is_no_sign_of_divergence() -> None:
    progress = _after(Progress(), 0, 6, applied=False, bad=6)
    assert (progress.step, progress.position, progress.skipped, progress.epoch_bad) == (0, 6, 0, 6)


@pytest.mark.parametrize(
    ("progress", "kind", "words"),
    [
        (Progress(epoch_bad=2), None, ""),
        (
            Progress(epoch_bad=3, position=30),
            BadInput,
            "3 examples of epoch 2 could not be read.* is 2; the last: torn",
        ),
        (Progress(skipped_in_row=3), None, ""),
        (Progress(step=7, position=30, skipped_in_row=4), Diverged, "4 times in a row after step 7, position 30"),
    ],
)
def test_what_a_run_does_not_put_up_with(progress: Progress, kind: type[Exception] | None, words: str) -> None:
    job = make_job(data={"train": {"provider": "circles"}, "max_bad_examples": 2}, train={"max_bad_steps": 4})
    ending = beyond_limits(job, progress, ["worn", "torn"], epoch_examples=10)
    if kind is None:
        assert ending is None
    else:
        with pytest.raises(kind, match=words):
            raise ending or AssertionError
