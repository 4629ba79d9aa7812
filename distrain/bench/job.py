"""What is measured: a job of the user's own, or the U-Net on images that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distrain.job.load import apply_override, check_job, read_yaml
from distrain.job.schema import Job
from distrain.world.cores import cores

SIZE = 172
EXAMPLES = 100_000
PER_WORKER = 4


def job_to_measure(path: Path | None, overrides: Sequence[str], *, workers: int) -> Job:
    """The job of a file, or the U-Net of 116 770 parameters on 172 x 172 images with 4 examples a worker.

    Each worker has its share of this machine's cores, however many of them a world has, and nothing ends the run.
    Raises `BadInput`.
    """
    raw = _unet(workers) if path is None else read_yaml(path)
    for override in overrides:
        apply_override(raw, override)
    source = "bench" if path is None else str(path)
    check_job(raw, source=source)
    apply_override(raw, "train.epochs=null")
    apply_override(raw, "train.steps=1000000000")
    for nothing in ("log.serve", "log.mlflow", "log.wandb", "data.validation", "checkpoint.best"):
        apply_override(raw, f"{nothing}=null")
    # What comes now and then is measured by itself, not where it happens to fall.
    apply_override(raw, "checkpoint.every=1000000000")
    apply_override(raw, "train.remainder=drop")
    job = check_job(raw, source=source)
    if job.parallel.threads is None:
        apply_override(raw, f"parallel.threads={max(1, cores() // workers)}")
    return check_job(raw, source=source)


def _unet(workers: int) -> dict[str, object]:
    return {
        "name": "bench",
        "data": {"train": {"provider": "circles", "examples": EXAMPLES, "size": SIZE}},
        "model": {"name": "unet", "keep_probability": 0.75},
        "optimizer": {"name": "momentum", "learning_rate": 0.2, "momentum": 0.2},
        "train": {"batch_size": PER_WORKER * workers},
    }
