"""The run's log of JSON lines: whole records only, and cut back to a checkpoint when a run goes on from it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# What a step's record tells over all variables, where it can be told.
IN_STEPS = ("noise_scale", "update_ratio", "coherence", "alignment", "agreement", "snr")
# Events that stay when a log is cut: they tell what happened to the run, not what it did.
LASTING = ("started", "resumed", "resized", "stopped")


class RecordLog:
    """Appends records to a file; each is one write of one line, so that a kill leaves it whole or absent."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._clock = clock
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, **fields: Any) -> None:
        """Append one record. Raises `OSError` where it does not fit whole; the part that did is taken back."""
        line = (json.dumps(fields) + "\n").encode()
        written = os.write(self._descriptor, line)
        if written != len(line):
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(f"{self._path}: no space for a record")

    def write_timed(self, kind: str, **fields: Any) -> None:
        """Append a record of `metrics.jsonl`: its kind first, the wall-clock time last."""
        self.write(kind=kind, **fields, time=round(self._clock(), 3))

    def close(self) -> None:
        os.close(self._descriptor)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a log, in order; a last line without its end is left out."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def cut(path: Path, position: int) -> int:
    """Remove the records after `position`, events that tell of starts and stops aside; returns how many went.

    By position, since a step that is skipped has the number of the one before. The new file takes the place of the old
    in one move.
    """
    if not path.exists():
        return 0
    kept, removed = [], 0
    for record in read(path):
        if record.get("position", 0) <= position or record.get("event") in LASTING:
            kept.append(record)
        else:
            removed += 1
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return removed
