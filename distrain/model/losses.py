"""Losses: from labels and logits to one number for each example.

All take int labels [b, ...] and logits [b, ..., classes] of the same leading shape and return [b] in the logits' dtype.
Summing, weighting and averaging over examples is the step's business: each example counts the same there.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

EPSILON = 1e-5


def cross_entropy(class_weights: tuple[float, ...] | None = None) -> Loss:
    """Mean over an example's pixels of `-weight[label] * log softmax(logits)[label]`; all weights 1 where left out."""

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        pixels = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        if class_weights is not None:
            pixels *= tf.gather(tf.constant(class_weights, pixels.dtype), labels)
        return _mean_per_example(pixels)

    return loss


def dice() -> Loss:
    """1 - 2 * overlap / (predicted + true), softmax against one-hot labels, over all pixels and classes together."""

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        predicted = _flat(tf.nn.softmax(logits))
        true = _flat(tf.one_hot(labels, logits.shape[-1], dtype=logits.dtype))
        overlap = tf.reduce_sum(predicted * true, axis=1)
        both = tf.reduce_sum(predicted, axis=1) + tf.reduce_sum(true, axis=1)
        return 1 - 2 * overlap / (both + EPSILON)

    return loss


def _mean_per_example(values: tf.Tensor) -> tf.Tensor:
    """[b, ...] to [b]."""
    return values if values.shape.rank == 1 else tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))


def _flat(values: tf.Tensor) -> tf.Tensor:
    """[b, ...] to [b, n]."""
    return tf.reshape(values, [tf.shape(values)[0], -1])
