"""Checkpoints on disk: written whole under a temporary name, then renamed; found, verified and pruned.

A checkpoint is a folder `step_00000120` with TensorFlow checkpoint files and, written last, `manifest.json` with their
sizes and sha256. What is not valid by its manifest does not count. No TensorFlow here: looking is cheap.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
SEAL = "sha256"
NAME = re.compile(r"step_(\d{8,})")


@dataclass(frozen=True)
class Progress:
    """How far a run has come: replica state that is no tensor, equal on all ranks.

    `position` counts the examples drawn, `skipped` the steps that were not applied, `skipped_in_row` those since the
    last applied one. `epoch_loss` and `epoch_examples` are sums over the epoch so far, from which its mean is taken;
    `epoch_bad` counts the examples of it that were skipped because they could not be read.
    """

    step: int = 0
    position: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    epoch_loss: float = 0.0
    epoch_examples: int = 0
    epoch_bad: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself. `files` maps names to [size in bytes, sha256]."""

    progress: Progress
    epoch: int
    finished: bool
    world_size: int
    parameters: int
    weights_sha256: str
    optimizer_sha256: str
    gradient_mean_sha256: str
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Any]] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Found:
    """A checkpoint's folder, and why it cannot be used, if so."""

    path: Path
    step: int
    manifest: Manifest | None
    why_not: str | None

    @property
    def valid(self) -> bool:
        return self.manifest is not None


def find(folder: Path) -> list[Found]:
    """All checkpoints under `folder`, verified against their manifests, oldest first."""
    if not folder.is_dir():
        return []
    steps = {path: int(match[1]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)) is not None}
    return [_verified(path, steps[path]) for path in sorted(steps, key=lambda path: steps[path])]


def newest_valid(folder: Path) -> tuple[Found | None, list[Found]]:
    """The checkpoint to go on from, and the newer ones that are not valid."""
    rejected: list[Found] = []
    for found in reversed(find(folder)):
        if found.valid:
            return found, rejected
        rejected.append(found)
    return None, rejected


def save(folder: Path, manifest: Manifest, write: Callable[[Path], None], *, keep: int) -> Path:
    """Make the checkpoint of `manifest.progress.step`, with the files that `write(temporary folder)` makes.

    Then removes all but the newest `keep`. Raises `OSError` where it cannot be written; earlier ones stay as they are.
    """
    path = folder / f"step_{manifest.progress.step:08d}"
    temporary = folder / f"tmp_{manifest.progress.step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    replaced = folder / f"tmp_{manifest.progress.step:08d}_replaced"
    for leftover in folder.glob("tmp_*"):
        shutil.rmtree(leftover)
    temporary.mkdir()
    try:
        write(temporary)
        for file in sorted(temporary.iterdir()):
            manifest.files[file.name] = [file.stat().st_size, _sha256(file)]
            _flush(file)
        file = temporary / MANIFEST
        file.write_text(_text(asdict(manifest)), encoding="utf-8")
        _flush(file)
        _flush(temporary)
        if path.exists():
            # One that is not valid, or of the same step before others were skipped.
            path.rename(replaced)
        temporary.rename(path)
        _flush(folder)
    finally:
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    _prune(folder, keep=keep, newest=manifest.progress.step)
    return path


def _prune(folder: Path, *, keep: int, newest: int) -> None:
    """Remove all but `keep` checkpoints up to step `newest`.

    Later ones are none of this run's: it passed over them as not valid when it began, and writes over them in time.
    """
    steps = {path: int(match[1]) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)) is not None}
    own = sorted((path for path in steps if steps[path] <= newest), key=lambda path: steps[path])
    for path in own[:-keep]:
        # The manifest goes first, so that a half-removed checkpoint is never taken for a whole one.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)


def _verified(path: Path, step: int) -> Found:
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        raw = json.loads(text)
        del raw[SEAL]
        if text != _text(raw):
            return Found(path, step, None, "manifest does not match its sha256")
        progress = Progress(**raw.pop("progress"))
        manifest = Manifest(progress=progress, **raw)
    except FileNotFoundError:
        return Found(path, step, None, "no manifest: it was not finished")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Found(path, step, None, f"manifest cannot be read ({error})")
    if manifest.format != FORMAT:
        return Found(path, step, None, f"format {manifest.format}, expected {FORMAT}")
    for name, (size, sha256) in manifest.files.items():
        file = path / name
        if not file.is_file():
            return Found(path, step, None, f"{name} is missing")
        if file.stat().st_size != size:
            return Found(path, step, None, f"{name} has {file.stat().st_size} bytes, expected {size}")
        if _sha256(file) != sha256:
            return Found(path, step, None, f"{name} does not match its sha256")
    return Found(path, step, manifest, None)


def _text(manifest: dict[str, Any]) -> str:
    """A manifest as it stands in its file, sealed by a sha256 over the rest."""
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**manifest, SEAL: seal}, indent=1) + "\n"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have the system write a file or a folder's entries to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
