"""Dropout that draws as few random bits as it needs, from a state that the step sets."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("distrain")
class Dropout(keras.layers.Layer):
    """Keep each activation with probability `keep`, scaled by its inverse; in training only.

    An activation costs 8 random bits where `keep` is a multiple of 1/256, 16 otherwise; `keep` is then exact to 2**-16
    and the scale matches what is really kept. Stock dropout draws 32 bits and spends a quarter of a U-Net's step on
    them.
    """

    def __init__(self, keep: float, *, seed: int, **options: Any) -> None:
        super().__init__(**options)
        assert 0 < keep <= 1, keep
        self.keep = keep
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self.keep == 1:
            return inputs
        bits = 8 if (self.keep * 256).is_integer() else 16
        threshold = max(1, round(self.keep * 2**bits))
        mask = _random_below(threshold, bits, tf.shape(inputs), self.seed_generator.next())
        return _scaled_where(inputs, mask, 2**bits / threshold)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "keep": self.keep, "seed": self.seed}


def _random_below(threshold: int, bits: int, shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Booleans of `shape`, True with probability threshold / 2**bits, a function of `seed` [2] alone."""
    per_word = 32 // bits
    count = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform(
        [(count + per_word - 1) // per_word], tf.cast(seed, tf.int32), minval=None, maxval=None, dtype=tf.uint32
    )
    small = tf.reshape(tf.bitcast(words, tf.uint8 if bits == 8 else tf.uint16), [-1])[:count]
    # Compared as "at most threshold - 1", since the threshold itself may not fit the type.
    return tf.reshape(small <= tf.cast(threshold - 1, small.dtype), shape)


@tf.custom_gradient
def _scaled_where(values: tf.Tensor, mask: tf.Tensor, scale: float) -> Any:
    """`values * scale` where `mask`, else 0; its gradient reads the mask alone, so that no product is kept."""
    factor = tf.cast(mask, values.dtype) * tf.cast(scale, values.dtype)

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, None, None]:
        return upstream * factor, None, None

    return values * factor, gradient
