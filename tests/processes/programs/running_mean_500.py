"""A worker that trains and holds the running mean against a float64 evaluation of the origin's own formula."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from distrain.checkpoint.state import State, sha256
from distrain.gradients.advance import Gradient
from distrain.gradients.statistics import GradientStatistics
from distrain.job.load import load_job
from distrain.train import parts, run
from distrain.train.opening import Request
from distrain.train.stop import StopRequest
from distrain.train.trainer import Trainer
from distrain.world.start import start


class Recording(GradientStatistics):
    """Also keeps the last gradients, for the test to read."""

    def __init__(self, variables: Sequence[tf.Variable], **options: Any) -> None:
        super().__init__(variables, **options)
        self.last = [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
        self.averages = [np.zeros(variable.shape, np.float64) for variable in variables]
        recordings.append(self)

    def advance(self, gradients: Sequence[Gradient], *arguments: Any, **options: Any) -> tf.Tensor:
        for variable, gradient in zip(self.last, gradients, strict=True):
            variable.assign(gradient.total / gradient.divisor)
        return super().advance(gradients, *arguments, **options)


recordings: list[Recording] = []
parts.GradientStatistics = Recording  # type: ignore[attr-defined]  # to read gradients
states: list[State] = []
make_step = Trainer.make_step


def recorded_step(trainer: Trainer, local: object) -> object:
    result = make_step(trainer, local)  # type: ignore[arg-type]
    n = trainer.progress.step - 1
    recording = recordings[0]
    for number, gradient in enumerate(recording.last):
        average = recording.averages[number]
        recording.averages[number] = average * (1 - 1 / (n + 1)) + gradient.numpy().astype(np.float64) / (n + 1)
    if not states:
        states.append(trainer.saving.saver._state)
    return result


Trainer.make_step = recorded_step  # type: ignore[method-assign, assignment]
started = start(os.environ)
folder = Path(sys.argv[2])
code = run.run(Request(load_job(Path(sys.argv[1])), folder / "run"), started, StopRequest())
recording = recordings[0]
errors = [
    float(np.linalg.norm(mean.numpy() - average) / np.linalg.norm(average))
    for mean, average in zip(recording.running_mean.means(), recording.averages, strict=True)
]
arrays = states[0].arrays()
report = {
    "steps": int(recording.running_mean.count.numpy()),
    "errors": errors,
    "sha256": [sha256(arrays, group) for group in ("weights", "gradient_mean")],
}
(folder / f"rank_{started.world.rank}.json").write_text(json.dumps(report), encoding="utf-8")
started.close()
sys.exit(code)
