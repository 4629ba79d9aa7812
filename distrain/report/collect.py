"""What a report tells of a run, read from its folder; no TensorFlow, and the run may be going on meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distrain.checkpoint.store import Found, Manifest, find
from distrain.errors import BadInput
from distrain.job.load import read_yaml
from distrain.log import gradient_summary
from distrain.log.folder import RunFolder
from distrain.log.gradient_table import VariableHistory, read_variables
from distrain.log.records import read

Floats = npt.NDArray[np.float64]
Record = dict[str, Any]

PLACE = ("kind", "event", "step", "epoch", "position", "time")
# Events at which a run was not what it was before: lines in the plots over time.
RESTARTS = ("resumed", "resized")


@dataclass(frozen=True)
class Records:
    """Records of one kind: where they were made, and their numbers [n] by name, NaN where a record has none."""

    steps: Floats
    epochs: Floats
    positions: Floats
    times: Floats
    values: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Run:
    """A run as a report shows it. `gradients` is what `inspect --gradients` tells, `history` the same over time."""

    name: str
    folder: RunFolder
    job: dict[str, Any]
    versions: dict[str, str]
    steps: Records
    epochs: Records
    validations: Records
    events: list[Record]
    checkpoints: list[Found]
    gradients: dict[str, Any] | None
    history: VariableHistory | None
    pictures: list[Path]

    @property
    def manifest(self) -> Manifest | None:
        """Of the newest valid checkpoint."""
        return next((found.manifest for found in reversed(self.checkpoints) if found.manifest is not None), None)

    @property
    def begun(self) -> float:
        """When the first record was made, in seconds."""
        times = [float(part.times[0]) for part in (self.steps, self.epochs, self.validations) if len(part)]
        return min([*times, *(event["time"] for event in self.events)], default=0.0)

    def restarts(self) -> list[Record]:
        """The events at which the run went on, in another process or another world."""
        return [event for event in self.events if event["event"] in RESTARTS]


def collect(path: Path, name: str) -> Run:
    """Read a run. Raises `BadInput` where there is none, or its files cannot be read."""
    folder = RunFolder(path)
    folder.require()
    try:
        records = list(read(folder.metrics))
        history = read_variables(folder.gradients, ("norm",))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({' '.join(str(error).split())}), expected a run's folder") from error
    of_kind: dict[str, list[Record]] = {}
    for record in records:
        of_kind.setdefault(record["kind"], []).append(record)
    return Run(
        name,
        folder,
        read_yaml(folder.job),
        _versions(folder.job),
        arranged(of_kind.get("step", [])),
        arranged(of_kind.get("epoch", [])),
        arranged(of_kind.get("validation", [])),
        of_kind.get("event", []),
        find(folder.checkpoints),
        None if history is None else gradient_summary.summarise(folder),
        history,
        sorted(folder.predictions.glob("epoch_*.png")),
    )


def arranged(records: Sequence[Record]) -> Records:
    """Records as columns."""
    names = dict.fromkeys(name for record in records for name in record if name not in PLACE)
    numbers = {name for name in names if any(isinstance(record.get(name), int | float) for record in records)}

    def column(name: str) -> Floats:
        found = (record.get(name) for record in records)
        return np.array([value if isinstance(value, int | float) else np.nan for value in found], np.float64)

    place = {key: column(name) for key, name in zip(("steps", "epochs", "positions", "times"), PLACE[2:], strict=True)}
    return Records(**place, values={name: column(name) for name in names if name in numbers})


def _versions(job: Path) -> dict[str, str]:
    """The versions that stand above a job as comments."""
    found = {}
    for line in job.read_text(encoding="utf-8").splitlines():
        name, colon, version = line.removeprefix("# ").partition(": ")
        if not line.startswith("# ") or not colon:
            break
        found[name] = version
    return found
