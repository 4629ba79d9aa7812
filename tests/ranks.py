"""A world of threads: ranks that meet in memory, for what several of them make of one step, without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

T = TypeVar("T")


class _Meeting:
    """Where the threads of a world lay down arrays for each other."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self._slots: list[list[npt.NDArray[Any]]] = [[]] * size

    def everyones(self, rank: int, arrays: list[npt.NDArray[Any]]) -> list[list[npt.NDArray[Any]]]:
        self._slots[rank] = arrays
        self.barrier.wait()
        seen = list(self._slots)
        self.barrier.wait()
        return seen


class ThreadCollectives:
    """Collectives of a rank that is a thread; not within a compiled function. `sent` has the types of what it sends."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self.rank = rank
        self.size = meeting.size
        self.sent: list[str] = []
        self._meeting = meeting

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        first, *others = self._everyones(tensors)
        for other in others:
            first = [one + two for one, two in zip(first, other, strict=True)]
        return [tf.constant(one) for one in first]

    def named(self, name: str) -> ThreadCollectives:
        return self

    def alltoall(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.constant(np.stack([arrays[0][self.rank] for arrays in self._everyones([rows])]))

    def allgather(self, part: tf.Tensor) -> tf.Tensor:
        return tf.constant(np.concatenate([arrays[0] for arrays in self._everyones([part])]))

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        raise AssertionError("nothing here asks for it")

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        raise AssertionError("nothing here asks for it")

    def _everyones(self, tensors: Sequence[tf.Tensor]) -> list[list[npt.NDArray[Any]]]:
        self.sent += [tensor.dtype.name for tensor in tensors]
        return self._meeting.everyones(self.rank, [np.asarray(tensor) for tensor in tensors])


def world_of(size: int) -> list[ThreadCollectives]:
    """The collectives of each rank."""
    meeting = _Meeting(size)
    return [ThreadCollectives(meeting, rank) for rank in range(size)]


def on_all(world: Sequence[ThreadCollectives], action: Callable[[int], T]) -> list[T]:
    """What `action(rank)` gives on each rank, at the same time; raises what befalls one of them."""

    def run(rank: int) -> T:
        try:
            return action(rank)
        except BaseException:
            world[rank]._meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(len(world)) as executor:
        futures = [executor.submit(run, rank) for rank in range(len(world))]
    failures = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(failures, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
