"""Small models, collectives and examples for tests that train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.data.provider import ExampleSpec
from distrain.model.build import Trained, build
from tests.support import make_job

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]

SPEC = ExampleSpec((6, 6, 1), (), 3)


def _model(spec: ExampleSpec, *layers: keras.layers.Layer) -> keras.Model:
    image = keras.Input(spec.image_shape, name="image")
    value = image
    for layer in layers:
        value = layer(value)
    flat = keras.layers.Flatten(name="flat")(value)
    return keras.Model(image, keras.layers.Dense(spec.classes, name="logits")(flat))


def dense(spec: ExampleSpec) -> keras.Model:
    return _model(spec)


def convolution(spec: ExampleSpec, features: int = 2) -> keras.Model:
    return _model(spec, keras.layers.Conv2D(features, 3, activation="relu", name="convolution"))


def frozen(spec: ExampleSpec) -> keras.Model:
    return _model(spec, keras.layers.Conv2D(8, 3, trainable=False, name="frozen"))


def batch_norm(spec: ExampleSpec) -> keras.Model:
    return _model(spec, keras.layers.Conv2D(2, 3, name="convolution"), keras.layers.BatchNormalization(name="norm"))


def normalization(spec: ExampleSpec) -> keras.Model:
    """Holds an integer that is not trained, as EfficientNet of keras.applications does."""
    return _model(spec, keras.layers.Normalization(name="normalization"))


def dropout(spec: ExampleSpec) -> keras.Model:
    return _model(spec, keras.layers.Dropout(0.5, name="one"), keras.layers.Dropout(0.5, name="two"))


def penalised(spec: ExampleSpec) -> keras.Model:
    return _model(
        spec,
        keras.layers.Conv2D(2, 3, activation="relu", kernel_regularizer=keras.regularizers.L2(0.5), name="convolution"),
    )


class _Bystander(keras.layers.Layer):
    """Has a weight that its output does not depend on."""

    def build(self, input_shape: Any) -> None:
        self.unused = self.add_weight(shape=(3,), initializer="ones", name="unused")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs


def bystander(spec: ExampleSpec) -> keras.Model:
    return _model(spec, _Bystander(name="bystander"))


def pixels(spec: ExampleSpec) -> keras.Model:
    """One class too many for its data."""
    image = keras.Input(spec.image_shape)
    return keras.Model(image, keras.layers.Conv2D(spec.classes + 1, 1)(image))


def normalised_pixels(spec: ExampleSpec) -> keras.Model:
    """Classes of pixels, by two convolutions with batch normalisation between them."""
    image = keras.Input(spec.image_shape)
    value = keras.layers.Conv2D(4, 3, padding="same", name="first")(image)
    value = keras.layers.BatchNormalization(name="norm")(value)
    value = keras.layers.Activation("relu")(value)
    return keras.Model(image, keras.layers.Conv2D(spec.classes, 3, padding="same", name="second")(value))


def no_model(spec: ExampleSpec) -> str:
    return "model"


def no_optimizer(rate: float) -> float:
    return rate


def accumulating() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.1, momentum=0.5, gradient_accumulation_steps=2)


def scaling() -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))


def scaled() -> keras.optimizers.Optimizer:
    return keras.optimizers.SGD(0.1, loss_scale_factor=1024)


def ftrl(rate: float) -> keras.optimizers.Optimizer:
    return keras.optimizers.Ftrl(rate)


def zero_loss(factor: float) -> Any:
    return lambda labels, logits: factor * tf.reduce_sum(logits, axis=[1, 2, 3])


def refusing(spec: ExampleSpec) -> keras.Model:
    raise ValueError("not on\na Monday")


def make_trained(
    model: str | dict[str, Any] = "convolution", *, spec: ExampleSpec = SPEC, precision: str = "float64", **job: Any
) -> Trained:
    """A model of this module, or a built-in, built as a new process would: layers get the same names each time."""
    keras.backend.clear_session()
    section = {"name": f"tests.small_models:{model}"} if isinstance(model, str) else model
    return build(make_job(model=section, train={"precision": precision}, **job), spec, batch_size=4, epoch_steps=5)


def make_examples(count: int, *, seed: int = 1, spec: ExampleSpec = SPEC) -> Arrays:
    """Images and labels of `count` examples."""
    random = np.random.default_rng(seed)
    images = random.random((count, *spec.image_shape), np.float32)
    return images, random.integers(0, spec.classes, (count, *spec.label_shape)).astype(np.int32)


def values(variables: Sequence[tf.Variable]) -> list[npt.NDArray[Any]]:
    """Copies of their values."""
    return [variable.numpy().copy() for variable in variables]


def bits(variables: Sequence[tf.Variable]) -> list[bytes]:
    """What is compared where not a bit may differ; NaN is equal to itself here."""
    return [variable.numpy().tobytes() for variable in variables]


class OtherRank:
    """Collectives of a rank in a world of 2: adds what `other` holds, which another step has `given`."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.given: list[npt.NDArray[Any]] = []
        self.other: list[npt.NDArray[Any]] | None = None

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        def add(*arrays: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
            self.given = [array.copy() for array in arrays]
            other = self.other or [np.zeros_like(array) for array in arrays]
            return [one + two for one, two in zip(arrays, other, strict=True)]

        summed = tf.numpy_function(add, list(tensors), [tensor.dtype for tensor in tensors])
        return [tf.ensure_shape(one, tensor.shape) for one, tensor in zip(summed, tensors, strict=True)]

    def named(self, name: str) -> OtherRank:
        return self

    def alltoall(self, rows: tf.Tensor) -> tf.Tensor:
        raise AssertionError("what the other rank has depends on this one")

    def allgather(self, part: tf.Tensor) -> tf.Tensor:
        raise AssertionError("what the other rank has depends on this one")

    def maximum(self, tensor: tf.Tensor) -> tf.Tensor:
        return tensor

    def broadcast(self, variables: Sequence[tf.Variable], root: int = 0) -> None:
        raise AssertionError("a step does not broadcast")
