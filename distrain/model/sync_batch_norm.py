"""Batch normalisation over the examples of all ranks, so that it does not depend on how many these are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from distrain.errors import BadInput
from distrain.world.collectives import Collectives


@dataclass(frozen=True)
class Exchange:
    """How a layer hears of the other ranks' examples: `collectives` of a name of its own.

    `weights` [batch] are those of this rank's examples, all 1 where None. `share` () is what this rank's gradients are
    going to be multiplied by before they are summed over the ranks; None: nothing, for they are of a sum. `alike`: all
    ranks are known to have the same moving mean.
    """

    collectives: Callable[[str], Collectives]
    weights: tf.Tensor | None = None
    share: tf.Tensor | None = None
    alike: bool = True

    def summed(self, values: tf.Tensor, name: str) -> tf.Tensor:
        """The sum over ranks of `values`, through which the gradients of all ranks' losses come back."""
        forward, backward = (self.collectives(f"distrain.{name}.{way}") for way in ("forward", "backward"))

        @tf.custom_gradient
        def exchanged(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                if self.share is None:
                    return backward.sum_group([upstream])[0]
                share = tf.cast(self.share, upstream.dtype)
                weighed = backward.sum_group([tf.math.multiply_no_nan(upstream, share)])[0]
                return tf.math.divide_no_nan(weighed, share)

            return forward.sum_group([values])[0], gradient

        return exchanged(values)


class OverAllRanks(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the mean and variance of what all ranks hold, where `exchange` says how.

    Each position of each example counts the same, whatever the sizes of the ranks' batches.
    """

    def exchange(self) -> Exchange | None:
        """How to hear of the others; None where there are none."""
        raise NotImplementedError

    def _moments(self, inputs: Any, mask: Any) -> tuple[Any, Any]:
        exchange = self.exchange()
        if exchange is None:
            mean, variance = super()._moments(inputs, mask)
            return mean, variance
        along = [1] * len(inputs.shape)
        along[self.axis] = inputs.shape[self.axis]
        # The same on all ranks, and soon near the mean: squares of differences from it keep their digits.
        middle = tf.reshape(tf.cast(self.moving_mean.value, inputs.dtype), along)
        middle = tf.stop_gradient(middle if exchange.alike else tf.zeros_like(middle))
        weights = self._weights(inputs, mask, exchange.weights)
        away = inputs - middle
        sums = [
            tf.reduce_sum(tf.math.multiply_no_nan(value, weights), self._reduction_axes)
            for value in (away, tf.square(away))
        ]
        # For each channel: a mask along another axis than theirs may leave them different ones.
        counts = tf.reduce_sum(weights * tf.ones_like(inputs), self._reduction_axes)
        total, square, counts = tf.unstack(exchange.summed(tf.stack([*sums, counts]), self.path))
        mean, square = tf.math.divide_no_nan(total, counts), tf.math.divide_no_nan(square, counts)
        return mean + tf.reshape(middle, [-1]), tf.nn.relu(square - tf.square(mean))

    def _weights(self, inputs: tf.Tensor, mask: Any, weights: tf.Tensor | None) -> tf.Tensor:
        """A weight for each position, of a shape that `inputs` can be multiplied by."""
        found = tf.ones([1] * len(inputs.shape), inputs.dtype)
        if weights is not None:
            # Where a layer before has made several of each example, these come together.
            weights = tf.repeat(weights, tf.shape(inputs)[0] // tf.shape(weights)[0])
            found *= tf.reshape(tf.cast(weights, inputs.dtype), [-1] + [1] * (len(inputs.shape) - 1))
        if mask is not None:
            found *= tf.expand_dims(tf.cast(mask, inputs.dtype), -1)
        return found


_now: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    """In this block, layers of `StepBatchNormalization` hear of the other ranks' examples like this."""
    token = _now.set(exchange)
    try:
        yield
    finally:
        _now.reset(token)


@keras.saving.register_keras_serializable(package="distrain")
class StepBatchNormalization(OverAllRanks):
    """Batch normalisation over all ranks' examples of a step; outside of one as Keras's own."""

    def exchange(self) -> Exchange | None:
        return _now.get()


def synchronised(model: keras.Model) -> keras.Model:
    """A copy of a model, with the same weights, that normalises over all ranks.

    Raises `BadInput` where none can be made.
    """
    if not (isinstance(model, keras.Sequential) or hasattr(model, "operations")):
        raise BadInput(
            "'train.sync_batch_norm': expected a model that is a graph of layers, whose layers can be changed"
        )

    def changed(layer: keras.layers.Layer) -> keras.layers.Layer:
        if type(layer) is keras.layers.BatchNormalization:
            return StepBatchNormalization.from_config(layer.get_config())
        return layer.__class__.from_config(layer.get_config())

    try:
        copy = keras.models.clone_model(model, clone_function=changed, recursive=True)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise BadInput(f"'train.sync_batch_norm': the model cannot be copied ({error})") from error
    copy.set_weights(model.get_weights())
    layers = list(copy._flatten_layers())
    left = [layer.name for layer in layers if type(layer) is keras.layers.BatchNormalization]
    if left or not any(isinstance(layer, StepBatchNormalization) for layer in layers):
        what = f"'{left[0]}' is inside of a layer" if left else "the model has no batch normalisation among its layers"
        raise BadInput(f"'train.sync_batch_norm': {what}, expected layers that can be changed")
    return copy
