"""Batch normalisation over the batches of all ranks."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distrain.errors import BadInput
from distrain.keras.place import place
from distrain.keras.reducer import examples_now


@keras.saving.register_keras_serializable(package="distrain")
class SyncBatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the mean and variance of all ranks' examples in training.

    Each position of each example counts the same, whatever the sizes of the ranks' batches. Not within XLA.
    """

    def __init__(self, fused: bool = False, **options: Any) -> None:
        if fused:
            raise BadInput("SyncBatchNormalization does not support fused=True")
        if options.get("synchronized"):
            raise BadInput("SyncBatchNormalization: synchronized: expected nothing, that is for tf.distribute")
        super().__init__(**options)
        self.supports_jit = False

    def _moments(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        mean, variance = super()._moments(inputs, mask)
        if place().horovod is None:
            return mean, variance
        count = self._count(inputs, mask)
        # A rank without any has no mean, whatever it holds.
        parts = tf.math.multiply_no_nan(tf.stack([mean, variance + tf.square(mean)]), count)
        packed = tf.concat([tf.reshape(parts, [-1]), [count]], axis=0)
        sums = self._summed(packed)
        total = tf.reshape(sums[:-1], tf.shape(parts)) / sums[-1]
        return total[0], total[1] - tf.square(total[0])

    def _summed(self, packed: tf.Tensor) -> tf.Tensor:
        """The sum over ranks, with the gradient that makes those of all ranks' weights the whole batch's."""
        # The layer's own name: all ranks have the same layers.
        collectives = {way: place().collectives(f"distrain.{self.path}.{way}") for way in ("forward", "backward")}
        # What each rank's gradient is going to be weighed by.
        weight = tf.cast(examples_now(), packed.dtype)

        @tf.custom_gradient
        def summed(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                weighed = collectives["backward"].sum_group([tf.math.multiply_no_nan(upstream, weight)])[0]
                return tf.math.divide_no_nan(weighed, weight)

            return collectives["forward"].sum_group([values])[0], gradient

        return summed(packed)

    def _count(self, inputs: Any, mask: Any) -> tf.Tensor:
        """How many values each mean is of."""
        if mask is not None:
            return tf.reduce_sum(tf.cast(mask, inputs.dtype))
        sizes = tf.gather(tf.shape(inputs), self._reduction_axes)
        return tf.cast(tf.reduce_prod(sizes), inputs.dtype)
