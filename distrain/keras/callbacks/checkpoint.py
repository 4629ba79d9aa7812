"""Checkpoints of `fit`, and going on from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from distrain.checkpoint.retention import Retention
from distrain.checkpoint.saver import NOTES, Saver
from distrain.checkpoint.state import State
from distrain.checkpoint.store import Progress
from distrain.errors import BadInput, RunEnds, RunFailed
from distrain.job.duration import Duration
from distrain.keras.data import Examples
from distrain.keras.fitting import RESUME, Resume, passing_by
from distrain.keras.place import gathered, place, rank, size
from distrain.keras.replica import broadcast_model, random_states, state_of
from distrain.world.control import agree, agreed
from distrain.world.versions import versions


class CheckpointCallback(keras.callbacks.Callback):
    """Saves model, optimizer and random states into `folder`, and goes on from the newest checkpoint there.

    `every`: `"1 epoch"`, `"100 steps"` or the like; `keep`: how many of the newest stay. Rank 0 writes, while training
    goes on. What the run comes to is the same, to the bit, as without an interruption, where the data is the same in
    each epoch or is `data`, and nothing else has a state. To be the last of the callbacks.
    """

    def __init__(
        self, folder: str | Path, every: str | int = "1 epoch", keep: int = 3, data: Examples | None = None
    ) -> None:
        super().__init__()
        try:
            self._every = Duration.parse(every)
        except ValueError as error:
            raise BadInput(f"CheckpointCallback: every: {error}") from error
        if self._every.unit not in ("epoch", "step") or keep < 1:
            raise BadInput(
                f"CheckpointCallback: every is '{every}' and keep {keep}, expected steps or epochs, and 1 or more"
            )
        self.folder = Path(folder)
        self._keep = keep
        self._data = data
        self._saver: Saver | None = None
        # Batches in all, and within the epoch.
        self.step = 0
        self._epoch, self._batch = 0, 0
        self._saved: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        if self._saver is None:
            self._open()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._batch = epoch, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        done, self._batch = batch + 1 - self._batch, batch + 1
        if passing_by(self.model):
            return
        before = self.step
        self.step += done
        length = int(self._every.amount)
        if self._every.unit == "step" and self.step // length > before // length:
            self._save(self._epoch, self._batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._batch = epoch + 1, 0
        if self._every.unit == "epoch" and (epoch + 1) % int(self._every.amount) == 0:
            self._save(epoch + 1, 0)

    def on_train_end(self, logs: Any = None) -> None:
        if self._saved != self.step:
            self._save(self._epoch, self._batch)
        assert self._saver is not None
        agree(place().started.control, self._saver.wait())

    def _open(self) -> None:
        """Go on from the newest checkpoint, if there is any. Collective."""
        self._saver = Saver(
            self.folder,
            State(self._variables()),
            retention=Retention(self._keep, None, 1),
            world_size=size(),
            versions=versions(),
        )
        notes = self._restored()
        if notes is None:
            return
        self.step = self._saved = notes["step"]
        # As Keras's own BackupAndRestore does.
        self.model._initial_epoch = notes["epoch"]
        if self._data is not None:
            self._data.start = notes["step"]
        if notes["batch"]:
            if notes["batch"] % int(self.model.steps_per_execution):
                raise BadInput(
                    f"CheckpointCallback: {self.folder}: saved after batch {notes['batch']} of an epoch, expected a "
                    f"multiple of steps_per_execution, which is {self.model.steps_per_execution}",
                    agreed=True,
                )
            setattr(self.model, RESUME, Resume(notes["batch"], self._data is None, restore=self._restored))

    def _restored(self) -> dict[str, Any] | None:
        """Set all ranks' state from the newest checkpoint; returns what is noted in it. Collective."""
        notes = gathered(agreed(place().started.control, self._read))[0]
        if notes is None:
            return None
        broadcast_model(self.model, 0)
        rows = notes["metrics"]
        if rows and len(rows) != size():
            # The sums of all are the first one's.
            total = np.sum(np.asarray(rows, np.float64), axis=0)
            rows = [total.tolist(), *[[0.0] * len(total)] * (size() - 1)]
        if rows:
            at = 0
            for variable in self.model.metrics_variables:
                count = int(np.prod(variable.shape))
                variable.assign(np.reshape(rows[rank()][at : at + count], variable.shape))
                at += count
        result: dict[str, Any] = notes
        return result

    def _read(self) -> dict[str, Any] | None:
        """Read it on rank 0, and the notes with it."""
        if rank() != 0:
            return None
        assert self._saver is not None
        try:
            found, rejected = self._saver.restore()
            for other in rejected:
                print(f"distrain: {other.path} is passed over: {other.why_not}", flush=True)
            if found is None:
                return None
            notes: dict[str, Any] = json.loads((found.path / NOTES).read_text(encoding="utf-8"))
        except OSError as error:
            raise RunFailed(f"{self.folder}: cannot be read: {error}") from error
        return notes

    def _variables(self) -> dict[str, Any]:
        states = {f"random/{number:04d}": state for number, state in enumerate(random_states(self.model))}
        return state_of(self.model) | states

    def _save(self, epoch: int, batch: int) -> None:
        """Begin to write a checkpoint. Collective; raises on all ranks what has become of the one before."""
        own = [float(value) for each in self.model.metrics_variables for value in np.ravel(each)] if batch else []
        rows = gathered(own)
        error: RunEnds | None = None
        if rank() == 0:
            assert self._saver is not None
            notes = {"step": self.step, "epoch": epoch, "batch": batch, "metrics": rows if batch else []}
            error = self._saver.begin(Progress(step=self.step), epoch=epoch, notes=json.dumps(notes))
        self._saved = self.step
        agree(place().started.control, error)
