"""What each rank tells all others of its own examples, in the vector that the step's allreduce sums."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from distrain.gradients.measures import RankMoments
from distrain.gradients.statistics import Contribution
from distrain.world.topology import World

# Ranks that report in one step. In larger worlds they take turns: the vector must not grow with them.
PLACES = 64
# Sums over the rank's examples: of losses, of ones, and of the squared norm of the gradient of each example's group.
REPORT = 3


def turn_of(steps: tf.Tensor, size: int) -> tf.Tensor:
    """Whose turn it is after so many steps: of the ranks whose number divided by PLACES is this; int64 ()."""
    return steps % -(-size // PLACES)


def shape(world: World, *, kept: bool) -> tuple[int, int]:
    """Of the reports in the vector; none where none are `kept`, or alone."""
    return (min(world.size, PLACES) if kept and world.size > 1 else 0), REPORT


def told(
    loss_sum: tf.Tensor, examples: tf.Tensor, own: Contribution, steps: tf.Tensor | None, world: World
) -> tuple[tf.Tensor, tf.Tensor]:
    """Whose turn it is after `steps`, and this rank's part of the vector, empty where none are kept, or alone."""
    if steps is None or world.size == 1:
        return tf.zeros([], tf.int64), tf.zeros(shape(world, kept=False), examples.dtype)
    turn = turn_of(steps, world.size)
    return turn, report(loss_sum, examples, own, turn, world)


def report(loss_sum: tf.Tensor, examples: tf.Tensor, own: Contribution, turn: tf.Tensor, world: World) -> tf.Tensor:
    """This rank's report at its place among the others' [places, REPORT], zeros elsewhere and out of turn."""
    mine = tf.cast(turn == world.rank // PLACES, examples.dtype)
    # Out of turn even a loss that is not finite is zero: the place is another rank's.
    values = tf.math.multiply_no_nan(tf.stack([loss_sum, examples, tf.reduce_sum(own.squares)]), mine)
    return tf.scatter_nd([[world.rank % PLACES]], values[None], shape(world, kept=True))


def read(reports: tf.Tensor, turn: tf.Tensor) -> RankMoments:
    """The reports of all whose turn it was, as the allreduce gave them, on the host, but for ranks without a share."""
    # Few numbers, each step: plain ones take less time than arrays of them.
    told = [(place, *row) for place, row in enumerate(np.asarray(reports).tolist()) if row[1] > 0]
    first = PLACES * int(turn)
    return RankMoments(
        ranks=np.array([first + place for place, _, _, _ in told], np.int64),
        losses=np.array([loss / examples for _, loss, examples, _ in told], np.float64),
        norms=np.array([math.sqrt(squares / examples) for _, _, examples, squares in told], np.float64),
        examples=np.array([round(examples) for _, _, examples, _ in told], np.int64),
    )
