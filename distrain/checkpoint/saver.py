"""Saving a run's replica state, in the background or at once, and taking it up again."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from distrain.checkpoint.retention import Retention
from distrain.checkpoint.state import Snapshot, State, not_finite, sha256, write
from distrain.checkpoint.store import Found, Manifest, Progress, newest_valid, prune, recover, save
from distrain.errors import Diverged, RunEnds, RunFailed

# The thread that writes gives way to those that train; where training waits for it, it has a core to itself.
NICENESS = 10
# Left free for the run's log, which goes to the same disk as a rule.
SPARE_BYTES = 1 << 20
# What is to be kept with a state that is no variable.
NOTES = "notes.json"


class Saver:
    """Writes and reads the checkpoints of one run; rank 0's business alone, no communication here.

    At most one is being written in the background. What is in the files `after` reaches the disk before a checkpoint
    does. `examples` is the form of the examples that the model is for.
    """

    def __init__(
        self,
        folder: Path,
        state: State,
        *,
        retention: Retention,
        world_size: int,
        versions: dict[str, str],
        after: Sequence[Path] = (),
        examples: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = folder
        self._state = state
        self._retention = retention
        self._world_size = world_size
        self._versions = versions
        self._after = after
        self._examples = dict(examples or {})
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=_give_way)
        self._pending: Future[None] | None = None
        self._snapshot: Snapshot | None = None

    def begin(
        self,
        progress: Progress,
        *,
        epoch: int,
        notes: str | None = None,
        first: Callable[[], None] = lambda: None,
    ) -> RunEnds | None:
        """Copy the state to the host and have it written while training goes on, with `notes` in a file beside it.

        `first` is called before that, by the thread that writes; no checkpoint is made where it raises `RunEnds`. Where
        the one before is still being written, waits for it; returns what became of that one, as `poll` does.
        """
        before = self.wait()
        snapshot = self._copied()

        def write() -> None:
            first()
            self._write(snapshot, progress, epoch, False, notes)

        self._pending = self._executor.submit(write)
        return before

    def save(self, progress: Progress, *, epoch: int, finished: bool, notes: str | None = None) -> None:
        """Write a checkpoint of the state as it is, and come back when it is on disk.

        Raises `RunFailed` where that cannot be done, `Diverged` where the state is not finite. What became of one that
        was still being written no longer matters: this one is newer.
        """
        self.wait()
        self._write(self._copied(), progress, epoch, finished, notes)

    @property
    def writing(self) -> bool:
        """True while a checkpoint is being written in the background."""
        return self._pending is not None and not self._pending.done()

    def poll(self) -> RunEnds | None:
        """Why the checkpoint that was begun last could not be written, once, when that is known; does not wait."""
        return self.wait() if self._pending is not None and self._pending.done() else None

    def wait(self, seconds: float | None = None) -> RunEnds | None:
        """Wait until nothing is being written, or so long; returns as `poll` does. Raises `TimeoutError`."""
        if self._pending is None:
            return None
        error = self._pending.exception(seconds)
        self._pending = None
        if error is None or isinstance(error, RunEnds):
            return error
        raise error

    def restore(self) -> tuple[Found | None, list[Found]]:
        """Set the state from the newest valid checkpoint, if any; also returns the newer ones that are not valid.

        Raises `OSError`, and `BadInput` where the checkpoint is of another model.
        """
        recover(self._folder)
        found, rejected = newest_valid(self._folder)
        if found is not None:
            self._state.restore(found.path)
        return found, rejected

    def _copied(self) -> Snapshot:
        """The state as it is; nothing is being written, so the copy before it is needed no more."""
        if self._snapshot is None:
            self._snapshot = Snapshot(self._state)
        self._snapshot.take()
        return self._snapshot

    def _write(
        self, snapshot: Snapshot, progress: Progress, epoch: int, finished: bool, notes: str | None = None
    ) -> None:
        arrays = snapshot.arrays
        name = not_finite(arrays)
        if name is not None:
            raise Diverged(f"'{name}' is not finite after step {progress.step}: no checkpoint is made of that")
        manifest = Manifest(
            progress=progress,
            epoch=epoch,
            finished=finished,
            world_size=self._world_size,
            parameters=sum(array.size for name, array in arrays.items() if name.startswith("weights/")),
            weights_sha256=sha256(arrays, "weights"),
            optimizer_sha256=sha256(arrays, "optimizer"),
            gradient_mean_sha256=sha256(arrays, "gradient_mean"),
            versions=self._versions,
            examples=self._examples,
        )
        try:
            self._check_space(sum(array.nbytes for array in arrays.values()))
            save(self._folder, manifest, lambda folder: _write_files(snapshot, notes, folder), after=self._after)
            prune(self._folder, self._retention.retained, newest=progress.step)
        except (OSError, MemoryError) as error:
            reason = "not enough memory" if isinstance(error, MemoryError) else error
            raise RunFailed(f"the checkpoint of step {progress.step} cannot be written: {reason}") from error

    def _check_space(self, size: int) -> None:
        """Refuse before the disk is filled to the last byte, which would take the log's space too."""
        self._folder.mkdir(parents=True, exist_ok=True)
        needed = size + SPARE_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({free:,} bytes free, {needed:,} needed)")


def _write_files(snapshot: Snapshot, notes: str | None, folder: Path) -> None:
    write(snapshot.tensors, folder)
    if notes is not None:
        (folder / NOTES).write_text(notes, encoding="utf-8")


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
