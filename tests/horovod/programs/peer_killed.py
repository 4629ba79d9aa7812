"""A loop of collectives in which one rank is killed; every result is compared with what it has to be.

    peer_killed.py FOLDER OPERATION MODE WHEN

OPERATION is a name of OPERATIONS; MODE is `eager` or `function`; WHEN is `before` (the others wait for a rank that does
not come) or `during` (it dies while the data are on their way). Each rank writes what became of it to FOLDER/RANK.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distrain.world.quick_import import import_tensorflow

import_tensorflow()

import horovod.tensorflow as hvd  # noqa: E402 (TensorFlow comes first, without what it takes half of its time for)
import tensorflow as tf  # noqa: E402

KILLED_AT, STEPS = 5, 10
SMALL, LARGE = 1000, 16_000_000  # numbers in a tensor: at once, and some tenths of a second
WRONG = 99
MEMBERS: list[hvd.ProcessSet] = []  # of the world that is there in main()


def allreduce(tensor: Any) -> list[Any]:
    return [hvd.allreduce(tensor, op=hvd.Sum, name="a_name_of_its_own")]


def grouped_allreduce(tensor: Any) -> list[Any]:
    return list(hvd.grouped_allreduce([tensor, tensor[:7], tensor[:100]], op=hvd.Sum))


def allreduce_in_process_set(tensor: Any) -> list[Any]:
    return [hvd.allreduce(tensor, op=hvd.Sum, process_set=MEMBERS[0])]


def allgather(tensor: Any) -> list[Any]:
    return [tf.reduce_sum(tf.reshape(hvd.allgather(tensor), [hvd.size(), -1]), axis=0)]


def broadcast(tensor: Any) -> list[Any]:
    return [tf.add_n([hvd.broadcast(tensor, root) for root in range(hvd.size())])]


def reducescatter(tensor: Any) -> list[Any]:
    return [hvd.reducescatter(tensor, op=hvd.Sum)]


def alltoall(tensor: Any) -> list[Any]:
    return [tf.reduce_sum(tf.reshape(hvd.alltoall(tensor), [hvd.size(), -1]), axis=0)]


# All give the sum over the ranks of what they are called with, in one part or another.
OPERATIONS: dict[str, Callable[[Any], list[Any]]] = {
    function.__name__: function
    for function in (
        allreduce,
        grouped_allreduce,
        allreduce_in_process_set,
        allgather,
        broadcast,
        reducescatter,
        alltoall,
    )
}


def die(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def main(folder: Path, operation: str, mode: str, when: str) -> None:
    # The launcher asks the others to end as soon as one has: they are to say first what they have seen.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hvd.init(process_sets="dynamic")
    rank, size = hvd.rank(), hvd.size()
    if operation == "allreduce_in_process_set":
        size -= 1
        MEMBERS.append(hvd.add_process_set(list(range(size))))
        if rank == size:
            operation = "allreduce"  # which nobody else takes part in, and that ends as the world does
    collective = tf.function(OPERATIONS[operation]) if mode == "function" else OPERATIONS[operation]
    outcome = folder / str(rank)
    for step in range(1, STEPS + 1):
        if step == KILLED_AT and rank == size - 1:
            outcome.write_text(f"killed in step {step}")
            die(0.0 if when == "before" else 0.05)
            if when == "before":
                signal.pause()
        length = size * (LARGE if when == "during" and step >= KILLED_AT else SMALL)
        try:
            results = collective(tf.fill([length], float(step * (rank + 1))))
        except (tf.errors.OpError, ValueError) as error:
            outcome.write_text(f"{type(error).__name__} in step {step}: {error}")
            raise
        expected = step * size * (size + 1) / 2
        if not all(bool(tf.reduce_all(result == expected)) for result in results):
            outcome.write_text(f"a wrong value in step {step}")
            os._exit(WRONG)
    outcome.write_text("finished")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
