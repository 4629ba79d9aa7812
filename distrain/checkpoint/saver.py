"""Saving a run's replica state, and taking it up again."""

from __future__ import annotations

from pathlib import Path

from distrain.checkpoint.state import ReplicaState, sha256, write
from distrain.checkpoint.store import Found, Manifest, Progress, newest_valid, save
from distrain.errors import RunFailed


class Saver:
    """Writes and reads the checkpoints of one run; rank 0's business alone, no communication here."""

    def __init__(
        self, folder: Path, state: ReplicaState, *, keep: int, world_size: int, versions: dict[str, str]
    ) -> None:
        self._folder = folder
        self._state = state
        self._keep = keep
        self._world_size = world_size
        self._versions = versions

    def save(self, progress: Progress, *, epoch: int, finished: bool) -> None:
        """Write a checkpoint of the state as it is. Raises `RunFailed` where that cannot be done."""
        arrays = self._state.arrays()
        weights = [array for name, array in arrays.items() if name.startswith("weights/")]
        manifest = Manifest(
            progress=progress,
            epoch=epoch,
            finished=finished,
            world_size=self._world_size,
            parameters=sum(array.size for array in weights),
            weights_sha256=sha256(arrays, "weights"),
            optimizer_sha256=sha256(arrays, "optimizer"),
            gradient_mean_sha256=sha256(arrays, "gradient_mean"),
            versions=self._versions,
        )
        try:
            save(self._folder, manifest, lambda folder: write(arrays, folder), keep=self._keep)
        except OSError as error:
            raise RunFailed(f"the checkpoint of step {progress.step} cannot be written: {error}") from error

    def restore(self) -> tuple[Found | None, list[Found]]:
        """Set the state from the newest valid checkpoint, if any; also returns the newer ones that are not valid."""
        found, rejected = newest_valid(self._folder)
        if found is not None:
            self._state.restore(found.path)
        return found, rejected
