"""What is written down while a run goes on: rank 0 the run's log, every rank the examples that it drew.

No communication here. A file that cannot be written does not raise on one rank alone: `failure` says what happened,
and the loop lets all ranks know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from distrain.data.order import Batch
from distrain.errors import BadInput, RunEnds, RunFailed
from distrain.gradients.advice import ONE_GROUP, advise, noise_scale
from distrain.gradients.measures import MEASURES, Floats, Moments, RankMoments, measures
from distrain.job.duration import Cursor
from distrain.job.schema import Log
from distrain.log.display import Display
from distrain.log.folder import RunFolder
from distrain.log.gradient_table import GradientTable
from distrain.log.live import Live
from distrain.log.records import IN_STEPS, RecordLog
from distrain.log.tensorboard import SECONDS, EventLog
from distrain.log.tracking import Tracking
from distrain.step.settlement import BAD, StepResult


class Recorder:
    """One rank's writers. On ranks other than 0 all but `examples` does nothing.

    `gradients` is where the gradients' statistics go, on rank 0 of a run that takes them; `live` is told what is
    recorded, and what `tracking` has to say is shown. TensorBoard's events are on disk after `flush_seconds`.
    """

    def __init__(
        self,
        folder: RunFolder,
        options: Log,
        *,
        rank: int,
        epoch_examples: int,
        display: Display | None,
        gradients: GradientTable | None = None,
        live: Live | None = None,
        tracking: Tracking | None = None,
        flush_seconds: float = SECONDS,
    ):
        self.failure: RunEnds | None = None
        self._options = options
        self._epoch_examples = epoch_examples
        self._display = display
        self._live = live
        self._tracking = tracking
        self._writes = rank == 0
        self._metrics: RecordLog | None = None
        self._events: EventLog | None = None
        self._examples: RecordLog | None = None
        with self.noting_failure():
            if self._writes:
                self._metrics = RecordLog(folder.metrics)
            if self._writes and options.tensorboard:
                self._events = EventLog(folder.events, flush_seconds=flush_seconds)
            if options.examples:
                self._examples = RecordLog(folder.examples(rank))
        self._gradients = gradients
        self._measured: dict[str, Floats] = {}
        self._groups = 0
        self._told_of_one_group = False
        self._pace = Pace()
        self._started = self._last_time = time.monotonic()
        self._applied_since = 0

    def step(
        self,
        before: Cursor,
        after: Cursor,
        batch: Batch,
        indices: Sequence[int],
        result: StepResult,
        waited: float,
        measured: tuple[Moments, RankMoments] | None = None,
    ) -> None:
        """Record one step: `before` and `after` it stood at these cursors; it waited for data for so many seconds.

        `measured` is there at steps of which the gradients' statistics are due.
        """
        with self.noting_failure():
            if self._examples is not None and indices:
                self._examples.write(step=before.step + 1, indices=list(indices), position=batch.stop)
            if self._metrics is None:
                return
            self._attend(waited)
            epoch = batch.start // self._epoch_examples
            if not result.applied:
                self._left_out(after.step, epoch, batch, result)
                return
            loss = float(result.loss)
            if self._display is not None:
                self._display.step(after.step, epoch, loss)
            self._applied_since += batch.size
            now = time.monotonic()
            self._pace.step(now, batch.size)
            over_all = self._measure(after.step, epoch, measured)
            clocked = Cursor(after.step, after.position, now - self._started)
            previous = Cursor(before.step, before.position, self._last_time - self._started)
            if not self._options.every.due(previous, clocked, epoch_examples=self._epoch_examples):
                return
            values = {
                "loss": loss,
                "learning_rate": float(result.learning_rate),
                "examples_per_second": self._applied_since / max(now - self._last_time, 1e-9),
                "data_wait_seconds": waited,
                "gradient_norm": _norm(np.asarray(result.gradient_squares)),
            }
            if result.loss_scale > 0:
                values["loss_scale"] = float(result.loss_scale)
            if "mean_norm" in over_all:
                values["mean_norm"] = over_all["mean_norm"]
            values |= {name: over_all[name] for name in IN_STEPS if name in over_all}
            self._last_time, self._applied_since = now, 0
            self._write("step", step=after.step, epoch=epoch, position=batch.stop, **values)
            if self._events is not None:
                shown = {f"train/{name}": values[name] for name in values if name not in IN_STEPS}
                shown |= {f"gradients/all/{name}": value for name, value in over_all.items()}
                self._events.scalars(after.step, shown)

    def distributions(self, step: int) -> None:
        """Write how the newest measures are distributed over the variables."""
        if self._events is None:
            return
        with self.noting_failure():
            for name, values in self._measured.items():
                told = values[:-1][np.isfinite(values[:-1])]
                if len(told):
                    self._events.histogram(step, f"gradients/variables/{name}", told)

    def epoch(self, step: int, epoch: int, position: int, loss: float | None) -> None:
        """Record the end of an epoch with the mean loss over its examples (none where all its steps were skipped)."""
        self._summary("epoch", step, epoch, position, {} if loss is None else {"loss": loss})

    def advise(self, step: int, epoch: int, position: int, *, batch_size: int, workers: int, epoch_steps: int) -> None:
        """Say, and record, what the signal and noise of the epoch that has ended say about batch size and workers."""
        examples_per_second = self._pace.examples_per_second()
        self._pace = Pace()
        if self._gradients is None or not self._measured:
            return
        with self.noting_failure():
            scale = noise_scale(*self._gradients.estimates(epoch, epoch_steps))
            if scale is not None:
                advice = advise(scale, batch_size=batch_size, workers=workers, examples_per_second=examples_per_second)
                self.event("advice", step, epoch, position, text=advice.text, **advice.values)
                self.line(f"epoch {epoch}: {advice.text}")
            elif self._groups == 1 and not self._told_of_one_group:
                self._told_of_one_group = True
                self.line(f"epoch {epoch}: {ONE_GROUP}")

    def validation(self, step: int, epoch: int, position: int, values: Mapping[str, float]) -> None:
        """Record what validation gave."""
        self._summary("validation", step, epoch, position, values)

    def event(self, event: str, step: int, epoch: int, position: int, **details: Any) -> None:
        """Record something that happened to the run."""
        if self._metrics is not None:
            with self.noting_failure():
                self._write("event", event=event, step=step, epoch=epoch, position=position, **details)

    def line(self, text: str) -> None:
        """Show a line to whoever watches."""
        if self._display is not None:
            self._display.line(text)

    def flush(self) -> None:
        """Have on disk what a run that goes on from here needs to find."""
        self.flushing()()

    def flushing(self) -> Callable[[], None]:
        """As `flush`, but what waits for the disk is left to be called, by another thread too, while steps go on."""
        if self._events is not None:
            with self.noting_failure():
                self._events.flush()

        def rows() -> None:
            if self._gradients is not None:
                with self.noting_failure():
                    self._gradients.flush()

        return rows

    def close(self) -> None:
        """Write out what is buffered and close all files."""
        for writer in (self._metrics, self._examples, self._events, self._gradients, self._display):
            if writer is not None:
                with self.noting_failure():
                    writer.close()

    def _attend(self, waited: float) -> None:
        """Let those who watch know that a step was made, and show what they have to say."""
        if self._live is not None:
            self._live.stepped(waited)
        if self._tracking is not None:
            for text in self._tracking.heard():
                self.line(text)

    def _write(self, kind: str, **fields: Any) -> None:
        assert self._metrics is not None
        self._metrics.write_timed(kind, **fields)
        if self._live is not None:
            self._live.record(kind, fields)

    def _left_out(self, step: int, epoch: int, batch: Batch, result: StepResult) -> None:
        if result.overflowed:
            self.event("overflow", step, epoch, batch.stop, loss_scale=float(result.loss_scale))
            return
        unread = int(result.flags[BAD]) == batch.size
        reason = "no example could be read" if unread else "loss or gradient not finite"
        self.event("skipped", step, epoch, batch.stop, reason=reason)

    def _measure(self, step: int, epoch: int, measured: tuple[Moments, RankMoments] | None) -> dict[str, float]:
        """Write down the measures of a step; returns those over all variables that can be told."""
        if measured is None:
            return {}
        moments, ranks = measured
        self._measured, self._groups = measures(moments), moments.groups
        if self._gradients is not None:
            self._gradients.write(step, epoch, self._measured, ranks)
        over_all = {name: float(self._measured[name][-1]) for name in MEASURES}
        return {name: value for name, value in over_all.items() if math.isfinite(value)}

    def _summary(self, kind: str, step: int, epoch: int, position: int, values: Mapping[str, float]) -> None:
        if self._metrics is None:
            return
        with self.noting_failure():
            self._write(kind, step=step, epoch=epoch, position=position, **values)
            if self._events is not None:
                self._events.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
                self._events.flush()
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        self.line(f"{kind} {epoch}: {shown}" if kind == "epoch" else f"validation after epoch {epoch}: {shown}")

    @contextmanager
    def noting_failure(self) -> Iterator[None]:
        """Keep what befalls this rank alone in the block; `failure` has it for all to learn of."""
        try:
            yield
        except BadInput as error:
            self.failure = self.failure or error
        except (OSError, tf.errors.OpError) as error:
            reason = " ".join(error.message.split()) if isinstance(error, tf.errors.OpError) else error
            self.failure = self.failure or RunFailed(f"the log cannot be written: {reason}")


class Pace:
    """How fast examples go by, from the first step that is told of on; what comes between epochs is left out."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last = 0.0
        self._examples = 0

    def step(self, now: float, examples: int) -> None:
        """A step of so many examples ended at `now`, in seconds."""
        if self._first is None:
            self._first = now
        else:
            self._examples += examples
        self._last = now

    def examples_per_second(self) -> float | None:
        """None before the second step."""
        if self._first is None or self._last <= self._first:
            return None
        return self._examples / (self._last - self._first)


def _norm(squares: np.ndarray[Any, Any]) -> float:
    return math.sqrt(float(np.sum(squares, dtype=np.float64)))
