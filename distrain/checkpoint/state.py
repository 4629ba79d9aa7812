"""The replica state as named arrays: to a checkpoint's TensorFlow files and back, and its sha256."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.errors import BadInput
from distrain.gradients.statistics import GradientStatistics
from distrain.model.build import Trained

PREFIX = "state"
Arrays = Mapping[str, npt.NDArray[np.generic]]


class State:
    """Variables by names that stay: `GROUP/...`."""

    def __init__(self, variables: Mapping[str, tf.Variable]) -> None:
        self.variables = dict(variables)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """A copy of the state on the host."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def restore(self, folder: Path) -> None:
        """Set all variables from a checkpoint's files.

        Raises `BadInput` where names, shapes or types differ: the checkpoint is of another model.
        """
        reader = tf.train.load_checkpoint(str(folder / PREFIX))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        more = sorted(shapes.keys() - self.variables.keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"})
        if more:
            raise BadInput(f"{folder}: '{more[0]}': expected no such variable, it is of another model")
        for name, variable in self.variables.items():
            if list(shapes.get(name, ())) != variable.shape.as_list() or types.get(name) != variable.dtype:
                seen = f"{types[name].name} {shapes[name]}" if name in shapes else "no such variable"
                raise BadInput(
                    f"{folder}: '{name}': expected {variable.dtype.name} {variable.shape.as_list()}, got {seen}"
                )
        for name, variable in self.variables.items():
            variable.assign(reader.get_tensor(name))


class ReplicaState(State):
    """All variables that make a replica, in three groups with fixed names.

    `weights/...`: trainable weights and buffers; `optimizer/...`: its step count and slots, and the loss scale where
    there is one; `gradient_mean/...`: the running mean, its count, and what else the gradients' statistics carry on.
    """

    def __init__(self, trained: Trained, statistics: GradientStatistics | None) -> None:
        groups = {
            "weights": [(weight.path, weight.value) for weight in trained.model.weights],
            "optimizer": [(variable.path, variable.value) for variable in trained.optimizer.variables],
            "gradient_mean": [],
        }
        if trained.loss_scale is not None:
            scale = trained.loss_scale
            groups["optimizer"] += [("loss_scale", scale.scale), ("loss_scale_steps", scale.steps)]
        if statistics is not None:
            paths = [weight.path for weight in trained.model.trainable_variables]
            groups["gradient_mean"] = list(statistics.state(paths).items())
        super().__init__(
            {
                f"{group}/{number:04d}/{path}": variable
                for group, members in groups.items()
                for number, (path, variable) in enumerate(members)
            }
        )


class Snapshot:
    """A copy of the state on the host, in memory that is taken once and used for one copy after another.

    Fresh memory would cost several times what the copy does, and each conversion holds up whatever else runs in Python.
    `arrays` and `tensors` are two views of it; both change with the next `take`.
    """

    def __init__(self, state: State) -> None:
        self._variables = state.variables
        with tf.device("CPU:0"):
            self.tensors: dict[str, tf.Tensor] = {
                name: tf.raw_ops.Empty(shape=variable.shape, dtype=variable.dtype, init=False)
                for name, variable in state.variables.items()
            }
        self.arrays: Arrays = {name: np.asarray(memoryview(tensor)) for name, tensor in self.tensors.items()}

    def take(self) -> None:
        """Copy the state as it is now."""
        with tf.device("CPU:0"):
            for name, array in self.arrays.items():
                if array.nbytes:
                    # TensorFlow's tensors are read-only to all others, but these are nobody else's.
                    memory = memoryview((ctypes.c_char * array.nbytes).from_address(array.ctypes.data))
                    np.copyto(np.frombuffer(memory, array.dtype).reshape(array.shape), _on_host(self._variables[name]))


def _on_host(variable: tf.Variable) -> memoryview:
    """A variable's value, without a copy where it is on the host. Within the host's device.

    By bare operations: `read_value` takes five times as long as the first of them. A compiled function that reads all
    variables would be quicker still, but takes 0.3 s to build where a run may need it once, at its end.
    """
    value = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    return memoryview(tf.raw_ops.Identity(input=value))


def write(values: Mapping[str, tf.Tensor | npt.NDArray[np.generic]], folder: Path) -> None:
    """Write tensors or arrays as TensorFlow checkpoint files. Raises `OSError` where that fails."""
    names = list(values)
    try:
        tf.raw_ops.SaveV2(
            prefix=str(folder / PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.convert_to_tensor(values[name]) for name in names],
        )
    except tf.errors.OpError as error:
        raise OSError(f"{folder}: cannot be written ({' '.join(error.message.split())})") from error


def not_finite(arrays: Arrays) -> str | None:
    """The name of an array that holds NaN or infinity, if any does."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            return name
    return None


def sha256(arrays: Arrays, group: str) -> str:
    """A digest over names, types, shapes and bytes of one group's arrays, in their order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        if name.startswith(group + "/"):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            # Bytes in place: a copy would hold up the training beside which a checkpoint is written.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def read_weights(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    """The weights of a checkpoint by their names, in the model's order. Raises `OSError` where they cannot be read."""
    try:
        reader = tf.train.load_checkpoint(str(folder / PREFIX))
        names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith("weights/"))
        return {name: reader.get_tensor(name) for name in names}
    except (tf.errors.OpError, ValueError) as error:
        raise OSError(f"{folder}: cannot be read ({' '.join(str(error).split())})") from error


def set_weights(model: keras.Model, weights: Sequence[tuple[str, npt.NDArray[np.generic]]], *, source: str) -> None:
    """Set all weights of a model, buffers included, from values in its order, with the names that they have at home.

    Floats of the other precision are converted. Raises `BadInput`, naming `source`, where numbers or shapes differ.
    """
    if len(weights) != len(model.weights):
        raise BadInput(f"{source}: has {len(weights)} weights, expected the {len(model.weights)} of the job's model")
    for weight, (name, value) in zip(model.weights, weights, strict=True):
        if value.shape != tuple(weight.shape):
            raise BadInput(
                f"{source}: '{name}' is {list(value.shape)}, expected {list(weight.shape)} as '{weight.path}' of the "
                "job's model is"
            )
    for weight, (_, value) in zip(model.weights, weights, strict=True):
        weight.assign(value)
