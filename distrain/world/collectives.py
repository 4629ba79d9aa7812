"""The data plane: what ranks exchange within a step and to prove that they agree; TensorFlow tensors, no pickles.

`HorovodCollectives` is what Horovod offers, `AloneCollectives` the same for a world of 1. Where a tensor lies decides
who reduces it: in a GPU's memory NCCL, if Horovod was built with it (docker/horovod), in the host's MPI or Gloo.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf


class Collectives(Protocol):
    """Reductions over all ranks; each call is collective, and usable inside a `tf.function`."""

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The sum over ranks of each tensor, by one grouped allreduce for each dtype; shapes and dtypes stay."""
        ...

    def named(self, name: str) -> Collectives:
        """The same, whose sums may go on while those of another name do."""
        ...

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        """The element-wise maximum over ranks."""
        ...

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        """Give all ranks the values of rank `root`. Not inside a `tf.function`."""
        ...


class AloneCollectives:
    """A world of 1: nothing to do."""

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(tensors)

    def named(self, name: str) -> Collectives:
        return self

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        return tensor

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        pass


class HorovodCollectives:
    """Horovod's operations; `horovod` is the module `horovod.tensorflow`, initialised.

    `step` names the groups of sums: those that may go on at the same time need different names.
    """

    def __init__(self, horovod: Any, step: str = "distrain.step") -> None:
        self._hvd = horovod
        self._step = step

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

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        return self._hvd.allreduce(tensor, op=self._hvd.Max, name="distrain.maximum")

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        for number, variable in enumerate(variables):
            variable.assign(self._hvd.broadcast(variable, root_rank=root, name=f"distrain.broadcast.{number}"))
