"""Runs as a report finds them, made up: two workers, one restart, names that mean harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from distrain.checkpoint.store import Manifest, Progress, save
from distrain.gradients.measures import measures
from distrain.job.load import resolved
from distrain.log.folder import RunFolder, write_job
from distrain.log.gradient_table import GradientTable
from tests.measured import NAMES, moments, ranks
from tests.support import make_job

STEPS, EPOCH_STEPS, BATCH = 40, 10, 8
HARM = "</script><img src='https://example.invalid/x.png'>"
HOST = f"node<b>{HARM}"


def make_run(path: Path, *, rate: float = 0.1, workers: int = 2) -> RunFolder:
    """A finished run of 4 epochs, that went on after step 20."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    write_job(folder, resolved(make_job(optimizer={"name": "momentum", "learning_rate": rate})), {"distrain": "0.1"})
    lines = [_event("started", 0, workers)]
    for step in range(1, STEPS + 1):
        lines.append(_record("step", step, **_numbers(step, rate)))
        if step % EPOCH_STEPS == 0:
            lines.append(_record("epoch", step, loss=1 / step))
            lines.append(_record("validation", step, loss=1.2 / step, pixel_error=0.3 / step, iou=1 - 1 / step))
            # What is said of the noise scale has the number of workers, too.
            lines.append(_record("event", step, event="advice", text="batch 8", batch_size=BATCH, workers=workers))
        if step == 20:
            lines.append(_event("resumed", step, workers, checkpoint="step_00000020", passed_over=[HARM]))
    folder.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    table = GradientTable(folder.gradients, NAMES, "float32")
    for step in range(1, STEPS + 1):
        table.write(step, (step - 1) // EPOCH_STEPS, measures(moments(step)), ranks(step, (0.5,) * workers))
    table.close()
    manifest = Manifest(Progress(step=STEPS, position=STEPS * BATCH), 4, True, workers, 1234, "a", "b", "c")
    save(folder.checkpoints, manifest, lambda temporary: None)
    folder.predictions.mkdir()
    for epoch in range(4):
        pixels = np.full((20, 60, 3), 60 * epoch, np.uint8)
        Image.fromarray(pixels).save(folder.predictions / f"epoch_{epoch:04d}.png")
    return folder


def _numbers(step: int, rate: float) -> dict[str, Any]:
    numbers = {"loss": 1 / step, "learning_rate": rate, "examples_per_second": 50.0, "data_wait_seconds": 0.001}
    numbers |= {"gradient_norm": 1.0, "mean_norm": 1 / step, "coherence": 1 / step, "alignment": 0.1, "agreement": 0.6}
    # Not told by every step.
    return numbers | ({"noise_scale": 30.0} if step > 2 else {})


def _record(kind: str, step: int, **values: Any) -> dict[str, Any]:
    epoch = (step - 1) // EPOCH_STEPS
    return {"kind": kind, "step": step, "epoch": epoch, "position": step * BATCH, **values, "time": 1e9 + 60 * step}


def _event(event: str, step: int, workers: int, **details: Any) -> dict[str, Any]:
    seen = [{"host": HOST, "pid": 100 + rank, "cores": 2, "gpus": []} for rank in range(workers)]
    place = {"step": step, "epoch": step // EPOCH_STEPS, "position": step * BATCH}
    described = {"world_size": workers, "workers": seen, **details}
    return {"kind": "event", "event": event, **place, **described, "time": 1e9 + 60 * step}
