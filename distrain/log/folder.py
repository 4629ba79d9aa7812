"""A run's folder: who may use it, what job it is of, and where things are in it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO, Any

from distrain.errors import BadInput
from distrain.job.load import check_job as check_schema
from distrain.job.load import conflicts, differences, dump_yaml, read_yaml, resolved
from distrain.log.records import read
from distrain.nearest import nearest_path

LOCK = ".lock"
# A process that was killed holds what it had open for a moment longer than it can be seen.
LEAVING_SECONDS = 3.0


class RunFolder:
    """Paths under a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / "job.yaml"
        self.metrics = path / "metrics.jsonl"
        self.events = path / "events"
        self.gradients = path / "gradients"
        self.predictions = path / "predictions"
        self.checkpoints = path / "checkpoints"
        self.tracking = path / "tracking"

    def examples(self, rank: int) -> Path:
        return self.path / "examples" / f"rank_{rank}.jsonl"

    def require(self) -> None:
        """Raises `BadInput` where there is no run."""
        if not self.job.is_file():
            hint = nearest_path(self.path, holding=self.job.name)
            raise BadInput(f"{self.path}: no run here, expected a folder with a job.yaml{hint}")


def move_aside(path: Path) -> Path | None:
    """Rename an existing run's folder to a free name beside it, which is returned; nothing is deleted.

    Raises `BadInput` where a run is using it, where it holds something else than a run, and where it cannot be renamed.
    """
    path = path.resolve()
    if not path.exists():
        return None
    if not path.is_dir():
        raise BadInput(f"{path}: is a file, expected a folder for the run")
    with _locked(path):
        folder = RunFolder(path)
        _require_run(folder)
        if not folder.job.exists():
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        for number in range(1, 1000):
            aside = path.with_name(f"{path.name}.{stamp}" + (f"-{number}" if number > 1 else ""))
            if not aside.exists():
                break
        try:
            path.rename(aside)
        except OSError as error:
            raise BadInput(f"{path}: cannot be moved aside to {aside.name} ({error.strerror})") from error
        return aside


def claim(path: Path) -> IO[str]:
    """Make the folder where it is not there, and hold it until the returned file is closed or the process ends.

    Raises `BadInput` where it cannot be made or written, or another run holds it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be made ({error.strerror}), expected a folder for the run") from error
    return _locked(path)


def _locked(path: Path) -> IO[str]:
    try:
        file = (path / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}), expected a folder for the run") from error
    deadline = time.monotonic() + LEAVING_SECONDS
    while not _try_lock(file):
        if time.monotonic() > deadline:
            file.close()
            raise BadInput(f"{path}: another run is using it, expected a folder of its own")
        time.sleep(0.1)
    return file


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_job(folder: RunFolder, job: dict[str, Any]) -> list[str]:
    """The differences between the folder's job and this one, none of which makes it another job.

    Raises `BadInput` naming those that do, or where the folder holds something else than a run.
    """
    _require_run(folder)
    if not folder.job.exists():
        return []
    old = _in_full(read_yaml(folder.job))
    different = conflicts(old, job)
    if different:
        raise BadInput(
            f"{folder.path}: holds a run of another job ({'; '.join(different)}); "
            "give another --run-dir, or --fresh to move the old run aside"
        )
    return differences(old, job)


def _require_run(folder: RunFolder) -> None:
    """Raises `BadInput` where the folder holds something, and no run."""
    if folder.job.exists():
        return
    others = sorted(name for name in os.listdir(folder.path) if name != LOCK and not name.startswith("tmp_"))
    if others:
        raise BadInput(f"{folder.path}: holds '{others[0]}' but no job.yaml, expected a run's folder or an empty one")


def _in_full(old: dict[str, Any]) -> dict[str, Any]:
    """A job that was written with what keys there were, with the defaults of those that came since."""
    try:
        return resolved(check_schema(old, source="job.yaml"))
    except BadInput:
        return old  # of a version that differs by more: as it stands


def write_job(folder: RunFolder, job: dict[str, Any], versions: dict[str, str]) -> None:
    """Write the resolved job, with the versions as comments so that the file is a job file itself."""
    heading = "".join(f"# {name}: {version}\n" for name, version in versions.items())
    temporary = folder.job.with_name("tmp_job.yaml")
    temporary.write_text(heading + dump_yaml(job), encoding="utf-8")
    temporary.replace(folder.job)


def last_record(folder: RunFolder, kind: str, **fields: Any) -> dict[str, Any] | None:
    """The newest record of a kind with these fields."""
    found = None
    for record in read(folder.metrics):
        if record["kind"] == kind and all(record.get(name) == value for name, value in fields.items()):
            found = record
    return found
