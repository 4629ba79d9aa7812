"""How long training stands still while a checkpoint of a model of 27 million parameters is written.

    .venv/bin/python tests/benchmarks/checkpoint_stall.py [--steps 120] [--every 20] [--folder DIR]

Trains a dense network by the whole service, alone, on one thread, and saves each 20 steps. Prints the median of the
steps that nothing was written beside, the longest of the others, and what copying the state took, which is in the step
that a checkpoint begins in. (longest - copy) / median says how much the writing itself slows a step down.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras

from distrain.checkpoint.saver import Saver
from distrain.checkpoint.store import Progress
from distrain.data.batches import Batches, LocalBatch
from distrain.data.provider import ExampleSpec
from distrain.errors import RunEnds
from distrain.job.load import check_job
from distrain.train import run as service
from distrain.train.opening import Request
from distrain.train.stop import StopRequest
from distrain.world.devices import prepare
from distrain.world.start import start


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written, and removed again")
    arguments = parser.parse_args()
    job = check_job(
        {
            "data": {"train": {"provider": "circles", "examples": 100_000, "size": 32, "border": 8, "radius": [3, 8]}},
            "model": {"name": f"{Path(__file__).stem}:mlp"},
            "optimizer": {"learning_rate": 0.01},
            "train": {"batch_size": 32, "steps": arguments.steps},
            "checkpoint": {"every": arguments.every, "keep": 1},
        },
        source="benchmark",
    )
    started = start({})
    prepare(started.world, threads=1, deterministic=True)
    watching = Watching()
    watching.install()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        service.run(Request(job, Path(folder) / "run"), started, StopRequest())
    watching.report()


class Watching:
    """The time of each step, and of each copy; which steps had a checkpoint written beside them."""

    def __init__(self) -> None:
        self._saver: Saver | None = None
        self._began = 0.0
        self._beside = False
        self._free: list[float] = []
        self._busy: list[float] = []
        self._copies: list[float] = []

    def install(self) -> None:
        """Look on at each batch and at each checkpoint."""
        draw, begin = Batches.next, Saver.begin

        def timed_draw(batches: Batches) -> LocalBatch:
            now = time.perf_counter()
            if self._began:
                (self._busy if self._beside else self._free).append(now - self._began)
            self._began, self._beside = now, self._writing()
            return draw(batches)

        def timed_begin(saver: Saver, progress: Progress, *, epoch: int) -> RunEnds | None:
            before = time.perf_counter()
            result = begin(saver, progress, epoch=epoch)
            self._copies.append(time.perf_counter() - before)
            self._saver, self._beside = saver, True
            return result

        Batches.next = timed_draw  # type: ignore[method-assign, assignment]  # to look on
        Saver.begin = timed_begin  # type: ignore[method-assign, assignment]  # to look on

    def _writing(self) -> bool:
        pending = self._saver._pending if self._saver is not None else None
        return pending is not None and not pending.done()

    def report(self) -> None:
        """Print what was seen; the first steps hold the tracing."""
        median, longest, copy = statistics.median(self._free[2:]), max(self._busy), max(self._copies)
        print(
            f"{len(self._free)} steps alone, median {median * 1000:.0f} ms, longest {max(self._free[2:]) * 1000:.0f} ms"
        )
        print(f"{len(self._busy)} steps beside a checkpoint, median {statistics.median(self._busy) * 1000:.0f} ms")
        print(f"the longest of these {longest * 1000:.0f} ms; the longest copy {copy * 1000:.0f} ms")
        print(f"(longest - copy) / median: {(longest - copy) / median:.2f}")


def mlp(spec: ExampleSpec) -> keras.Model:
    """1024 - 4096 - 4096 - 1024 - classes of each pixel."""
    image = keras.Input(spec.image_shape)
    value = keras.layers.Flatten()(image)
    for units in (4096, 4096, 1024):
        value = keras.layers.Dense(units, activation="relu")(value)
    pixels = spec.label_shape[0] * spec.label_shape[1]
    value = keras.layers.Dense(pixels * spec.classes)(value)
    return keras.Model(image, keras.layers.Reshape((*spec.label_shape, spec.classes))(value))


if __name__ == "__main__":
    main()
