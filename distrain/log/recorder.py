"""What is written down while a run goes on: rank 0 the run's log, every rank the examples that it drew.

No communication here. A file that cannot be written does not raise on one rank alone: `failure` says what happened,
and the loop lets all ranks know.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from distrain.data.order import Batch
from distrain.errors import RunFailed
from distrain.job.duration import Cursor
from distrain.job.schema import Log
from distrain.log.display import Display
from distrain.log.folder import RunFolder
from distrain.log.records import RecordLog
from distrain.log.tensorboard import EventLog
from distrain.step.train_step import BAD, StepResult, moments_of


class Recorder:
    """One rank's writers. On ranks other than 0 all but `examples` does nothing."""

    def __init__(self, folder: RunFolder, options: Log, *, rank: int, epoch_examples: int, display: Display | None):
        self.failure: RunFailed | None = None
        self._options = options
        self._epoch_examples = epoch_examples
        self._display = display
        self._writes = rank == 0
        self._metrics = RecordLog(folder.metrics) if self._writes else None
        self._events = EventLog(folder.events) if self._writes and options.tensorboard else None
        self._examples = RecordLog(folder.examples(rank)) if options.examples else None
        self._last = Cursor(0, 0)
        self._started = self._last_time = time.monotonic()
        self._applied_since = 0

    def step(
        self, before: Cursor, after: Cursor, batch: Batch, indices: Sequence[int], result: StepResult, waited: float
    ) -> None:
        """Record one step: `before` and `after` it stood at these cursors; it waited for data for so many seconds."""
        with self._noting_failure():
            if self._examples is not None and indices:
                self._examples.write(step=before.step + 1, indices=list(indices))
            if self._metrics is None:
                return
            epoch = batch.start // self._epoch_examples
            if not result.applied:
                unread = int(result.flags[BAD]) == batch.size
                reason = "no example could be read" if unread else "loss or gradient not finite"
                self.event("skipped", after.step, epoch, after.position, reason=reason)
                return
            loss = float(result.loss)
            if self._display is not None:
                self._display.step(after.step, epoch, loss)
            self._applied_since += batch.size
            now = time.monotonic()
            clocked = Cursor(after.step, after.position, now - self._started)
            previous = Cursor(before.step, before.position, self._last_time - self._started)
            if not self._options.every.due(previous, clocked, epoch_examples=self._epoch_examples):
                return
            values = {
                "loss": loss,
                "learning_rate": float(result.learning_rate),
                "examples_per_second": self._applied_since / max(now - self._last_time, 1e-9),
                "data_wait_seconds": waited,
                "gradient_norm": _norm(result.gradient_squares.numpy()),
            }
            moments = moments_of(result)
            if moments is not None:
                values["mean_norm"] = _norm(moments.mean_squares)
            self._last_time, self._applied_since = now, 0
            self._metrics.write_timed("step", step=after.step, epoch=epoch, position=after.position, **values)
            if self._events is not None:
                self._events.scalars(after.step, {f"train/{name}": value for name, value in values.items()})

    def norms(self, step: int, result: StepResult) -> None:
        """Write the distributions over variables of the norms of gradient and running mean."""
        if self._events is None:
            return
        with self._noting_failure():
            self._events.histogram(step, "gradients/norm", np.sqrt(result.gradient_squares.numpy()))
            moments = moments_of(result)
            if moments is not None:
                self._events.histogram(step, "gradients/mean_norm", np.sqrt(moments.mean_squares))

    def epoch(self, step: int, epoch: int, position: int, loss: float | None) -> None:
        """Record the end of an epoch with the mean loss over its examples (none where all its steps were skipped)."""
        self._summary("epoch", step, epoch, position, {} if loss is None else {"loss": loss})

    def validation(self, step: int, epoch: int, position: int, values: Mapping[str, float]) -> None:
        """Record what validation gave."""
        self._summary("validation", step, epoch, position, values)

    def event(self, event: str, step: int, epoch: int, position: int, **details: Any) -> None:
        """Record something that happened to the run."""
        if self._metrics is not None:
            with self._noting_failure():
                self._metrics.write_timed("event", event=event, step=step, epoch=epoch, position=position, **details)

    def line(self, text: str) -> None:
        """Show a line to whoever watches."""
        if self._display is not None:
            self._display.line(text)

    def close(self) -> None:
        """Write out what is buffered and close all files."""
        with self._noting_failure():
            for writer in (self._metrics, self._examples, self._events, self._display):
                if writer is not None:
                    writer.close()

    def _summary(self, kind: str, step: int, epoch: int, position: int, values: Mapping[str, float]) -> None:
        if self._metrics is None:
            return
        with self._noting_failure():
            self._metrics.write_timed(kind, step=step, epoch=epoch, position=position, **values)
            if self._events is not None:
                self._events.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
                self._events.flush()
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        self.line(f"{kind} {epoch}: {shown}" if kind == "epoch" else f"validation after epoch {epoch}: {shown}")

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or RunFailed(f"the log cannot be written: {error}")


def _norm(squares: np.ndarray[Any, Any]) -> float:
    return math.sqrt(float(np.sum(squares, dtype=np.float64)))
