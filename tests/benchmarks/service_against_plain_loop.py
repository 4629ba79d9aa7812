"""Throughput of the whole service against a plain TensorFlow loop over the same U-Net, interleaved on one core.

    taskset -c 0 .venv/bin/python tests/benchmarks/service_against_plain_loop.py [--blocks 12] [--stock-dropout]

Both train in turns of 10 steps in one process, so that a machine whose speed drifts treats both alike. The service
reads, augments and batches its data, keeps the running mean with all norms, and logs every step to metrics.jsonl and
TensorBoard; the plain loop repeats one batch that is in memory, and does nothing but forward, backward and optimizer.
Prints the median and the range of the ratio plain time / service time: above 1 the service is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf

from distrain.data.batches import Batches, LocalBatch
from distrain.job.load import check_job
from distrain.job.schema import Job, UNet
from distrain.model.portable import portable
from distrain.model.unet import build_unet
from distrain.train import run as service
from distrain.train.opening import Request
from distrain.train.stop import StopRequest
from distrain.world.devices import prepare
from distrain.world.start import start

STEPS = 10
SIZE = 172
BATCH = 4


def main() -> None:
    """Run the blocks and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=12, help="turns of 10 steps for each")
    parser.add_argument("--stock-dropout", action="store_true", help="the plain loop uses keras.layers.Dropout")
    arguments = parser.parse_args()
    started = start({})
    prepare(started.world, threads=1, deterministic=False)
    plain = plain_step(stock_dropout=arguments.stock_dropout)
    turns = Turns(plain, arguments.blocks)
    original = Batches.next

    def next_in_turn(batches: Batches) -> LocalBatch:
        return turns.next(original, batches)

    Batches.next = next_in_turn  # type: ignore[method-assign, assignment]  # to take turns
    with tempfile.TemporaryDirectory() as folder:
        job = circles_job(steps=(arguments.blocks + 1) * STEPS + 1)
        service.run(Request(job, Path(folder) / "run"), started, StopRequest())
    ratios = [plain / own for own, plain in turns.seconds]
    own, other = (statistics.median(column) / STEPS * 1000 for column in zip(*turns.seconds, strict=True))
    print(f"\nservice {own:.1f} ms a step, plain loop {other:.1f} ms a step (medians of {len(ratios)} turns)")
    print(f"plain / service: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


class Turns:
    """Lets the plain loop make its steps between those of the service, and keeps both times."""

    def __init__(self, plain: Callable[[], None], blocks: int) -> None:
        self.seconds: list[tuple[float, float]] = []
        self._plain = plain
        self._blocks = blocks
        self._calls = 0
        self._began = 0.0

    def next(self, original: Callable[[Batches], LocalBatch], batches: Batches) -> LocalBatch:
        """Give the service its next batch; at the end of its turn, first take the other's."""
        if self._calls % STEPS == 0:
            own = time.perf_counter() - self._began
            began = time.perf_counter()
            for _ in range(STEPS):
                self._plain()
            other = time.perf_counter() - began
            # The first turn holds the tracing of both.
            if self._calls > STEPS:
                self.seconds.append((own, other))
            self._began = time.perf_counter()
        self._calls += 1
        return original(batches)


def circles_job(*, steps: int) -> Job:
    """The origin's job at the size of the measurement."""
    return check_job(
        {
            "name": "bench",
            "data": {"train": {"provider": "circles", "examples": 100_000, "size": SIZE}},
            "train": {"batch_size": BATCH, "steps": steps},
        },
        source="benchmark",
    )


def plain_step(*, stock_dropout: bool) -> Callable[[], None]:
    """One step of a loop as one would write it without any framework around."""
    model = build_unet(UNet(), channels=1, classes=2, seed=1)
    if stock_dropout:
        model = portable(model, (SIZE, SIZE, 1))
    optimizer = keras.optimizers.SGD(0.2, momentum=0.2)
    optimizer.build(model.trainable_variables)
    images = tf.random.uniform([BATCH, SIZE, SIZE, 1])
    labels = tf.cast(tf.random.uniform([BATCH, SIZE - 40, SIZE - 40]) > 0.5, tf.int32)

    @tf.function  # type: ignore[untyped-decorator, unused-ignore]  # TensorFlow has no types
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    def one() -> None:
        float(step(images, labels))

    return one


if __name__ == "__main__":
    main()
