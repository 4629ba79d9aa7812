"""The course of a run: batches, epochs, ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distrain.checkpoint.store import Progress
from distrain.errors import BadInput
from distrain.job.schema import Train
from distrain.train.schedule import Schedule, make_schedule


def schedule(examples: int = 50, size: int = 1, **train: object) -> Schedule:
    return make_schedule(Train.model_validate(train), examples=examples, seed=7, size=size)


def course(run: Schedule) -> list[tuple[int, int, int]]:
    """(epoch, start, size) of each batch until the run is finished."""
    progress, batches = Progress(), []
    while not run.finished(progress):
        batch = run.next_batch(progress)
        batches.append((run.epoch(progress), batch.start, batch.size))
        progress = replace(progress, step=progress.step + 1, position=batch.stop)
    return batches


def test_the_last_batch_of_an_epoch_is_smaller() -> None:
    batches = course(schedule(batch_size=20, epochs=2))
    assert batches == [(0, 0, 20), (0, 20, 20), (0, 40, 10), (1, 50, 20), (1, 70, 20), (1, 90, 10)]


def test_or_is_left_out() -> None:
    run = schedule(batch_size=20, epochs=2, remainder="drop")
    assert course(run) == [(0, 0, 20), (0, 20, 20), (1, 50, 20), (1, 70, 20)]
    assert run.total_steps == 4


def test_steps_end_a_run_in_mid_epoch() -> None:
    assert len(course(schedule(batch_size=20, steps=4))) == 4


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_global_batch_does_not_depend_on_the_workers(size: int) -> None:
    assert schedule(size=size, batch_size=20, epochs=1).plan == schedule(batch_size=20, epochs=1).plan


def test_a_batch_per_worker_does() -> None:
    assert schedule(size=3, batch_size_per_worker=5, epochs=1).plan.batch_size == 15


def test_what_holds_where_nothing_is_said() -> None:
    run = schedule()
    assert (run.plan.batch_size, run.epochs, run.epoch_steps) == (8, 10, 7)


def test_a_skipped_step_moves_on_without_counting() -> None:
    run = schedule(batch_size=20, steps=3)
    progress = Progress(step=2, position=60, skipped=1)
    assert not run.finished(progress)
    assert run.next_batch(progress).start == 60


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    with pytest.raises(BadInput, match=r"'train.batch_size' is 3, expected .* 4 workers"):
        schedule(size=4, batch_size=3)


def test_a_batch_that_is_never_full_is_refused() -> None:
    with pytest.raises(BadInput, match="51, expected at most the 50 examples"):
        schedule(batch_size=51, remainder="drop")
    assert course(schedule(batch_size=51, epochs=1)) == [(0, 0, 50)]
