"""ReLU and dropout as one layer, which draws as few random bits as it needs, from a state that the step sets."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distrain.kernels import compiled


@keras.saving.register_keras_serializable("distrain")
class ReLUDropout(keras.layers.Layer):
    """ReLU; in training each activation is then kept with probability `keep`, and scaled by its inverse.

    An activation costs 8 random bits where `keep` is a multiple of 1/256, 16 otherwise; `keep` is then exact to 2**-16
    and the scale matches what is really kept. The gradient reads the result alone, which is positive where both let
    through, so that nothing else has to be held for it.
    """

    def __init__(self, keep: float, *, seed: int, **options: Any) -> None:
        super().__init__(**options)
        assert 0 < keep <= 1, keep
        self.keep = keep
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self.keep == 1:
            return tf.nn.relu(inputs)
        bits = 8 if (self.keep * 256).is_integer() else 16
        threshold = max(1, round(self.keep * 2**bits))
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        if compiled.serve(inputs):
            return _by_kernel(inputs, seed, bits, threshold)
        scale = tf.constant(2**bits / threshold, inputs.dtype)
        return _by_tensorflow(inputs, _random_below(threshold, bits, tf.shape(inputs), seed), scale)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "keep": self.keep, "seed": self.seed}


def _by_kernel(values: tf.Tensor, seed: tf.Tensor, bits: int, threshold: int) -> tf.Tensor:
    operations = compiled.operations()
    assert operations is not None
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return operations.distrain_relu_dropout(values=values, key=key, counter=counter, bits=bits, threshold=threshold)


@tf.RegisterGradient("DistrainReluDropout")
def _gradient_by_kernel(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
    operations = compiled.operations()
    assert operations is not None
    options = {name: operation.get_attr(name) for name in ("bits", "threshold")}
    return operations.distrain_relu_dropout_grad(upstream=upstream, result=operation.outputs[0], **options), None, None


def _random_below(threshold: int, bits: int, shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Booleans of `shape`, True with probability threshold / 2**bits, a function of `seed` [2] alone."""
    per_word = 32 // bits
    count = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform(
        [(count + per_word - 1) // per_word], seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    small = tf.reshape(tf.bitcast(words, tf.uint8 if bits == 8 else tf.uint16), [-1])[:count]
    # Compared as "at most threshold - 1", since the threshold itself may not fit the type.
    return tf.reshape(small <= tf.cast(threshold - 1, small.dtype), shape)


@tf.custom_gradient
def _by_tensorflow(values: tf.Tensor, mask: tf.Tensor, scale: tf.Tensor) -> Any:
    result = tf.nn.relu(values) * (tf.cast(mask, values.dtype) * scale)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        return tf.where(result > 0, upstream * scale, tf.zeros([], upstream.dtype)), None, None

    return result, gradient
