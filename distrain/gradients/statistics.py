"""Gradient statistics: the running mean, and what each step measures, for any training loop.

A loop of one's own calls `contribution` for its local gradients, sums what it gives over the workers together with
the gradients (one allreduce), and calls `update` with the sums; docs/gradient-statistics.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from distrain.gradients.advance import PREVIOUS, PRODUCT, TOTAL, UPDATE, WEIGHT, Folding, Gradient, Momentum, advance
from distrain.gradients.measures import ROWS, Moments, signal_and_noise
from distrain.gradients.running_mean import Mode, RunningMean, sums_of_squares


class Contribution(NamedTuple):
    """What one worker adds to the sums over all: `squares` [variables], the sum over its groups of |sum of the
    group's gradients|^2 / examples; `groups` (), how many of its groups have examples. In the gradients' dtype."""

    squares: tf.Tensor
    groups: tf.Tensor


class GradientStatistics:
    """State and computation of the statistics of the gradients of `variables`; all ranks hold the same bits of it.

    Each step is folded into the running mean (`mode`, `decay`, `window`: see `RunningMean`); the numbers are measured
    where the count of steps is a multiple of `every`. Signal and noise are smoothed over the measured steps with
    weights that fall by `smoothing` from one to the next. Only finite gradients may be given to it.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        *,
        mode: Mode = "cumulative",
        decay: float = 0.999,
        window: int = 1000,
        every: int = 1,
        smoothing: float = 0.99,
    ) -> None:
        self.variables = list(variables)
        self.running_mean = RunningMean(variables, mode=mode, decay=decay, window=window)
        self._every = every
        self._smoothing = smoothing
        self._typical, self._signal, self._noise = (
            tf.Variable(tf.zeros(len(variables), tf.float64), trainable=False, name=f"gradient_{name}")
            for name in ("typical_squares", "signal", "noise")
        )
        self._weight = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="gradient_smoothed_weight")

    def state(self, paths: Sequence[str]) -> dict[str, tf.Variable]:
        """All that a checkpoint must hold, by names that stay; `paths` name the variables."""
        mean = self.running_mean
        parts = {"count": mean.count, "folded": mean.folded, "typical_squares": self._typical}
        parts |= {"signal": self._signal, "noise": self._noise, "smoothed_weight": self._weight}
        for kind, variables in (("recent", mean.recent), ("base", mean.base)):
            parts |= {f"{kind}/{path}": variable for path, variable in zip(paths, variables, strict=bool(variables))}
        return parts

    def due(self) -> tf.Tensor:
        """Whether the next step is measured: a bool () that is the same on all ranks."""
        if self._every == 1:
            return tf.constant(True)
        return (self.running_mean.count + 1) % self._every == 0

    def contribution(self, gradients: Sequence[tf.Tensor], examples: tf.Tensor) -> Contribution:
        """What one group adds: `gradients` are the means over its examples, `examples` () their number.

        Groups of one worker are added up; so are the workers', by an allreduce that sums.
        """
        weight = tf.cast(examples, gradients[0].dtype)
        return group_contribution([gradient * weight for gradient in gradients], weight, self.due())

    def update(
        self,
        gradients: Sequence[tf.Tensor],
        contribution: Contribution,
        examples: tf.Tensor,
        optimize: Callable[[], object] | None = None,
    ) -> tf.Tensor:
        """Take in one step: the gradient over all workers, and the sums over them of contributions and examples.

        `optimize` applies the optimizer; without it the updates cannot be measured. Returns the moments, to be read
        by `as_moments`. For use in a `tf.function`, on all ranks alike.
        """
        one = tf.ones([], gradients[0].dtype)
        squares = sums_of_squares(gradients)
        pairs = [Gradient(gradient, one) for gradient in gradients]
        due = self.due()
        return where_measured(
            self.advance(pairs, squares, contribution, examples, optimize=optimize or (lambda: None)), due
        )

    def advance(
        self,
        gradients: Sequence[Gradient],
        squares: tf.Tensor,
        contribution: Contribution,
        examples: tf.Tensor,
        *,
        optimize: Callable[[], object] | None = None,
        momenta: Sequence[Momentum] | None = None,
    ) -> tf.Tensor:
        """`update` for gradients that are not divided yet, with their squares [variables] at hand.

        Weights are updated in the same pass where `momenta` are given, else by `optimize`. Returns the moments, zeros
        where they were not due; `where_measured` leaves those out.
        """
        mean, due = self.running_mean, self.due()
        plan = mean.plan()
        measured = []
        for number, gradient in enumerate(gradients):
            base = mean.base[number] if mean.base else None
            folding = Folding(mean.recent[number], base, plan, due)
            measured.append(advance(gradient, folding, None if momenta is None else momenta[number]))
        sums = tf.transpose(tf.stack(measured))
        updates = sums[UPDATE], sums[WEIGHT]
        if momenta is None:
            assert optimize is not None
            with tf.control_dependencies(measured):
                updates = self._optimized(optimize, due)
        squares = tf.cast(squares, tf.float64)
        with tf.control_dependencies(measured):
            mean.settle()
            typical = self._typical.assign_add((squares - self._typical) * plan.rate)

        def moments() -> tf.Tensor:
            total = tf.cast(examples, tf.float64)
            local = tf.cast(contribution.squares, tf.float64) / total
            signal, noise = self._smoothed(squares, local, tf.cast(contribution.groups, tf.float64), total)
            means = sums[TOTAL] / plan.after**2
            previous = tf.math.divide_no_nan(sums[PREVIOUS], plan.before**2)
            products = tf.math.divide_no_nan(sums[PRODUCT], plan.before)
            return tf.stack([squares, means, previous, products, typical, local, updates[1], updates[0], signal, noise])

        return tf.cond(due, moments, lambda: tf.zeros([len(ROWS), len(self.variables)], tf.float64))

    def _optimized(self, optimize: Callable[[], object], due: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Apply the optimizer, and measure the squared norms of updates and weights where they are due."""

        def watched() -> tuple[tf.Tensor, tf.Tensor]:
            before = [tf.identity(variable) for variable in self.variables]
            with tf.control_dependencies(before):
                optimize()
            steps = [variable - old for variable, old in zip(self.variables, before, strict=True)]
            weights = [tf.convert_to_tensor(variable) for variable in self.variables]
            taken, left = (tf.cast(sums_of_squares(tensors), tf.float64) for tensors in (steps, weights))
            return taken, left

        def alone() -> tuple[tf.Tensor, tf.Tensor]:
            optimize()
            nothing = tf.zeros(len(self.variables), tf.float64)
            return nothing, nothing

        updates: tuple[tf.Tensor, tf.Tensor] = tf.cond(due, watched, alone)
        return updates

    def _smoothed(
        self, squares: tf.Tensor, local: tf.Tensor, groups: tf.Tensor, examples: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Take the step's estimates into the smoothed signal and noise, and return those; nan before the first."""
        # One group tells nothing of the noise, and a square that overflowed would stay in the averages for ever.
        told = (groups > 1) & tf.reduce_all(tf.math.is_finite(local))
        gain = tf.where(told, tf.constant(1 - self._smoothing, tf.float64), tf.zeros([], tf.float64))
        signal, noise = signal_and_noise(squares, local, tf.maximum(groups, 2), examples)
        weight = self._weight.assign_add((1 - self._weight) * gain)
        averages = (
            average.assign_add(tf.math.multiply_no_nan(estimate - average, gain))
            for average, estimate in ((self._signal, signal), (self._noise, noise))
        )
        smoothed_signal, smoothed_noise = (average / weight for average in averages)
        return smoothed_signal, smoothed_noise


def group_contribution(sums: Sequence[tf.Tensor], examples: tf.Tensor, due: tf.Tensor) -> Contribution:
    """The contribution of one group from the sums of its examples' gradients; zeros where it is not due."""
    dtype = sums[0].dtype

    def squares() -> tf.Tensor:
        return tf.math.divide_no_nan(sums_of_squares(sums), examples)

    return Contribution(
        tf.cond(due, squares, lambda: tf.zeros(len(sums), dtype)),
        tf.cast(examples > 0, dtype),
    )


def where_measured(moments: tf.Tensor, measured: tf.Tensor) -> tf.Tensor:
    """The moments of a step that was measured, [0, variables] of one that was not."""
    return moments[: tf.where(measured, len(ROWS), 0)]


def as_moments(rows: tf.Tensor, groups: tf.Tensor, examples: tf.Tensor) -> Moments | None:
    """The moments on the host; None where the step was not measured."""
    values = np.asarray(rows)
    if len(values) == 0:
        return None
    measured = dict(zip(ROWS, values, strict=True))
    return Moments(**measured, groups=round(float(groups)), examples=round(float(examples)))
