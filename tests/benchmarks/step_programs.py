"""What a step takes as operations and as programs of XLA's, beside bare loops of the same model, on this machine's GPU.

python -m tests.benchmarks.step_programs [JOB.yaml] [-o KEY=VALUE] [--batch 4] [--turns 8] [--way programs]
One process, whatever is there: a GPU if TensorFlow finds one, else the CPU; needs no Horovod. Milliseconds a step,
medians over turns; after 20 steps from one state, how far the weights of each way are from those of the first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from distrain.bench.job import job_to_measure
from distrain.data.select import select
from distrain.gradients.statistics import GradientStatistics
from distrain.kernels import compiled
from distrain.model.build import Trained, build
from distrain.step.settlement import FLAGS
from distrain.step.train_step import build_train_step, crop_labels
from distrain.train.parts import make_statistics
from distrain.world.collectives import AloneCollectives
from distrain.world.devices import prepare, uses_gpu
from distrain.world.topology import World

Step = Callable[..., Any]


def _bare(trained: Trained, **options: Any) -> Step:
    variables = trained.model.trainable_variables
    trained.optimizer.build(variables)

    def step(images: tf.Tensor, labels: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        with compiled.left_out() if options else nullcontext(), tf.GradientTape() as tape:
            logits = trained.logits(images, training=True)
            loss = tf.reduce_mean(trained.loss(crop_labels(labels, logits), logits))
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        trained.optimizer.apply(gradients, variables)
        return loss

    function: Step = tf.function(step, autograph=False, **options)
    return function


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", nargs="?", type=Path)
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--way", dest="chosen", action="append", help="this one and not all; may be given again")
    given = parser.parse_args()
    job = job_to_measure(given.job, [*given.overrides, f"train.batch_size={given.batch}"], workers=1)
    prepare(World(), threads=job.parallel.threads, deterministic=False)
    source = select(job.data.train, key="data.train", seed=job.seed, training=True, data=job.data)
    trained = build(job, source.spec, batch_size=given.batch, epoch_steps=1)
    measured = make_statistics(job.gradients, trained)
    size, spec = given.batch, source.spec
    random = np.random.default_rng(1)
    batch = (
        tf.constant(random.random((size, *spec.image_shape), np.float32)),
        tf.constant(random.integers(0, spec.classes, (size, *spec.label_shape)), tf.int32),
        tf.ones(size),
        tf.constant([3, 4], tf.uint32),
        tf.zeros(FLAGS),
    )

    def service(kept: GradientStatistics | None, **options: bool) -> Step:
        return build_train_step(trained, kept, AloneCollectives(), spec, World(), **options)

    ways: dict[str, Step] = {
        "operations": service(measured),
        "operations, gradients: off": service(None),
        "programs": service(measured, programs=True),
        "programs, gradients: off": service(None, programs=True),
        "bare loop": _bare(trained),
        "programs, jit_compile": service(measured, programs=True, jit_compile=True),
        "programs, jit_compile, gradients: off": service(None, programs=True, jit_compile=True),
        "bare loop, jit_compile": _bare(trained, jit_compile=True),
    }
    ways = {name: step for name, step in ways.items() if given.chosen is None or name in given.chosen}
    print("on a GPU" if uses_gpu() else "on the CPU", job.train.precision, "batch", given.batch, spec.image_shape)

    state = [*trained.model.variables, *trained.optimizer.variables]
    start = [variable.numpy() for variable in state]
    first: list[np.ndarray[Any, Any]] = []
    for name, step in ways.items():
        for variable, value in zip(state, start, strict=True):
            variable.assign(value)
        began = time.perf_counter()
        _finished(step(*batch))
        first_step = time.perf_counter() - began
        for _ in range(19):
            _finished(step(*batch))
        weights = [variable.numpy() for variable in trained.model.trainable_variables]
        first = first or weights
        away = sum(float(np.sum((one - two) ** 2)) for one, two in zip(weights, first, strict=True))
        whole = sum(float(np.sum(one**2)) for one in first)
        print(f"{name:40} first step {first_step:6.1f} s, away by {(away / whole) ** 0.5:.1e}", flush=True)

    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.turns):
        names = list(ways)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _finished(ways[name](*batch))
            began = time.perf_counter()
            for _ in range(given.steps):
                _finished(ways[name](*batch))
            times[name].append(1000 * (time.perf_counter() - began) / given.steps)
    for name, taken in times.items():
        bare = times.get("bare loop, jit_compile" if "jit" in name else "bare loop", taken)
        ratio = statistics.median((np.array(bare) / np.array(taken)).tolist())
        print(
            f"{name:40} {statistics.median(taken):8.2f} ms ({min(taken):.2f} to {max(taken):.2f}), {ratio:.2f} of bare"
        )


def _finished(result: Any) -> None:
    """Wait for it, as a loop that looks at the loss of each step does."""
    float(result if isinstance(result, tf.Tensor) else result.loss)


if __name__ == "__main__":
    main()
