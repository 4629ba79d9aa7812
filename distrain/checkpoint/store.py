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
from collections.abc import Callable, Iterable
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
    last applied one; where the loss scale was too high it is neither. `epoch_loss` and `epoch_examples` are sums over
    the epoch so far, from which its mean is taken; `epoch_bad` counts the examples of it that were skipped because they
    could not be read. `best` is the best validation value so far of the metric that `checkpoint.best` names, reached at
    `best_step`.
    """

    step: int = 0
    position: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    epoch_loss: float = 0.0
    epoch_examples: int = 0
    epoch_bad: int = 0
    best: float | None = None
    best_step: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself. `files` maps names to [size in bytes, sha256].

    `examples` is the form of the examples that the model is for, as `Source.form` gives it.
    """

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
    examples: dict[str, Any] = field(default_factory=dict)
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


Retained = Callable[[list[Progress]], set[int]]


def find(folder: Path) -> list[Found]:
    """All checkpoints under `folder`, verified against their manifests, oldest first."""
    return [_verified(path, step) for path, step in _steps(folder)]


def newest_valid(folder: Path) -> tuple[Found | None, list[Found]]:
    """The checkpoint to go on from, and the newer ones that are not valid; older ones are not looked at."""
    rejected: list[Found] = []
    for path, step in reversed(_steps(folder)):
        found = _verified(path, step)
        if found.valid:
            return found, rejected
        rejected.append(found)
    return None, rejected


def at_step(folder: Path, step: int) -> Found:
    """The checkpoint of one step, verified; it may not be there."""
    return _verified(folder / f"step_{step:08d}", step)


def recover(folder: Path) -> None:
    """Put back a checkpoint that was to be replaced by one of the same step, where a kill came between.

    Raises `OSError`.
    """
    for replaced in folder.glob("tmp_*_replaced"):
        path = folder / f"step_{replaced.name.split('_')[1]}"
        if not path.exists():
            replaced.rename(path)


def save(folder: Path, manifest: Manifest, write: Callable[[Path], None], *, after: Iterable[Path] = ()) -> Path:
    """Make the checkpoint of `manifest.progress.step`, with the files that `write(temporary folder)` makes.

    What is in the files `after`, where they exist, is on disk before the checkpoint is. Raises `OSError` where it
    cannot be written; earlier ones stay as they are.
    """
    path = folder / f"step_{manifest.progress.step:08d}"
    temporary = folder / f"tmp_{manifest.progress.step:08d}"
    replaced = folder / f"tmp_{manifest.progress.step:08d}_replaced"
    folder.mkdir(parents=True, exist_ok=True)
    recover(folder)
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
        for flushed in (file, temporary, *(other for other in after if other.exists())):
            _flush(flushed)
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
    return path


def prune(folder: Path, retained: Retained, *, newest: int) -> None:
    """Remove the checkpoints up to step `newest` that `retained` does not name. Raises `OSError`.

    `retained` gets how far each of them had come, oldest first. Those without a readable manifest go too. Later ones
    are none of this run's: it passed over them as not valid when it began, and writes over them in time.
    """
    own = [(path, step) for path, step in _steps(folder) if step <= newest]
    kept = retained([manifest.progress for path, _ in own if isinstance(manifest := _manifest(path), Manifest)])
    for path, step in own:
        if step not in kept:
            # The manifest goes first, so that a half-removed checkpoint is never taken for a whole one.
            (path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)


def _steps(folder: Path) -> list[tuple[Path, int]]:
    """The folders under `folder` that bear a checkpoint's name, with its step, oldest first."""
    if not folder.is_dir():
        return []
    named = [(path, int(match[1])) for path in folder.iterdir() if (match := NAME.fullmatch(path.name)) is not None]
    return sorted(named, key=lambda item: item[1])


def _manifest(path: Path) -> Manifest | str:
    """The manifest of a checkpoint's folder, or why it has none that counts."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        raw = json.loads(text)
        del raw[SEAL]
        if text != _text(raw):
            return "manifest does not match its sha256"
        progress = Progress(**raw.pop("progress"))
        manifest = Manifest(progress=progress, **raw)
    except FileNotFoundError:
        return "no manifest: it was not finished"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"manifest cannot be read ({error})"
    if manifest.format != FORMAT:
        return f"format {manifest.format}, expected {FORMAT}"
    return manifest


def _verified(path: Path, step: int) -> Found:
    manifest = _manifest(path)
    if isinstance(manifest, str):
        return Found(path, step, None, manifest)
    try:
        why_not = next(filter(None, (_damage(path / name, *seen) for name, seen in manifest.files.items())), None)
    except OSError as error:
        why_not = f"cannot be read ({error})"
    return Found(path, step, manifest if why_not is None else None, why_not)


def _damage(file: Path, size: int, sha256: str) -> str | None:
    """What is wrong with a checkpoint's file, if anything. Raises `OSError` where it cannot be read."""
    if not file.is_file():
        return f"{file.name} is missing"
    if file.stat().st_size != size:
        return f"{file.name} has {file.stat().st_size} bytes, expected {size}"
    return None if _sha256(file) == sha256 else f"{file.name} does not match its sha256"


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
