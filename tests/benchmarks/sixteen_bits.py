"""Exchanging gradients in 16 bits: time, bytes sent over TCP by this machine, and error, by size, in turns.

    distrain launch -n 2 -- tests/benchmarks/sixteen_bits.py [--sizes 1000000 10000000] [--turns 20]
    distrain launch -n 2 --controller mpi -- tests/benchmarks/sixteen_bits.py

Compares whole float32, Horovod's allreduce of float16, and the step's alltoall and allgather of 16-bit patterns. The
error is that of rank 0's sum, in the L2 norm. MPI on one machine shares memory: its bytes are not seen.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil

from distrain.bench.figures import Figure, interleaved, table
from distrain.cli.worker import settle
from distrain.job.schema import Parallel
from distrain.world.start import start

started = start(os.environ)
settle(Parallel(), started)

import tensorflow as tf  # noqa: E402 (devices and threads are settled first)

from distrain.step.reduction import Slices, added  # noqa: E402
from distrain.world.collectives import HorovodCollectives  # noqa: E402

# As many tensors as a small network has; a step's gradients are never one.
TENSORS = 16
REPEATED = 5


def sent() -> int:
    """Bytes that have left by the loopback, of all ranks."""
    return psutil.net_io_counters(pernic=True)["lo"].bytes_sent


def variants(size: int, variables: list[tf.Variable]) -> dict[str, Callable[[], list[tf.Tensor]]]:
    """Each way of adding up the variables over ranks, compiled."""

    def collectives(name: str) -> HorovodCollectives:
        return HorovodCollectives(started.horovod, f"bench.{size}.{name}")

    def whole() -> list[tf.Tensor]:
        return collectives("whole").sum_group([tf.identity(each) for each in variables])

    def half() -> list[tf.Tensor]:
        summed = collectives("half").sum_group([tf.cast(each, tf.float16) for each in variables])
        return [tf.cast(each, tf.float32) for each in summed]

    def sliced(wire: tf.DType) -> Callable[[], list[tf.Tensor]]:
        reduce = added(Slices(variables, collectives(wire.name), wire))
        return lambda: reduce([tf.identity(each) for each in variables], tf.ones([]))

    ways: dict[str, Any] = {"float32": whole, "float16 by Horovod's allreduce": half}
    ways |= {f"{wire.name} by slices": sliced(wire) for wire in (tf.float16, tf.bfloat16)}
    return {name: tf.function(way, autograph=False) for name, way in ways.items()}


def main() -> None:
    """Measure, and print on rank 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000], help="numbers in all")
    parser.add_argument("--turns", type=int, default=20)
    arguments = parser.parse_args()
    figures = []
    for size in arguments.sizes:
        values = [
            np.random.default_rng([size, rank]).standard_normal(size).astype(np.float32)
            for rank in range(started.world.size)
        ]
        exact = np.sum(values, axis=0, dtype=np.float64)
        variables = [tf.Variable(part) for part in np.array_split(values[started.world.rank], TENSORS)]
        ways = variants(size, variables)
        counted: dict[str, int] = {}

        def timed(name: str, way: Callable[[], list[tf.Tensor]], counted: dict[str, int] = counted) -> Any:
            def measure() -> float:
                started.control.gather(None)
                before, began = sent(), time.perf_counter()
                for _ in range(REPEATED):
                    way()[0][:1].numpy()
                seconds = time.perf_counter() - began
                started.control.gather(None)
                counted[name] = (sent() - before) // REPEATED
                return seconds / REPEATED * 1000

            return measure

        found = interleaved({name: timed(name, way) for name, way in ways.items()}, turns=arguments.turns)
        for name, way in ways.items():
            total = np.concatenate([np.asarray(each) for each in way()])
            part = f"{size} numbers"
            figures.append(Figure.of(part, name, found[name], "ms"))
            figures.append(Figure.of(part, f"{name}: all ranks send", [counted[name] / 1e6], "MB"))
            error = float(np.linalg.norm(total - exact) / np.linalg.norm(exact))
            figures.append(Figure.of(part, f"{name}: error", [error], ""))
    if started.world.rank == 0:
        print(table(figures), flush=True)
    started.control.gather(None)
    started.close()


if __name__ == "__main__":
    main()
