"""Scaling the loss of a model whose layers compute in float16, so that small gradients are not lost there.

P. Micikevicius et al., "Mixed Precision Training", arXiv 1710.03740, section 3.2, with a scale that is found while
training: halved where a gradient overflows, doubled after so many steps without, as NVIDIA's guide to training with
mixed precision describes it and Keras's `LossScaleOptimizer` does it; first scale and steps are that one's.
"""

from __future__ import annotations

import math

import tensorflow as tf

FIRST = 2.0**15
GROWTH_STEPS = 2000
# Below the least, what is not finite is the model's own. Beyond the most there is nothing to gain: what is smaller than
# that in float32 is lost against any weight, and a gradient of zeros would have the scale grow for ever.
LEAST, MOST = 1.0, 2.0**24


class LossScale:
    """What the mean loss is multiplied by, `scale` () float32, and for how many steps it was, `steps` () int64.

    Both are the same on every rank, since they follow from what all ranks' gradients came to.
    """

    def __init__(self) -> None:
        self.scale = tf.Variable(FIRST, dtype=tf.float32, trainable=False, name="loss_scale")
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False, name="loss_scale_steps")

    def too_high(self, overflow: tf.Tensor) -> tf.Tensor:
        """Whether the scale explains that a gradient is not finite, bool (): then a lower one may do."""
        return overflow & (self.scale > LEAST)

    def settle(self, applied: tf.Tensor, too_high: tf.Tensor) -> None:
        """Take in what has become of a step, bool () each; neither where it says nothing of the scale."""
        grown = applied & (self.steps + 1 == GROWTH_STEPS)
        lower, higher = tf.maximum(self.scale / 2, LEAST), tf.minimum(self.scale * 2, MOST)
        steps = tf.where(grown | too_high, tf.zeros([], tf.int64), self.steps + tf.cast(applied, tf.int64))
        self.scale.assign(tf.where(too_high, lower, tf.where(grown, higher, self.scale)))
        self.steps.assign(steps)


def part_of(batch_size: int) -> float:
    """The power of two that makes of a sum over such a batch about its mean, and no more than that."""
    return 2.0 ** -math.ceil(math.log2(batch_size))
