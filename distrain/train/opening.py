"""Opening a run's folder: rank 0's part of the start, by which a run begins or goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from distrain.checkpoint.saver import Saver
from distrain.checkpoint.store import Found, Progress
from distrain.errors import BadInput
from distrain.job.load import resolved
from distrain.job.schema import Job
from distrain.log import gradient_table, tensorboard
from distrain.log.folder import RunFolder, check_job, claim, move_aside, write_job
from distrain.log.records import cut
from distrain.world.versions import versions

# A process that was rank 0 may take so long to let go of the folder.
CLAIM_SECONDS = 20.0


@dataclass(frozen=True)
class Request:
    """What the command line asks for: a job, in a folder, from the beginning where `fresh`."""

    job: Job
    run_dir: Path
    fresh: bool = False

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.run_dir)


@dataclass(frozen=True)
class Opened:
    """A run's folder, held by this process, and where the run goes on from.

    `resumed` is the checkpoint taken up, if any; `rejected` the newer ones that are not valid; `removed` counts the
    records after it; `changed` are the differences of the job; `aside` is where an old run was moved to; `weights`
    where those of a new run are from, if it did not begin with random ones.
    """

    lock: IO[str]
    progress: Progress
    resumed: Found | None
    rejected: list[Found]
    removed: int
    changed: list[str]
    aside: Path | None
    weights: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the run was finished when its checkpoint was made."""
        return self.resumed is not None and self.resumed.manifest is not None and self.resumed.manifest.finished

    def release(self) -> None:
        """Let others use the folder."""
        self.lock.close()


def open_run(request: Request, saver: Saver, warm_start: Callable[[], str | None]) -> Opened:
    """Claim the folder, check that it is of this job, restore the newest checkpoint and cut the logs back to it.

    Where there is none, `warm_start` sets the weights to begin with, if any, and returns where they are from. Raises
    `BadInput` where the folder cannot be used for this job, and what `warm_start` raises before anything is written.
    """
    folder = request.folder
    # Before the old run is moved aside: it may be the one whose weights are wanted.
    weights = warm_start() if request.fresh else None
    aside = move_aside(folder.path) if request.fresh else None
    lock = claim(folder.path)
    job = resolved(request.job)
    changed = check_job(folder, job)
    try:
        resumed, rejected = saver.restore()
        if resumed is None and not request.fresh:
            weights = warm_start()
        progress = Progress() if resumed is None or resumed.manifest is None else resumed.manifest.progress
        removed = _cut_logs(folder, progress)
        write_job(folder, job, versions())
    except OSError as error:
        raise BadInput(f"{folder.path}: cannot be used ({error}), expected a folder for the run") from error
    return Opened(lock, progress, resumed, rejected, removed, changed, aside, weights)


def reopen(request: Request, before: Progress, progress: Progress) -> Opened:
    """Claim the folder for a new rank 0, and cut the logs back to `before`; what follows that is written down again.

    Raises `BadInput` where the folder cannot be used, or is not the run's: it may be on another host's disk. The rank 0
    before may still be about to end.
    """
    folder = request.folder
    if not folder.job.exists():
        raise BadInput(f"{folder.path}: holds no job.yaml, expected the run's folder, which all hosts must share")
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            lock = claim(folder.path)
            break
        except BadInput:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    check_job(folder, resolved(request.job))
    try:
        removed = _cut_logs(folder, before)
    except OSError as error:
        raise BadInput(f"{folder.path}: cannot be used ({error}), expected a folder for the run") from error
    return Opened(lock, progress, None, [], removed, [], None)


def _cut_logs(folder: RunFolder, progress: Progress) -> int:
    removed = cut(folder.metrics, progress.position)
    for path in folder.path.glob("examples/rank_*.jsonl"):
        cut(path, progress.position)
    tensorboard.cut(folder.events, progress.step)
    gradient_table.cut(folder.gradients, progress.step)
    return removed
