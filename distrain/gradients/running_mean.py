"""The running mean of the gradients: the signal under the noise of the mini-batches, the same on every rank.

After n steps with gradients g_1 .. g_n it is `m_n = m_{n-1} + (g_n - m_{n-1}) / n`, the plain mean of them; written
out, it is the `avg * (1 - 1/(n + 1)) + g / (n + 1)`, with n counted from 0, of the trainer of 2016. Since g_n is what
all ranks have after the allreduce, every rank gets the same mean without a word to the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


class RunningMean:
    """Running mean of a list of gradients, kept beside their variables on the device.

    `means[i]` has the shape and dtype of variable i (float32, or float64 with `train.precision: float64`); `count`
    (int64) is n. Only finite gradients may be given to it. Its norms are computed where n is a multiple of `every`.
    """

    def __init__(self, variables: Sequence[tf.Variable], *, every: int = 1) -> None:
        self._every = every
        self.means = [
            tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False, name=f"gradient_mean_{number}")
            for number, variable in enumerate(variables)
        ]
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False, name="gradient_count")

    def update(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        """Take in one step's gradients; for use in a `tf.function`.

        Returns |m_n|^2 of each variable, [variables], or nothing, [0], where they are not due.
        """
        count = self.count.assign_add(1)
        updated = [
            mean.assign_add((gradient - mean) / tf.cast(count, mean.dtype))
            for mean, gradient in zip(self.means, gradients, strict=True)
        ]

        def squares() -> tf.Tensor:
            return tf.stack([sum_of_squares(mean) for mean in updated])

        if self._every == 1:
            return squares()
        return tf.cond(count % self._every == 0, squares, lambda: tf.zeros([0], updated[0].dtype))


def sum_of_squares(tensor: tf.Tensor) -> tf.Tensor:
    """The squared L2 norm of a tensor, of shape ()."""
    return 2 * tf.nn.l2_loss(tensor)
