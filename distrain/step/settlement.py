"""What becomes of a step once the shares of all ranks are summed: the update, or why there is none, and what is told.

All of it follows from the sums, and so it is the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from distrain.gradients.advance import Gradient
from distrain.gradients.measures import ROWS, Moments, RankMoments
from distrain.gradients.running_mean import sums_of_squares
from distrain.gradients.statistics import Contribution, GradientStatistics, as_moments
from distrain.model.build import Trained
from distrain.model.loss_scale import LossScale
from distrain.step import rank_reports
from distrain.step.update import Update

# Places in the vector of flags, with which a rank tells all others something in the same step.
STOP, SAVE, FAILED, RESIZE, BAD = range(5)
FLAGS = 5
# Of the losses, of the examples, and of the groups whose gradients are measured.
SUMS = 3


class StepResult(NamedTuple):
    """What one step tells; equal on every rank, tensors or, on the host, arrays.

    `loss` is the mean over the global batch, before the update. `flags` [5]: how many ranks raised STOP, SAVE, FAILED,
    RESIZE, and how many examples were skipped as BAD.
    `gradient_squares` [variables]: squared L2 norms of the gradient. With `applied` false nothing was updated: loss or
    gradient were not finite, or a rank had failed; `overflowed`: only since the loss was scaled by `loss_scale` (0: it
    was not), which is lower from now on. `moments`: those of `GradientStatistics.update`, [0, variables] where they are
    not kept or not due; `groups` () and `examples` () of the step belong to them. `reports` are those of the ranks
    whose `turn` it was (see `rank_reports`). `measured_of` reads the last five.
    """

    loss: tf.Tensor
    applied: tf.Tensor
    overflowed: tf.Tensor
    loss_scale: tf.Tensor
    flags: tf.Tensor
    learning_rate: tf.Tensor
    gradient_squares: tf.Tensor
    moments: tf.Tensor
    groups: tf.Tensor
    examples: tf.Tensor
    reports: tf.Tensor
    turn: tf.Tensor


def measured_of(result: StepResult) -> tuple[Moments, RankMoments] | None:
    """What the step measured, on the host, the ranks' part empty in a world of 1; None where it was not due."""
    moments = as_moments(result.moments, result.groups, result.examples)
    if moments is None:
        return None
    return moments, rank_reports.read(result.reports, result.turn)


class Settlement(NamedTuple):
    """What makes the step of the sums over all ranks, alike on all of them.

    `averaged` are the buffers that are averaged over ranks. `lengths` are those of the vector's parts: sums, flags,
    squares, which are there where more than one group is measured, and reports. `means`: what was reduced are means
    already, not sums.
    """

    trained: Trained
    statistics: GradientStatistics | None
    update: Update
    averaged: Sequence[tf.Variable]
    lengths: Sequence[int]
    means: bool
    part: float
    clip_norm: float | None

    def settle(
        self,
        totals: Sequence[tf.Tensor],
        others: Sequence[tf.Tensor],
        before: Sequence[tf.Tensor],
        factor: tf.Tensor,
        turn: tf.Tensor,
    ) -> tuple[StepResult, tf.Tensor]:
        """Update the model and its statistics by the sums of all ranks' `Share`.

        Returns the result with moments whether the step was measured or not, and whether it was.
        """
        *changes, vector = others
        places, width = self.lengths[-2:]
        sums, flags, local_squares, reports = tf.split(vector, [*self.lengths[:-2], places * width])
        loss_sum, examples, groups = tf.unstack(sums)
        loss = loss_sum / examples
        divisor = factor / self.part if self.means else examples * factor
        gradients = [Gradient(total, divisor) for total in totals]
        after = [
            value + change / tf.cast(examples, change.dtype) for value, change in zip(before, changes, strict=True)
        ]

        squares = sums_of_squares([gradient.total for gradient in gradients]) / divisor**2
        norm = tf.sqrt(tf.reduce_sum(squares))
        sound = _all_finite([loss, *after]) & (flags[FAILED] == 0)
        applied = sound & tf.math.is_finite(norm)
        overflowed, loss_scale = _settled(self.trained.loss_scale, applied, sound & ~applied)
        learning_rate = tf.identity(tf.convert_to_tensor(self.trained.optimizer.learning_rate))
        several = self.lengths[2] > 0
        contribution = Contribution(local_squares, groups) if several else Contribution(squares * examples, groups)
        measured = applied & (tf.constant(False) if self.statistics is None else self.statistics.due())

        def apply() -> tf.Tensor:
            one = tf.ones([], norm.dtype)
            clip = one if self.clip_norm is None else tf.minimum(one, self.clip_norm / norm)
            return self.update(gradients, squares, examples, clip, learning_rate, contribution)

        def skip() -> tf.Tensor:
            return tf.zeros([0 if self.statistics is None else len(ROWS), len(totals)], tf.float64)

        moments = tf.cond(applied, apply, skip)
        for buffer, old, new in zip(self.averaged, before, after, strict=True):
            buffer.assign(tf.where(applied, new, old))
        result = StepResult(
            loss,
            applied,
            overflowed,
            loss_scale,
            flags,
            learning_rate,
            squares,
            moments,
            groups,
            examples,
            tf.reshape(reports, [places, width]),
            turn,
        )
        return result, measured


def _settled(scale: LossScale | None, applied: tf.Tensor, overflow: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether the loss scale was too high, and what it was, 0 where there is none; it is changed for the next step."""
    if scale is None:
        return tf.constant(False), tf.zeros([])
    before, too_high = tf.convert_to_tensor(scale.scale), scale.too_high(overflow)
    scale.settle(applied, too_high)
    return too_high, before


def _all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])
