"""The data plane: what ranks exchange within a step and to prove that they agree; TensorFlow tensors, no pickles.

`HorovodCollectives` is what Horovod offers, `AloneCollectives` the same for a world of 1. Where a tensor lies decides
who reduces it: in a GPU's memory NCCL, if Horovod was built with it (docker/horovod), in the host's MPI or Gloo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf


class Collectives(Protocol):
    """Exchanges between all ranks; each call is collective, and usable inside a `tf.function`.

    `rank` is this one of `size`.
    """

    rank: int
    size: int

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The sum over ranks of each tensor, by one grouped allreduce for each dtype; shapes and dtypes stay."""
        ...

    def named(self, name: str) -> Collectives:
        """The same, whose sums, alltoall and allgather may go on while those of another name do."""
        ...

    def alltoall(self, rows: tf.Tensor) -> tf.Tensor:
        """Row r goes to rank r; returns what each rank has for this one, in rank order. [size, n] both."""
        ...

    def allgather(self, part: tf.Tensor) -> tf.Tensor:
        """The parts [n] of all ranks in rank order, [size * n]."""
        ...

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        """The element-wise maximum over ranks."""
        ...

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        """Give all ranks the values of rank `root`. Not inside a `tf.function`."""
        ...


class AloneCollectives:
    """A world of 1: nothing to do."""

    rank = 0
    size = 1

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(tensors)

    def named(self, name: str) -> Collectives:
        return self

    def alltoall(self, rows: tf.Tensor) -> tf.Tensor:
        return rows

    def allgather(self, part: tf.Tensor) -> tf.Tensor:
        return part

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        return tensor

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        pass


class HorovodCollectives:
    """Horovod's operations; `horovod` is the module `horovod.tensorflow`, initialised.

    `step` names what is exchanged: what may go on at the same time needs different names. Where the world changes, it
    is another world's.
    """

    def __init__(self, horovod: Any, step: str = "distrain.step") -> None:
        self._hvd = horovod
        self._step = step
        self.rank: int = horovod.rank()
        self.size: int = horovod.size()

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        # The inputs must not be constants: TensorFlow folds a collective of constants into its first result.
        summed: dict[int, tf.Tensor] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [number for number, tensor in enumerate(tensors) if tensor.dtype == dtype]
            group = [tensors[number] for number in alike]
            name = f"{self._step}.{dtype.name}"
            summed |= zip(alike, self._hvd.grouped_allreduce(group, op=self._hvd.Sum, name=name), strict=True)
        return [summed[number] for number in range(len(tensors))]

    def named(self, name: str) -> Collectives:
        return HorovodCollectives(self._hvd, name)

    def alltoall(self, rows: tf.Tensor) -> tf.Tensor:
        received = self._hvd.alltoall(rows, name=f"{self._step}.alltoall")
        return tf.ensure_shape(received, rows.shape)

    def allgather(self, part: tf.Tensor) -> tf.Tensor:
        gathered = self._hvd.allgather(part, name=f"{self._step}.allgather")
        return tf.ensure_shape(gathered, [self.size * part.shape[0]])

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        return self._hvd.allreduce(tensor, op=self._hvd.Max, name="distrain.maximum")

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        for number, variable in enumerate(variables):
            variable.assign(self._hvd.broadcast(variable, root_rank=root, name=f"distrain.broadcast.{number}"))
