"""When a run is saved, and what becomes of it: rank 0 writes, and all ranks end or go on together."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from distrain.checkpoint.saver import Saver
from distrain.checkpoint.store import Progress
from distrain.errors import RunEnds, RunFailed
from distrain.job.duration import Cursor
from distrain.job.schema import Job
from distrain.log.recorder import Recorder
from distrain.train.schedule import Schedule
from distrain.train.watch import Watch
from distrain.world.control import Control, agreed

# A disk as slow as that is as good as none; where it is not, the user has to say so.
LIMIT = "it may take as long as parallel.stall_timeout says"


@dataclass
class Saving:
    """One rank's part in saving the run. `failure` is why rank 0 could not, where that ends the run."""

    job: Job
    rank: int
    control: Control
    schedule: Schedule
    saver: Saver
    recorder: Recorder
    watch: Watch
    failure: RunEnds | None = None
    _began: float = field(default_factory=time.monotonic)
    _asked: float = 0.0

    def due(self, before: Cursor, after: Cursor) -> bool:
        """True where the steps, epochs or examples of `checkpoint.every` are full."""
        every = self.job.checkpoint.every
        return not every.timed and every.due(before, after, epoch_examples=self.schedule.examples)

    def time_has_come(self) -> bool:
        """True on rank 0, whose clock decides for all, where the minutes of `checkpoint.every` are over."""
        now, every = time.monotonic() - self._began, self.job.checkpoint.every
        before, self._asked = self._asked, now
        clocked = Cursor(0, 0, before), Cursor(0, 0, now)
        return self.rank == 0 and every.timed and every.due(*clocked, epoch_examples=self.schedule.examples)

    def begin(self, progress: Progress) -> None:
        """Have rank 0 copy the state and write a checkpoint of it while training goes on."""
        if self.rank == 0:
            self.watch.doing(f"waiting for the checkpoint before ({LIMIT})", alone=True)
            flush = self.recorder.flushing()

            def first() -> None:
                # As in `save`: a run that goes on from it must find all rows up to it.
                flush()
                if self.recorder.failure is not None:
                    raise self.recorder.failure

            self.note(self.saver.begin(progress, epoch=self.schedule.epoch(progress), first=first), progress)

    def poll(self, progress: Progress) -> None:
        """Take in what has become of the checkpoint that was begun last, where that is known."""
        self.note(self.saver.poll(), progress)

    def note(self, error: RunEnds | None, progress: Progress) -> None:
        """Take in why a checkpoint could not be written: by choice the run goes on, but never from a broken state."""
        if error is None:
            return
        if self.job.checkpoint.on_error == "continue" and isinstance(error, RunFailed):
            place = progress.step, self.schedule.epoch(progress), progress.position
            self.recorder.event("checkpoint_failed", *place, reason=str(error))
            self.recorder.line(f"going on without a checkpoint: {error}")
        else:
            self.failure = error

    def save(self, progress: Progress, *, finished: bool) -> None:
        """Have rank 0 write a checkpoint, and wait for it. Raises `RunFailed` or `Diverged` on all ranks alike."""

        def write() -> None:
            if self.rank == 0:
                # Before the checkpoint: a run that goes on from it must find all rows up to it.
                self.recorder.flush()
                self.saver.save(progress, epoch=self.schedule.epoch(progress), finished=finished)
            if self.recorder.failure is not None:
                # There may be no further step to tell the others by.
                raise self.recorder.failure

        self.watch.doing(f"saving a checkpoint ({LIMIT})", alone=self.rank == 0)
        agreed(self.control, write)
