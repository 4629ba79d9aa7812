"""A loop under `hvd.elastic.run` whose highest rank dies, once for each of the operations; the others go on.

    elastic_loop.py FOLDER STATE KILLED_AT,... STEPS COMMITTED_EVERY OPERATION,...

In each of the steps KILLED_AT the highest rank kills itself; up to then the first of the operations is used, then the
next. In every step all ranks add the step's number to a variable, by a mean that is right only where all take part.
STATE is `variables` or `keras`. Each worker appends what it did to FOLDER/HOST, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrain.world.quick_import import import_tensorflow

import_tensorflow()

import horovod.tensorflow as hvd  # noqa: E402 (TensorFlow comes first, without what it takes half of its time for)
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402


def single(tensor: Any) -> list[Any]:
    return [hvd.allreduce(tensor, name="a_name_of_its_own")]


def grouped(tensor: Any) -> list[Any]:
    return list(hvd.grouped_allreduce([tensor, tensor[:7], tensor[:100]]))


def constant(_: Any) -> list[Any]:
    """What TensorFlow could work out once and keep, though the world changes."""
    return [hvd.allreduce(tf.constant(1.0), op=hvd.Sum)]


COLLECTIVES: dict[str, Callable[[Any], list[Any]]] = {
    "single_eager": single,
    "grouped_eager": grouped,
    "single_function": tf.function(single),
    "grouped_function": tf.function(grouped),
}
count_ranks = tf.function(constant)


class Log:
    def __init__(self, folder: Path) -> None:
        self._path = folder / os.environ["HOROVOD_HOSTNAME"]

    def __call__(self, **what: Any) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(what) + "\n")


def number(variable: Any) -> float:
    return float(variable[0, 0])


def add(state: Any, variable: tf.Variable, operation: str) -> None:
    """One step: the mean over the ranks of numbers that are another on each of them is the step's number."""
    rank, size = hvd.rank(), hvd.size()
    mine = state.step * (1.0 + rank - (size - 1) / 2)
    means = COLLECTIVES[operation](tf.fill([1000], mine))
    for mean in means:
        tf.debugging.assert_near(mean, tf.ones_like(mean) * float(state.step), rtol=1e-5)
    variable.assign_add([[float(state.step)]])


def main(
    folder: Path, kind: str, killed_at: list[int], steps: int, committed_every: int, operations: list[str]
) -> None:
    hvd.init()
    log = Log(folder)
    # What a worker begins with is worth nothing where it joins others.
    start = [[0.0 if hvd.rank() == 0 else 1000.0]]
    if kind == "keras":
        model = keras.Sequential([keras.layers.Dense(1, use_bias=False)])
        model.build((None, 1))
        optimizer = keras.optimizers.SGD(momentum=0.5)
        model.compile(optimizer)
        state = hvd.elastic.TensorFlowKerasState(model, step=0)
        variable, slot = model.variables[0].value, optimizer.variables[-1].value
    else:
        variable, slot = tf.Variable(start), tf.Variable(start)
        state = hvd.elastic.TensorFlowState([variable, slot], step=0)
    variable.assign(start)
    slot.assign(start)

    @hvd.elastic.run
    def train(state: Any) -> str:
        counted = float(count_ranks(None)[0])
        world = {"rank": hvd.rank(), "size": hvd.size(), "counted": counted}
        log(begun=state.step, variable=number(variable), slot=number(slot), **world)
        while state.step < steps:
            # The world is smaller by one after each death: how often that has been says which is next.
            deaths = len(killed_at) + 1 - hvd.size()
            if state.step in killed_at[deaths : deaths + 1] and hvd.rank() == hvd.size() - 1:
                log(killed=state.step)
                os.kill(os.getpid(), signal.SIGKILL)
            state.step += 1
            add(state, variable, operations[min(deaths, len(operations) - 1)])
            slot.assign(variable)
            if state.step % committed_every == 0:
                state.commit()
        return "trained"

    log(result=train(state), step=state.step, variable=number(variable), slot=number(slot))


if __name__ == "__main__":
    folder, kind, killed_at, steps, committed_every, operations = sys.argv[1:]
    killed = [int(step) for step in killed_at.split(",")]
    main(Path(folder), kind, killed, int(steps), int(committed_every), operations.split(","))
