"""Batch normalisation over the batches of all ranks."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from distrain.errors import BadInput
from distrain.keras.place import place


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
        # The layer's own name: all ranks have the same layers.
        packed = tf.concat([tf.reshape(parts, [-1]), [count]], axis=0)
        sums = place().horovod.allreduce(packed, op=place().horovod.Sum, name=f"distrain.{self.path}")
        total = tf.reshape(sums[:-1], tf.shape(parts)) / sums[-1]
        return total[0], total[1] - tf.square(total[0])

    def _count(self, inputs: Any, mask: Any) -> tf.Tensor:
        """How many values each mean is of."""
        if mask is not None:
            return tf.reduce_sum(tf.cast(mask, inputs.dtype))
        sizes = tf.gather(tf.shape(inputs), self._reduction_axes)
        return tf.cast(tf.reduce_prod(sizes), inputs.dtype)
