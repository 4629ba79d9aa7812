"""The U-Net (Ronneberger, Fischer and Brox, 2015) in the form of the 2016 trainer that this project began with."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distrain.job.schema import UNet
from distrain.model.dropout import ReLUDropout


@keras.saving.register_keras_serializable("distrain")
class CropAndConcatenate(keras.layers.Layer):
    """Crop the first of two tensors [b, h, w, c] around its centre to the size of the second, then join channels."""

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        skipped, upsampled = inputs
        return tf.concat([centre(skipped, upsampled), upsampled], axis=-1)

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        skipped, upsampled = input_shape
        channels = None if skipped[-1] is None or upsampled[-1] is None else skipped[-1] + upsampled[-1]
        return (*upsampled[:-1], channels)


def centre(tensor: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """The central part of `tensor` [b, H, W, ...] of the height and width of `target` [b, h, w, ...]."""
    shape, wanted = _height_width(tensor), _height_width(target)
    top, left = ((have - want) // 2 for have, want in zip(shape, wanted, strict=True))
    # Said as numbers: of a -1 beside sizes that are not known TensorFlow makes an unknown one.
    rest = [-1 if size is None else size for size in tensor.shape[3:]]
    # Not tensor[:, top:..., left:...], whose gradient takes a tenth of a U-Net's step: it goes element by element.
    return tf.slice(tensor, tf.stack([0, top, left, *[0] * len(rest)]), tf.stack([-1, *wanted, *rest]))


def _height_width(tensor: tf.Tensor) -> tuple[Any, Any]:
    """Static sizes where they are known: the graph is then simpler and faster."""
    static, dynamic = tensor.shape, tf.shape(tensor)
    return tuple(dynamic[axis] if static[axis] is None else static[axis] for axis in (1, 2))


def build_unet(options: UNet, *, channels: int, classes: int, seed: int) -> keras.Model:
    """A model from images [b, h, w, channels] of any size to logits [b, h', w', classes].

    With valid padding h' < h and w' < w, as every convolution takes away `kernel - 1`.
    """
    builder = _Builder(options, seed)
    inputs = keras.Input((None, None, channels), name="image")
    value = inputs
    skipped = []
    for level in range(options.layers):
        value = builder.convolutions(value, f"down_{level}", options.features * 2**level)
        if level < options.layers - 1:
            skipped.append(value)
            value = keras.layers.MaxPooling2D(options.pool, name=f"pool_{level}")(value)
    for level in reversed(range(options.layers - 1)):
        features = options.features * 2**level
        value = builder.upsampling(value, f"up_{level}", features)
        value = CropAndConcatenate(name=f"join_{level}")([skipped[level], value])
        value = builder.convolutions(value, f"up_{level}", features)
    logits = keras.layers.Conv2D(classes, 1, kernel_initializer=builder.initializer(), name="logits")(value)
    return keras.Model(inputs, logits, name="unet")


class _Builder:
    """Layers with names and seeds of their own, so that two builds are equal and variables have stable names."""

    def __init__(self, options: UNet, seed: int) -> None:
        self._options = options
        self._seed = seed

    def initializer(self) -> keras.initializers.Initializer:
        self._seed += 1
        return keras.initializers.HeNormal(seed=self._seed % 2**31)

    def convolutions(self, value: Any, name: str, features: int) -> Any:
        """Twice: convolution, ReLU, dropout."""
        options = self._options
        drops = options.keep_probability < 1
        for number in (1, 2):
            value = keras.layers.Conv2D(
                features,
                options.kernel,
                padding=options.padding,
                activation=None if drops else "relu",
                kernel_initializer=self.initializer(),
                name=f"{name}_conv_{number}",
            )(value)
            if drops:
                self._seed += 1
                seed = self._seed % 2**31
                value = ReLUDropout(options.keep_probability, seed=seed, name=f"{name}_dropout_{number}")(value)
        return value

    def upsampling(self, value: Any, name: str, features: int) -> Any:
        """Transposed convolution and ReLU; the size grows by `pool`."""
        return keras.layers.Conv2DTranspose(
            features,
            self._options.pool,
            strides=self._options.pool,
            activation="relu",
            kernel_initializer=self.initializer(),
            name=f"{name}_transposed",
        )(value)
