"""Values exchanged by all ranks, outside of the training step: sums, averages, concatenations, broadcasts."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Protocol

import tensorflow as tf

from distrain.errors import BadInput
from distrain.keras.place import place


class Reduction(IntEnum):
    """How the values of all ranks become one; the numbers are Horovod's."""

    AVERAGE = 0
    SUM = 1
    ADASUM = 2
    MIN = 3
    MAX = 4
    PRODUCT = 5


Average, Sum, Adasum, Min, Max, Product = Reduction


class Compressor(Protocol):
    """How a tensor is made smaller for its way between the ranks."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """The tensor as it is sent, and what `decompress` needs."""
        ...

    def decompress(self, tensor: tf.Tensor, context: Any) -> tf.Tensor:
        """The tensor as it was, but for what compression has lost."""
        ...


class Whole:
    """Sent as it is."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return tensor, None

    def decompress(self, tensor: tf.Tensor, context: Any) -> tf.Tensor:
        return tensor


class Half:
    """Floating-point tensors sent with 16 bits."""

    def compress(self, tensor: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return (tf.cast(tensor, tf.float16) if tensor.dtype.is_floating else tensor), tensor.dtype

    def decompress(self, tensor: tf.Tensor, context: Any) -> tf.Tensor:
        return tf.cast(tensor, context)


class Compression:
    """The compressors to choose from."""

    none: Compressor = Whole()
    fp16: Compressor = Half()


def allreduce(
    value: Any,
    name: str | None = None,
    average: bool | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    op: int | None = None,
    compression: Compressor = Compression.none,
) -> tf.Tensor:
    """One value from those of all ranks, which have the same shape: their average where `op` says nothing else."""
    if average is not None and op is not None:
        raise BadInput("allreduce: expected 'op' or the older 'average', got both")
    if op is None:
        op = Sum if average is False else Average
    tensor, context = compression.compress(tf.convert_to_tensor(value))
    horovod = place().horovod
    if horovod is None:
        scale = prescale_factor * postscale_factor
        reduced = tensor if scale == 1 else tensor * tf.cast(scale, tensor.dtype)
    else:
        factors = {"prescale_factor": prescale_factor, "postscale_factor": postscale_factor}
        reduced = horovod.allreduce(tensor, op=int(op), name=name, **factors)
    return compression.decompress(reduced, context)


def allgather(value: Any, name: str | None = None) -> tf.Tensor:
    """The values of all ranks, one after the other along the first axis, the length of which may differ."""
    tensor = tf.convert_to_tensor(value)
    horovod = place().horovod
    return tensor if horovod is None else horovod.allgather(tensor, name=name)


def broadcast(value: Any, root_rank: int, name: str | None = None) -> tf.Tensor:
    """The value of rank `root_rank`; that of the others has the same shape."""
    tensor = tf.convert_to_tensor(value)
    horovod = place().horovod
    return tensor if horovod is None else horovod.broadcast(tensor, root_rank, name=name)


def reducescatter(value: Any, name: str | None = None, op: int = Average) -> tf.Tensor:
    """This rank's part, along the first axis, of what `allreduce` gives."""
    tensor = tf.convert_to_tensor(value)
    horovod = place().horovod
    return tensor if horovod is None else horovod.reducescatter(tensor, name=name, op=int(op))


def broadcast_global_variables(root_rank: int) -> None:
    """Refused: there are no global variables in TensorFlow 2."""
    raise BadInput(
        "broadcast_global_variables: TensorFlow 2 has no global variables; "
        "use hvd.broadcast_variables(model.variables, root_rank) or callbacks.BroadcastGlobalVariablesCallback"
    )


def broadcast_variables(variables: Any, root_rank: int) -> None:
    """Give all ranks the values of rank `root_rank`; `variables` are TensorFlow's or Keras's, in the same order."""
    values = [variable.value if hasattr(variable, "path") else variable for variable in variables]
    place().collectives("distrain.variables").broadcast(values, root_rank)
