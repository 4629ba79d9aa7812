"""The training loop: draw, step, record; validate and save when due; stop, fail and end together on all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.checkpoint.retention import with_best
from distrain.checkpoint.store import Progress
from distrain.data.batches import Batches, LocalBatch
from distrain.data.order import Batch, mix_all
from distrain.errors import BadInput, Diverged, RunEnds, WorldChanged
from distrain.job.duration import Cursor
from distrain.job.schema import Job
from distrain.log.recorder import Recorder
from distrain.step.settlement import BAD, FAILED, FLAGS, RESIZE, SAVE, STOP, StepResult, measured_of
from distrain.step.train_step import TrainStep
from distrain.train.saving import Saving
from distrain.train.schedule import Schedule
from distrain.train.standing import Done
from distrain.train.stop import StopRequest
from distrain.train.validation import Validated
from distrain.train.watch import Watch
from distrain.world.control import Control, agree
from distrain.world.elastic import Membership
from distrain.world.topology import World


@dataclass
class Trainer:
    """One rank's training; everything it does that involves other ranks, all ranks do in the same order.

    `verify(step)` proves that the ranks are alike (collective, raises `RunFailed`), `validate` gives loss and metrics
    (collective), `draw` makes rank 0's picture of an epoch. `complete`: it was taken up from the checkpoint of a
    finished run. In a world that may change there is a `membership`, `buffers` are the weights that a forward pass
    changes, and `done` the last step: what is due after it may not be done.
    """

    job: Job
    world: World
    control: Control
    schedule: Schedule
    progress: Progress
    batches: Batches
    step: TrainStep
    verify: Callable[[int], None]
    saving: Saving
    recorder: Recorder
    stop: StopRequest
    watch: Watch
    membership: Membership | None
    buffers: list[tf.Variable]
    validate: Callable[[], Validated] | None
    draw: Callable[[int], None]
    complete: bool = False
    done: Done | None = None

    def train(self) -> bool:
        """Train on from `progress`. True once the run is finished, False where it was asked to stop before.

        The state is saved in both cases. Raises on all ranks alike: `BadInput` where examples cannot be read,
        `RunFailed` where files cannot be written or ranks differ, `Diverged`, `WorldChanged`.
        """
        self.verify(self.progress.step)
        stopping = self.nothing_left() if self.done is None else self.after(self.done, again=True)
        while not stopping:
            self.watch.doing("reading examples", alone=True)
            local = self.batches.next()
            self.watch.doing("a step")
            stopping = self.after(self.make_step(local))
        return self.schedule.finished(self.progress)

    def nothing_left(self) -> bool:
        """Whether a run that was started again has come to its end before. Raises where it must not end like that."""
        if not self.schedule.finished(self.progress):
            return False
        self.refuse(self.progress, [])
        if not self.complete:
            self.saving.save(self.progress, finished=True)
        return True

    def after(self, done: Done, *, again: bool = False) -> bool:
        """What is due after a step; True where the run ends with it.

        `again`: in a new world, whatever had become of it: a rank that is gone may not have come to its part. Until the
        next step is made no rank knows that all others have. Raises `WorldChanged` on all ranks where the launcher
        wants another one, and as `refuse` does.
        """
        before, result = done.before, done.result
        self.progress = done.after
        self.watch.doing("writing down a step", after=self.progress.step, alone=self.world.rank == 0)
        self.record(done)
        bad = self.report_bad(done) if self.asked(result, BAD) else []
        finished = self.schedule.finished(self.progress)
        over = self.ends_epoch(done.batch)
        if finished or over:
            self.end_epoch(done, over=over)
        if bad or not result.applied:
            self.refuse(done.after, bad)
        if self.progress.step // self.job.parallel.verify_every > before.step // self.job.parallel.verify_every:
            self.verify(self.progress.step)
        stopping = finished or self.asked(result, STOP)
        if stopping:
            self.saving.save(self.progress, finished=finished)
        elif self.asked(result, SAVE) or self.save_due(before):
            self.saving.begin(self.progress)
        if self.asked(result, RESIZE) and not stopping and not again:
            raise WorldChanged
        return stopping

    def make_step(self, local: LocalBatch) -> Done:
        """One step of all ranks. Raises on all where one of them has failed."""
        buffers = [buffer.numpy() for buffer in self.buffers]
        try:
            made = self.step(local.images, local.labels, local.weights, self.random_key(), self.flags(local))
            # Once for all that is read of it: on a GPU each look at a tensor waits for it.
            result = StepResult(*(np.asarray(value) for value in made))
        except Exception:
            # The forward pass has changed them already; all else waits for what all ranks give.
            for buffer, value in zip(self.buffers, buffers, strict=True):
                buffer.assign(value)
            raise
        if self.asked(result, FAILED):
            self.fail(local)
        before, self.progress = self.progress, advanced(self.progress, local, result, self.schedule.examples)
        self.done = Done(before, self.progress, local.batch, local.indices, self.batches.waited, result, local.bad)
        return self.done

    def report_bad(self, done: Done) -> list[str]:
        """Record the examples of a step that any rank skipped; returns why."""
        # After a change of the world these are other examples than were this rank's before.
        own = self.batches.read(done.batch).bad if done.bad is None else done.bad
        bad = [report for reports in self.control.gather([list(report) for report in own]) for report in reports]
        step, _, position = self.place()
        for index, reason in bad:
            where = step, self.epoch_of(done.batch), position
            self.recorder.event("bad_example", *where, data="train", index=index, reason=reason)
        return [reason for _, reason in bad]

    def refuse(self, progress: Progress, bad: list[str]) -> None:
        """Save and end a run that has lost too many examples, `bad` the last of them, or steps.

        Raises `BadInput` or `Diverged`, on all ranks alike.
        """
        ending = beyond_limits(self.job, progress, bad, epoch_examples=self.schedule.examples)
        if ending is not None:
            self.saving.save(self.progress, finished=False)
            raise ending

    def fail(self, local: LocalBatch) -> NoReturn:
        """Raise on all ranks what has befallen one; where only examples are bad, the state is saved before."""
        try:
            agree(self.control, local.error or self.recorder.failure or self.saving.failure)
        except BadInput:
            self.saving.save(self.progress, finished=False)
            raise
        raise AssertionError("a rank raised FAILED without an error")

    def flags(self, local: LocalBatch) -> npt.NDArray[np.float32]:
        """What this rank has to tell the others: that it was asked to stop, that time to save has come, a failure."""
        self.saving.poll(self.progress)
        flags = np.zeros(FLAGS, np.float32)
        flags[STOP] = self.stop.signal is not None
        flags[BAD] = len(local.bad)
        flags[FAILED] = any(error is not None for error in (local.error, self.recorder.failure, self.saving.failure))
        flags[SAVE] = self.saving.time_has_come()
        flags[RESIZE] = self.membership is not None and self.membership.changed
        return flags

    def asked(self, result: StepResult, flag: int) -> bool:
        """True on all ranks where any rank raised `flag`."""
        return bool(result.flags[flag] > 0)

    def random_key(self) -> npt.NDArray[np.uint32]:
        """The key [2] of this step's random draws, a function of (seed, step, rank)."""
        value = mix_all(self.job.seed, self.progress.step, self.world.rank)
        return np.array([value & 0xFFFFFFFF, value >> 32], np.uint32)

    def record(self, done: Done) -> None:
        """Write down what the step gave."""
        before, after = self.cursor(done.before), self.cursor(done.after)
        measured = measured_of(done.result) if self.world.rank == 0 else None
        self.recorder.step(before, after, done.batch, done.indices, done.result, done.waited, measured)

    def save_due(self, before: Progress) -> bool:
        """True where a checkpoint is due, or this is the best state so far."""
        best = self.progress.best_step != before.best_step
        return best or self.saving.due(self.cursor(before), self.cursor(self.progress))

    def cursor(self, progress: Progress) -> Cursor:
        """Where a run stands, for what is due: behind an epoch's dropped remainder the next one has begun."""
        return Cursor(progress.step, self.schedule.next_batch(progress).start)

    def place(self) -> tuple[int, int, int]:
        """Step, epoch and position that the run has come to."""
        return self.progress.step, self.schedule.epoch(self.progress), self.progress.position

    def ends_epoch(self, batch: Batch) -> bool:
        """True where the next batch belongs to another epoch."""
        return self.schedule.epoch(self.progress) > self.epoch_of(batch)

    def epoch_of(self, batch: Batch) -> int:
        return batch.start // self.schedule.examples

    def end_epoch(self, done: Done, *, over: bool) -> None:
        """Record the mean loss of the step's epoch where that is over, validate, draw."""
        progress, epoch = self.progress, self.epoch_of(done.batch)
        if over:
            mean = progress.epoch_loss / progress.epoch_examples if progress.epoch_examples else None
            self.recorder.epoch(progress.step, epoch, progress.position, mean)
            self.recorder.advise(
                progress.step,
                epoch,
                progress.position,
                batch_size=self.schedule.plan.batch_size,
                workers=self.world.size,
                epoch_steps=self.schedule.epoch_steps,
            )
        self.recorder.distributions(progress.step)
        if self.validate is not None:
            self.watch.doing("validation")
            validated = self.validate()
            for index, reason in validated.bad:
                place = progress.step, epoch, progress.position
                self.recorder.event("bad_example", *place, data="validation", index=index, reason=reason)
            self.recorder.validation(progress.step, epoch, progress.position, validated.values)
            self.progress = with_best(self.progress, self.job.checkpoint.best, validated.values)
            # Rank 0's alone: the others learn of a failure with the next step.
            with self.recorder.noting_failure():
                self.draw(epoch)


def beyond_limits(job: Job, progress: Progress, bad: list[str], *, epoch_examples: int) -> RunEnds | None:
    """What ends a run that has lost more examples or steps than it puts up with; `bad`: why the last ones were lost."""
    limit = job.data.max_bad_examples
    if progress.epoch_bad > limit:
        last = f"; the last: {bad[-1]}" if bad else ""
        return BadInput(
            f"{progress.epoch_bad} examples of epoch {(progress.position - 1) // epoch_examples} could not be read, "
            f"'data.max_bad_examples' is {limit}{last}",
            agreed=True,
        )
    if progress.skipped_in_row >= job.train.max_bad_steps:
        return Diverged(
            f"loss or gradients were not finite {progress.skipped_in_row} times in a row after step {progress.step}, "
            f"position {progress.position}; the last good state is saved",
            agreed=True,
        )
    return None


def advanced(progress: Progress, local: LocalBatch, result: StepResult, epoch_examples: int) -> Progress:
    """The progress after a step: a skipped one moves the position only, since its update was not made.

    Nor was it where no example of the batch could be read, or the loss scale was too high, neither of which says
    anything about the run's health. An epoch's sums begin anew with its first batch.
    """
    if local.batch.start % epoch_examples == 0:
        progress = replace(progress, epoch_loss=0.0, epoch_examples=0, epoch_bad=0)
    bad = int(result.flags[BAD])
    used = local.batch.size - bad
    progress = replace(progress, position=local.batch.stop, epoch_bad=progress.epoch_bad + bad)
    if not used or result.overflowed:
        return progress
    if not result.applied:
        return replace(progress, skipped=progress.skipped + 1, skipped_in_row=progress.skipped_in_row + 1)
    return replace(
        progress,
        step=progress.step + 1,
        skipped_in_row=0,
        epoch_loss=progress.epoch_loss + float(result.loss) * used,
        epoch_examples=progress.epoch_examples + used,
    )
