"""What a tracking service has still to be told of a run: its records and pictures, from the run's folder.

What has been sent is kept in the folder, as soon as it was. A run that goes on from a checkpoint makes the steps after
it again, to the same bits: what was kept as sent is not sent twice.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from distrain.log.folder import RunFolder
from distrain.log.records import IN_STEPS

PLACE = ("step", "epoch", "position")
# Events that are told as how many of them there have been.
COUNTED = ("skipped", "bad_example", "checkpoint_failed")


@dataclass(frozen=True)
class Sent:
    """What a service has been told: up to which position, which kinds of record there, and which pictures.

    `where` is the service's address and what it has the run under, `run` what it calls the run there, None before it
    knows of it; `step` is that of the last record.
    """

    where: str = ""
    run: str | None = None
    step: int = 0
    position: int = -1
    kinds: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()

    def holds(self, position: int, kind: str) -> bool:
        """Whether a record of this kind at this position has been sent."""
        return position < self.position or (position == self.position and kind in self.kinds)

    def after(self, points: list[Point]) -> Sent:
        """With these points, which are in the order of their records."""
        sent = self
        for point in points:
            before = sent.kinds if point.position == sent.position else ()
            sent = replace(sent, step=point.step, position=point.position, kinds=(*before, point.kind))
        return sent


class Point(NamedTuple):
    """The numbers of a record under the names that TensorBoard has for them, and `time` in seconds since 1970."""

    kind: str
    step: int
    position: int
    time: float
    values: dict[str, float]


def load_sent(path: Path) -> Sent:
    """What was sent before; nothing where there is no such file. Raises `OSError`."""
    if not path.exists():
        return Sent()
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Sent(**held | {"kinds": tuple(held["kinds"]), "pictures": tuple(held["pictures"])})


def save_sent(path: Path, sent: Sent) -> None:
    """Write down what was sent, whole or not at all. Raises `OSError`."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(sent)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Backlog:
    """Reads a run's log as it grows; `close` it at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self._counts: Counter[str] = Counter()
        self._waiting: list[Point] = []

    def points(self, sent: Sent, most: int) -> list[Point]:
        """The oldest points that were not sent, up to `most`; they come again until they are. Raises `OSError`."""
        self._waiting = [point for point in self._waiting if not sent.holds(point.position, point.kind)]
        for point in islice(self._read(sent), most - len(self._waiting)):
            self._waiting.append(point)
        return list(self._waiting)

    def pictures(self, sent: Sent) -> list[Path]:
        """The pictures of predictions that were not sent, oldest first."""
        return [path for path in sorted(self._folder.predictions.glob("epoch_*.png")) if path.name not in sent.pictures]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, sent: Sent) -> Iterator[Point]:
        if self._file is None:
            if not self._folder.metrics.exists():
                return
            self._file = self._folder.metrics.open("rb")
        while line := self._file.readline():
            if not line.endswith(b"\n"):
                # It is being written: read again when it is whole.
                self._file.seek(-len(line), os.SEEK_CUR)
                return
            point = self._point(json.loads(line))
            if point.values and not sent.holds(point.position, point.kind):
                yield point

    def _point(self, record: dict[str, Any]) -> Point:
        kind = record["kind"]
        if kind == "event":
            event = record["event"]
            self._counts[event] += event in COUNTED
            values = {f"events/{event}": float(self._counts[event])} if event in COUNTED else {}
            # Several events of a kind may be at one position.
            kind = f"{event} {self._counts[event]}"
        else:
            values = {
                _name(kind, name): value for name, value in record.items() if name not in ("kind", "time", *PLACE)
            }
        return Point(kind, record["step"], record["position"], record["time"], values)


def _name(kind: str, name: str) -> str:
    if kind == "step":
        return f"gradients/all/{name}" if name in IN_STEPS else f"train/{name}"
    return f"{kind}/{name}"
