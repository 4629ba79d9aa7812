"""What the gradients' statistics cost in a step, by formulation, interleaved, beside a STREAM triad.

    .venv/bin/python tests/benchmarks/gradient_statistics.py mlp|unet|small [--turns 20] [--only NAME ...]
    .venv/bin/horovodrun -np 2 .venv/bin/python tests/benchmarks/gradient_statistics.py unet --only on

`mlp` has 25.2 million parameters and batches of 32, `unet` is the origin's with batches of 4 of 172 x 172 a worker.
Its step varies by more than the statistics cost: `small` is the same network with batches of 1 of 76 x 76, beside
whose step their cost, which is that of its 23 variables, can be told.
Each worker keeps to a core of its own. All variants take turns in one process, in another order each time, the same on
all workers. Printed for each, by rank 0: the median of its step, and of what it took more than `off` in the same
turn, as a share of the step and in triads (a[i] = b[i] + 3 c[i] over as many floats as there are parameters: 12 bytes
each), in wall-clock time and in time of the processor, which other load on the machine disturbs less.

`off`: gradients: off. `on`: all statistics at each step. `every 10`: measured at each tenth. `by TensorFlow`: `on`
without the compiled operation. The others fold into the mean and take its norms only, as one would write it:
`per variable`, `flat` (all gradients concatenated), `XLA` (per variable, compiled).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf

from distrain.data.provider import ExampleSpec
from distrain.gradients.advance import Gradient, Momentum, advance
from distrain.gradients.statistics import Contribution, GradientStatistics
from distrain.job.load import check_job
from distrain.kernels import compiled
from distrain.model.build import Trained, build
from distrain.step.settlement import FLAGS
from distrain.step.train_step import build_train_step
from distrain.world.collectives import AloneCollectives, Collectives, HorovodCollectives
from distrain.world.devices import prepare
from distrain.world.start import start
from distrain.world.topology import World

Step = Callable[[], object]
TRIAD = """
void triad(float *a, const float *b, const float *c, long n) {
  for (long i = 0; i < n; i++) a[i] = b[i] + 3 * c[i];
}
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=("mlp", "unet", "small"))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these variants beside `off`")
    arguments = parser.parse_args()
    started = start(os.environ)
    world = started.world
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[world.local_rank]})
    prepare(world, threads=1, deterministic=False)
    variants: dict[str, dict[str, Any]] = {
        "off": {"kind": None},
        "on": {"kind": GradientStatistics},
        "every 10": {"kind": GradientStatistics, "every": 10},
        "by TensorFlow": {"kind": GradientStatistics, "by_kernel": False},
        "per variable": {"kind": PerVariable},
        "flat": {"kind": Flat},
        "XLA": {"kind": Compiled},
    }
    if arguments.only is not None:
        variants = {name: options for name, options in variants.items() if name in ("off", *arguments.only)}
    collectives = AloneCollectives() if started.horovod is None else HorovodCollectives(started.horovod)
    steps = {name: make_step(arguments.model, world, collectives, **options) for name, options in variants.items()}
    parameters = sum(int(np.prod(variable.shape)) for variable in make_trained(arguments.model)[0].trainable())
    with triad(parameters) as one_triad:
        seconds = take_turns({**steps, "triad": one_triad}, arguments.turns)
    if world.rank == 0:
        report(seconds, parameters)
    started.close()


def take_turns(steps: dict[str, Step], turns: int) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and processor seconds of each step in each turn; a turn of `every 10` is ten steps, divided."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    names, orders = list(steps), random.Random(7)
    for turn in range(-2, turns):
        orders.shuffle(names)
        for name in names:
            step = steps[name]
            repeats = 10 if name == "every 10" else 1
            began = time.perf_counter(), time.process_time()
            for _ in range(repeats):
                step()
            taken = ((time.perf_counter() - began[0]) / repeats, (time.process_time() - began[1]) / repeats)
            # The first turns hold the tracing.
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def report(seconds: dict[str, list[tuple[float, float]]], parameters: int) -> None:
    """Print the table."""
    triads = seconds.pop("triad")
    print(f"\n{parameters} parameters, {len(triads)} turns; medians; wall-clock | processor")
    for name, taken in {"triad": triads, **seconds}.items():
        cells = []
        for clock in (0, 1):
            own = statistics.median(one[clock] for one in taken)
            cell = f"{own * 1000:8.2f} ms"
            if name not in ("triad", "off"):
                more = statistics.median(
                    one[clock] - off[clock] for one, off in zip(taken, seconds["off"], strict=True)
                )
                off = statistics.median(one[clock] for one in seconds["off"])
                triad_seconds = statistics.median(one[clock] for one in triads)
                cell += f" {more * 1000:+8.2f} ms {100 * more / off:+6.1f} % {more / triad_seconds:+6.2f} triads"
            cells.append(f"{cell:52}")
        print(f"{name:14} {' | '.join(cells)}")


def make_step(
    model: str,
    world: World,
    collectives: Collectives,
    *,
    kind: type[GradientStatistics] | None,
    by_kernel: bool = True,
    every: int = 1,
) -> Step:
    """The service's own step over one batch a worker that is in memory."""
    trained, spec, batch = make_trained(model)
    own = None if kind is None else kind(trained.trainable(), every=every)
    step = build_train_step(trained, own, collectives, spec, world)
    generator = np.random.default_rng(world.rank)
    images = tf.constant(generator.random((batch, *spec.image_shape), np.float32))
    labels = tf.constant(generator.integers(0, spec.classes, (batch, *spec.label_shape)).astype(np.int32))
    weights, key, flags = tf.ones(batch), tf.constant([1, 2], tf.uint32), tf.zeros(FLAGS)
    serve = compiled.serve
    if not by_kernel:
        compiled.serve = lambda value: False  # while it is traced
    step(images, labels, weights, key, flags)
    compiled.serve = serve
    return lambda: float(step(images, labels, weights, key, flags).loss)


def make_trained(model: str) -> tuple[Trained, ExampleSpec, int]:
    """The model, what it takes, and how many of it."""
    job: dict[str, Any] = {"data": {"train": {"provider": "circles"}}, "optimizer": {"learning_rate": 0.01}}
    if model == "mlp":
        spec, batch = ExampleSpec((32, 32, 1), (), 10), 32
        job["model"] = {"name": f"{__name__ if __name__ != '__main__' else Path(__file__).stem}:mlp"}
    else:
        size, batch = (172, 4) if model == "unet" else (76, 1)
        spec = ExampleSpec((size, size, 1), (size, size), 2)
    return build(check_job(job, source="benchmark"), spec, batch_size=batch, epoch_steps=100), spec, batch


def mlp(spec: ExampleSpec) -> keras.Model:
    """1024 - 4096 - 4096 - 1024 - classes."""
    image = keras.Input(spec.image_shape)
    value = keras.layers.Flatten()(image)
    for units in (4096, 4096, 1024):
        value = keras.layers.Dense(units, activation="relu")(value)
    return keras.Model(image, keras.layers.Dense(spec.classes)(value))


class PerVariable(GradientStatistics):
    """The mean of each variable's gradients by the formula of the origin, and its norm."""

    def advance(
        self,
        gradients: Sequence[Gradient],
        *unused: tf.Tensor | Contribution,
        momenta: Sequence[Momentum] | None = None,
        **others: object,
    ) -> tf.Tensor:
        count = tf.cast(self.running_mean.count.assign_add(1), tf.float32)
        norms = self.fold([gradient.total / gradient.divisor for gradient in gradients], count)
        assert momenta is not None
        with tf.control_dependencies([norms]):
            for gradient, momentum in zip(gradients, momenta, strict=True):
                advance(gradient, None, momentum)
        return tf.zeros([0, len(gradients)], tf.float64) + 0 * tf.cast(tf.reduce_sum(norms), tf.float64)

    def fold(self, gradients: Sequence[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Norms [variables] of the means with these gradients."""
        means = self.running_mean.recent
        updated = [mean.assign_add((one - mean) / count) for mean, one in zip(means, gradients, strict=True)]
        return tf.stack([tf.norm(mean) for mean in updated])


class Flat(PerVariable):
    """All gradients in one array."""

    def fold(self, gradients: Sequence[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        if not hasattr(self, "_flat"):
            with tf.init_scope():
                size = sum(int(np.prod(variable.shape)) for variable in self.variables)
                self._flat = tf.Variable(tf.zeros(size))
        flat = tf.concat([tf.reshape(gradient, [-1]) for gradient in gradients], axis=0)
        mean = self._flat.assign_add((flat - self._flat) / count)
        parts = tf.split(mean, [int(np.prod(variable.shape)) for variable in self.variables])
        return tf.stack([tf.norm(part) for part in parts])


class Compiled(PerVariable):
    """Per variable, by XLA."""

    def fold(self, gradients: Sequence[tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        fold = tf.function(super().fold, jit_compile=True, autograph=False)
        return fold(list(gradients), count)


@contextmanager
def triad(size: int) -> Iterator[Step]:
    """STREAM's triad over arrays of `size` floats, compiled for this machine."""
    compiler = shutil.which("c++") or shutil.which("g++")
    assert compiler is not None, "the triad needs a C++ compiler"
    arrays = [np.full(size, value, np.float32) for value in (0, 1, 2)]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "triad.so"
        command = [compiler, "-x", "c", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), "-"]
        subprocess.run(command, input=TRIAD, text=True, check=True)
        function = ctypes.CDLL(str(library)).triad
        yield lambda: function(*pointers, ctypes.c_long(size))


if __name__ == "__main__":
    main()
