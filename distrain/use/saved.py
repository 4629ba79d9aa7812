"""A run's job and one of its checkpoints, for what is done with a model once it is trained; without TensorFlow.

Nothing here writes into the run's folder, and the run may be going on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.checkpoint.store import Found, Manifest, at_step, newest_valid
from distrain.data.provider import ExampleSpec
from distrain.errors import BadInput
from distrain.job.load import apply_override, check_job, read_yaml
from distrain.job.schema import Application, Job
from distrain.log.folder import RunFolder
from distrain.world.control import Control, agreed
from distrain.world.topology import World

NEWEST, BEST = "newest", "best"
# What may be set otherwise than the run had it: nothing that makes another model of it.
FREE = ("data.", "parallel.")


@dataclass(frozen=True)
class Saved:
    """A valid checkpoint, and the form of the examples that its model is for; the same on every rank."""

    folder: RunFolder
    job: Job
    checkpoint: Path
    manifest: Manifest
    spec: ExampleSpec
    class_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.folder.path} (step {self.manifest.progress.step})"


def read_run(path: Path, overrides: Sequence[str] = ()) -> Job:
    """The job of the run in a folder, with keys of its data set otherwise. Raises `BadInput` where there is none."""
    folder = RunFolder(path)
    folder.require()
    raw = read_yaml(folder.job)
    data = raw.get("data")
    if isinstance(data, dict) and data.get("validation") is None:
        data.pop("validation", None)  # a section that overrides can fill
    for override in overrides:
        if not override.startswith(FREE):
            expected = " or ".join(f"'{prefix}'" for prefix in FREE)
            raise BadInput(f"-o {override}: expected a key that begins with {expected}: all else is as the run has it")
        apply_override(raw, override)
    job = check_job(raw, source=str(folder.job))
    if isinstance(job.model, Application) and job.model.weights is not None:
        # What the run began with is of no use any more, and may be gone.
        job = job.model_copy(update={"model": job.model.model_copy(update={"weights": None})})
    return job


def open_saved(path: Path, job: Job, which: str, world: World, control: Control) -> Saved:
    """The checkpoint `which`, as rank 0 finds it: newest, best, or a step. Collective; raises `BadInput` on all ranks.

    Every rank reads and verifies the files itself.
    """
    folder = RunFolder(path)
    step = control.gather(agreed(control, lambda: choose(folder, which) if world.rank == 0 else None))[0]
    return agreed(control, lambda: load(folder, job, step))


def choose(folder: RunFolder, which: str) -> int:
    """The step of a checkpoint: of the newest valid one, of the best that it knows of, or the number given."""
    if which.isdecimal():
        return int(which)
    if which not in (NEWEST, BEST):
        raise BadInput(f"--checkpoint: '{which}', expected {NEWEST}, {BEST}, or the step of a checkpoint")
    found, rejected = newest_valid(folder.checkpoints)
    if found is None or found.manifest is None:
        why = f"; of step {rejected[0].step}: {rejected[0].why_not}" if rejected else ""
        raise BadInput(f"{folder.checkpoints}: no valid checkpoint{why}, expected a run that has come to its first")
    if which == NEWEST:
        return found.step
    best = found.manifest.progress.best_step
    if best is None:
        raise BadInput(f"{folder.path}: has no best checkpoint, expected a run with checkpoint.best")
    return best


def load(folder: RunFolder, job: Job, step: int) -> Saved:
    """The checkpoint of a step. Raises `BadInput` where it is not there or not valid."""
    found: Found = at_step(folder.checkpoints, step)
    if found.manifest is None:
        there = sorted(path.name for path in folder.checkpoints.glob("step_*"))
        shown = f"expected one of {', '.join(there)}" if there else "there is none"
        raise BadInput(f"{found.path}: {found.why_not if found.path.exists() else 'no such checkpoint'}; {shown}")
    form: dict[str, Any] = found.manifest.examples
    if not form:
        # Saved before checkpoints told: the data knows. It is loaded for that alone, since it takes a while to load.
        from distrain.data.select import make_provider

        spec = make_provider(job.data.train, key="data.train", seed=job.seed).spec
        return Saved(folder, job, found.path, found.manifest, spec, ())
    height, width, channels = form["image_shape"]
    spec = ExampleSpec((height, width, channels), tuple(form["label_shape"]), form["classes"])
    return Saved(folder, job, found.path, found.manifest, spec, tuple(form["class_names"]))
