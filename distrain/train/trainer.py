"""The training loop: draw, step, record; validate and save when due; stop, fail and end together on all ranks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.checkpoint.retention import with_best
from distrain.checkpoint.saver import Saver
from distrain.checkpoint.store import Progress
from distrain.data.batches import Batches, LocalBatch
from distrain.data.order import Batch, mix_all
from distrain.errors import BadInput, Diverged, RunEnds, RunFailed, WorldChanged
from distrain.job.duration import Cursor
from distrain.job.schema import Job
from distrain.log.recorder import Recorder
from distrain.step.fingerprint import Fingerprint
from distrain.step.train_step import BAD, FAILED, FLAGS, RESIZE, SAVE, STOP, StepResult, TrainStep, measured_of
from distrain.train.schedule import Schedule
from distrain.train.standing import Done
from distrain.train.stop import StopRequest
from distrain.train.validation import Validated
from distrain.train.watch import Watch
from distrain.world.control import Control, agree, agreed
from distrain.world.elastic import Membership
from distrain.world.topology import World


@dataclass
class Trainer:
    """One rank's training; everything it does that involves other ranks, all ranks do in the same order.

    `validate` gives loss and metrics (collective), `draw` makes rank 0's picture of an epoch; `unsaved` is why rank 0
    could not write a checkpoint, where that ends the run. `complete`: it was taken up from the checkpoint of a finished
    run. In a world that may change there is a `membership`, `buffers` are the weights that a forward pass changes, and
    `done` the last step: what is due after it may not be done.
    """

    job: Job
    world: World
    control: Control
    schedule: Schedule
    progress: Progress
    batches: Batches
    step: TrainStep
    fingerprint: Fingerprint
    fingerprinted: list[str]
    saver: Saver
    recorder: Recorder
    stop: StopRequest
    watch: Watch
    membership: Membership | None
    buffers: list[tf.Variable]
    validate: Callable[[], Validated] | None
    draw: Callable[[int], None]
    unsaved: RunEnds | None = None
    complete: bool = False
    done: Done | None = None

    def train(self) -> bool:
        """Train on from `progress`. True once the run is finished, False where it was asked to stop before.

        The state is saved in both cases. Raises on all ranks alike: `BadInput` where examples cannot be read,
        `RunFailed` where files cannot be written or ranks differ, `Diverged`, `WorldChanged`.
        """
        self._clock = time.monotonic()
        self._seconds = 0.0
        self.verify()
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
            self.save(finished=True)
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
        if finished or self.ends_epoch(done.batch):
            self.end_epoch(done)
        if bad or not result.applied:
            self.refuse(done.after, bad)
        if self.progress.step // self.job.parallel.verify_every > before.step // self.job.parallel.verify_every:
            self.verify()
        stopping = finished or self.asked(result, STOP)
        if stopping:
            self.save(finished=finished)
        elif self.asked(result, SAVE) or self.save_due(before) or self.progress.best_step != before.best_step:
            self.begin_save()
        if self.asked(result, RESIZE) and not stopping and not again:
            raise WorldChanged
        return stopping

    def make_step(self, local: LocalBatch) -> Done:
        """One step of all ranks. Raises on all where one of them has failed."""
        buffers = [buffer.numpy() for buffer in self.buffers]
        try:
            result = self.step(local.images, local.labels, local.weights, self.random_key(), self.flags(local))
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
        limit = self.job.data.max_bad_examples
        if progress.epoch_bad > limit:
            self.save(finished=False)
            last = f"; the last: {bad[-1]}" if bad else ""
            raise BadInput(
                f"{progress.epoch_bad} examples of epoch {(progress.position - 1) // self.schedule.examples} could not "
                f"be read, 'data.max_bad_examples' is {limit}{last}",
                agreed=True,
            )
        if progress.skipped_in_row >= self.job.train.max_bad_steps:
            self.save(finished=False)
            raise Diverged(
                f"loss or gradients were not finite {progress.skipped_in_row} times in a row after step "
                f"{progress.step}, position {progress.position}; the last good state is saved",
                agreed=True,
            )

    def fail(self, local: LocalBatch) -> NoReturn:
        """Raise on all ranks what has befallen one; where only examples are bad, the state is saved before."""
        try:
            agree(self.control, local.error or self.recorder.failure or self.unsaved)
        except BadInput:
            self.save(finished=False)
            raise
        raise AssertionError("a rank raised FAILED without an error")

    def flags(self, local: LocalBatch) -> npt.NDArray[np.float32]:
        """What this rank has to tell the others: that it was asked to stop, that time to save has come, a failure."""
        self.note(self.saver.poll())
        flags = np.zeros(FLAGS, np.float32)
        flags[STOP] = self.stop.signal is not None
        flags[BAD] = len(local.bad)
        flags[FAILED] = any(error is not None for error in (local.error, self.recorder.failure, self.unsaved))
        now = time.monotonic() - self._clock
        every = self.job.checkpoint.every
        # One rank's clock decides for all.
        flags[SAVE] = (
            self.world.rank == 0
            and every.timed
            and every.due(Cursor(0, 0, self._seconds), Cursor(0, 0, now), epoch_examples=self.schedule.examples)
        )
        self._seconds = now
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

    def end_epoch(self, done: Done) -> None:
        """Record the epoch's mean loss where it is over, validate, draw."""
        progress, epoch = self.progress, self.epoch_of(done.batch)
        if self.ends_epoch(done.batch):
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

    def verify(self) -> None:
        """Prove that all ranks hold the same bits. Raises `RunFailed` on all ranks, naming who differs in what."""
        own, same = self.fingerprint()
        if same:
            return
        rows = self.control.gather([int(value) for value in own])
        differing = next(number for number in range(len(own)) if len({row[number] for row in rows}) > 1)
        groups: dict[int, list[int]] = {}
        for rank, row in enumerate(rows):
            groups.setdefault(row[differing], []).append(rank)
        ranks = " and ".join("rank " + ", ".join(map(str, members)) for members in groups.values())
        raise RunFailed(
            f"step {self.progress.step}: {ranks} differ in {self.fingerprinted[differing]}; the ranks no longer train "
            "the same model, so the run is ended",
            agreed=True,
        )

    def save_due(self, before: Progress) -> bool:
        """True where the steps or examples of `checkpoint.every` are full."""
        every, epoch_examples = self.job.checkpoint.every, self.schedule.examples
        start, end = self.cursor(before), self.cursor(self.progress)
        return not every.timed and every.due(start, end, epoch_examples=epoch_examples)

    def begin_save(self) -> None:
        """Have rank 0 copy the state and write a checkpoint of it while training goes on."""
        if self.world.rank == 0:
            # As in `save`: a run that goes on from it must find all rows up to it.
            self.recorder.flush()
            self.watch.doing("waiting for the checkpoint before", alone=True)
            self.note(self.saver.begin(self.progress, epoch=self.schedule.epoch(self.progress)))

    def note(self, error: RunEnds | None) -> None:
        """Take in why a checkpoint could not be written: by choice the run goes on, but never from a broken state."""
        if error is None:
            return
        if self.job.checkpoint.on_error == "continue" and isinstance(error, RunFailed):
            self.recorder.event("checkpoint_failed", *self.place(), reason=str(error))
            self.recorder.line(f"going on without a checkpoint: {error}")
        else:
            self.unsaved = error

    def save(self, *, finished: bool) -> None:
        """Have rank 0 write a checkpoint, and wait for it. Raises `RunFailed` or `Diverged` on all ranks alike."""

        def write() -> None:
            if self.world.rank == 0:
                # Before the checkpoint: a run that goes on from it must find all rows up to it.
                self.recorder.flush()
                self.saver.save(self.progress, epoch=self.schedule.epoch(self.progress), finished=finished)
            if self.recorder.failure is not None:
                # There may be no further step to tell the others by.
                raise self.recorder.failure

        self.watch.doing("saving a checkpoint", alone=self.world.rank == 0)
        agreed(self.control, write)


def advanced(progress: Progress, local: LocalBatch, result: StepResult, epoch_examples: int) -> Progress:
    """The progress after a step: a skipped one moves the position only, since its update was not made.

    Nor was it where no example of the batch could be read, which says nothing about the run's health. An epoch's sums
    begin anew with its first batch.
    """
    if local.batch.start % epoch_examples == 0:
        progress = replace(progress, epoch_loss=0.0, epoch_examples=0, epoch_bad=0)
    bad = int(result.flags[BAD])
    used = local.batch.size - bad
    progress = replace(progress, position=local.batch.stop, epoch_bad=progress.epoch_bad + bad)
    if not used:
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
