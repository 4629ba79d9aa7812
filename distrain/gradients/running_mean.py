"""The running mean of the gradients: the signal under the noise of the mini-batches, the same on every rank.

After n steps with gradients g_1 .. g_n it is `m_n = m_(n-1) + (g_n - m_(n-1)) / n`, the plain mean of them; written
out, it is the `avg * (1 - 1/(n + 1)) + g / (n + 1)`, with n counted from 0, of the trainer of 2016. Since g_n is what
all ranks have after the allreduce, every rank gets the same mean without a word to the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from distrain.kernels import compiled

Mode = Literal["cumulative", "exponential", "window"]

# Gradients that are summed before the sum is folded into the mean. float32 sums of more lose digits (a sum of 2^k
# equal numbers rounds each addition to 2^(k - 24) of one), a mean updated more often loses updates too small for it.
FOLD = 64


class Plan(NamedTuple):
    """What this step's gradient is folded in by; float64 scalars.

    With S the sum `base * folded + recent`, m_(n-1) is S / `before` (0 where there was none yet); `recent` becomes
    `recent * keep + gradient * gain`, and m_n is then S / `after`. `rate` is the weight of this step in the mean.
    """

    keep: tf.Tensor
    gain: tf.Tensor
    folded: tf.Tensor
    before: tf.Tensor
    after: tf.Tensor
    rate: tf.Tensor


class RunningMean:
    """State of the running means of the gradients of `variables`, kept beside them on the device.

    `recent[i]` and `base[i]` have the shape and dtype of variable i (`base` is empty in mode exponential): the sum of
    the last steps, and the mean of the `folded` steps before them, so that n m_n = base * folded + recent. `count`
    (int64) is n, over the whole training.
    Modes: `cumulative`, the mean of all; `exponential`, with weights that fall by `decay` a step and sum to 1;
    `window`, the mean since the last multiple of `window` steps.
    """

    def __init__(
        self, variables: Sequence[tf.Variable], *, mode: Mode = "cumulative", decay: float = 0.999, window: int = 1000
    ) -> None:
        self.mode = mode
        self._decay = decay
        self._window = window if mode == "window" else None
        self.recent = [_zeros(variable, f"gradient_recent_{number}") for number, variable in enumerate(variables)]
        self.base: list[tf.Variable] = []
        if mode != "exponential":
            self.base = [_zeros(variable, f"gradient_base_{number}") for number, variable in enumerate(variables)]
        self.count = tf.Variable(0, dtype=tf.int64, trainable=False, name="gradient_count")
        self.folded = tf.Variable(0, dtype=tf.int64, trainable=False, name="gradient_folded")

    def plan(self) -> Plan:
        """How the next gradient is folded in; for use in a `tf.function`, before `settle`."""
        one = tf.ones([], tf.float64)
        if self.mode == "exponential":
            decay = tf.constant(self._decay, tf.float64)
            before, after = (1 - decay ** tf.cast(count, tf.float64) for count in (self.count, self.count + 1))
            gain = 1 - decay
            return Plan(decay, gain, tf.zeros([], tf.float64), before, after, gain / after)
        before = tf.cast(self._position(), tf.float64)
        started = tf.cast(before > 0, tf.float64)
        return Plan(started, one, tf.cast(self.folded, tf.float64) * started, before, before + 1, 1 / (before + 1))

    def settle(self) -> None:
        """Count the step, after all gradients were folded in; every so often fold their sums into the means."""
        position = self._position() + 1
        folded = tf.where(position == 1, tf.zeros([], tf.int64), self.folded)
        self.count.assign_add(1)
        if self.mode == "exponential":
            return

        def fold() -> tf.Tensor:
            for base, recent in zip(self.base, self.recent, strict=True):
                kept = base * tf.cast(folded > 0, base.dtype)
                count = tf.cast(position, base.dtype)
                excess = recent - tf.cast(position - folded, base.dtype) * kept
                changed = kept + excess / count
                base.assign(changed)
                # What rounding has kept out of the mean stays in the sum, and is not lost.
                recent.assign(excess - count * (changed - kept))
            return position

        self.folded.assign(tf.cond(position - folded == FOLD, fold, lambda: folded))

    def means(self) -> list[tf.Tensor]:
        """m_n of each variable, with its shape and dtype; zeros before the first step."""
        if self.mode == "exponential":
            divisor = 1 - tf.constant(self._decay, tf.float64) ** tf.cast(self.count, tf.float64)
            sums = list(self.recent)
        else:
            # A window that is full stays until the next gradient begins another.
            position = self.count
            if self._window is not None:
                position = tf.where(self.count > 0, (self.count - 1) % self._window + 1, self.count)
            divisor = tf.cast(position, tf.float64)
            sums = [
                base * tf.cast(self.folded, base.dtype) + recent
                for base, recent in zip(self.base, self.recent, strict=True)
            ]
        return [tf.math.divide_no_nan(total, tf.cast(divisor, total.dtype)) for total in sums]

    def _position(self) -> tf.Tensor:
        """Steps that the mean is over, before this one."""
        return self.count if self._window is None else self.count % self._window


def sum_of_squares(tensor: tf.Tensor) -> tf.Tensor:
    """The squared L2 norm of a tensor, of shape ()."""
    return 2 * tf.nn.l2_loss(tensor)


def sums_of_squares(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The squared L2 norms of tensors of one dtype, [tensors], by one compiled operation where there is one."""
    if compiled.serve(tensors[0]):
        operations = compiled.operations()
        assert operations is not None
        return operations.distrain_squares(tensors=tensors)
    return tf.stack([sum_of_squares(tensor) for tensor in tensors])


def _zeros(variable: tf.Variable, name: str) -> tf.Variable:
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False, name=name)
