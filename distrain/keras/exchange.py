"""How a distributed optimizer applies gradients: those of all ranks, of one backward pass or the sum of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import tensorflow as tf

from distrain.gradients.measures import ROWS
from distrain.gradients.statistics import Contribution, GradientStatistics
from distrain.keras.place import place
from distrain.keras.reducer import ONE, Options, Reducer, examples_now
from distrain.keras.values import Average

Apply = Callable[[list[Any]], object]


class Applied(NamedTuple):
    """Gradients and the variables that they are of, as an optimizer was given them."""

    gradients: list[Any]
    variables: list[Any]


class Exchange:
    """What makes an optimizer distributed: its reducer, and what has to last from one batch to the next.

    None of it is part of the optimizer's own state, so that a model that is saved loads without distrain.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.reducer = Reducer(options)
        # True once a `LossScaleOptimizer` has taken the optimizer for its inner one.
        self.scaled = False
        self.measuring: Measuring | None = None
        self._taken: list[Applied] | None = None
        self._sums: list[tf.Variable] = []
        self._examples: tf.Variable | None = None
        self._passes: tf.Variable | None = None

    @property
    def taken(self) -> list[Applied] | None:
        """Where gradients go that are not to be applied now."""
        return self._taken

    @contextmanager
    def taking(self) -> Iterator[list[Applied]]:
        """In here nothing is applied; the list holds what would have been."""
        self._taken = []
        try:
            yield self._taken
        finally:
            self._taken = None

    def build(self, variables: Sequence[Any]) -> None:
        """Make room for the sums of several backward passes, where there are several; `variables` as built."""
        if self.options.backward_passes_per_step == 1 or self._sums:
            return
        with tf.init_scope():
            self._sums = [tf.Variable(tf.zeros(each.shape, each.dtype), trainable=False) for each in variables]
            self._examples = tf.Variable(0.0, dtype=tf.float64, trainable=False)
            self._passes = tf.Variable(0, dtype=tf.int64, trainable=False)

    def state(self) -> dict[str, tf.Variable]:
        """What lasts from one batch to the next, by names that stay."""
        if self._examples is None or self._passes is None:
            return {}
        sums = {f"sums/{number:04d}": variable for number, variable in enumerate(self._sums)}
        return {"passes": self._passes, "examples": self._examples, **sums}

    def apply(self, gradients: Sequence[Any], keys: Sequence[str], apply: Apply) -> None:
        """Exchange this rank's gradients, means over its batch, and `apply` the result. Collective.

        `keys` are those of the variables, one a gradient.
        """
        if place().horovod is None and self.measuring is None:
            apply(list(gradients))
            return
        examples = examples_now()
        reduced = self._reduced(gradients, keys, self.reducer.weight(examples))
        if self.measuring is None:
            apply(reduced)
        else:
            self.measuring.update(gradients, reduced, examples, apply)

    def add(self, gradients: Sequence[Any], places: Sequence[int], keys: Sequence[str], apply: Apply) -> None:
        """As `apply`, but once in so many calls, for the sum of all; `places` are those of the variables as built."""
        assert self._examples is not None
        assert self._passes is not None
        options = self.options
        examples = examples_now() if options.op == Average else tf.convert_to_tensor(ONE)
        sums = [None if each is None else self._sums[at] for each, at in zip(gradients, places, strict=True)]
        for gradient, total in zip(gradients, sums, strict=True):
            if total is not None:
                total.assign_add(
                    tf.math.multiply_no_nan(tf.convert_to_tensor(gradient), tf.cast(examples, total.dtype))
                )
        self._examples.assign_add(examples)
        passes = self._passes.assign_add(1)
        # As in Horovod, the passes are summed up where it is not said that they are to be averaged.
        factor = 1 if options.average_aggregated_gradients else options.backward_passes_per_step

        def update() -> tf.Tensor:
            assert self._examples is not None
            seen = tf.convert_to_tensor(self._examples)
            means = [None if each is None else tf.math.divide_no_nan(each, tf.cast(seen, each.dtype)) for each in sums]
            apply(self._reduced(means, keys, self.reducer.weight(seen) * factor))
            for variable in (*self._sums, self._examples):
                variable.assign(tf.zeros_like(variable))
            return tf.constant(True)

        tf.cond(passes % options.backward_passes_per_step == 0, update, lambda: tf.constant(False))

    def _reduced(self, gradients: Sequence[Any], keys: Sequence[str], weight: tf.Tensor) -> list[Any]:
        return self.reducer.scaled_local(self.reducer.reduce(gradients, keys, weight), keys)


class Measuring:
    """The statistics of an optimizer's gradients, and what they were in the last step that was measured.

    `moments` [rows, variables] and `counts` [groups, examples] are read by `as_moments`; the counts are zero before.
    """

    def __init__(self, statistics: GradientStatistics, name: str) -> None:
        self.statistics = statistics
        self._name = f"{name}.statistics"
        shape = [len(ROWS), len(statistics.variables)]
        self.moments = tf.Variable(tf.zeros(shape, tf.float64), trainable=False)
        self.counts = tf.Variable(tf.zeros(2, tf.float64), trainable=False)

    def update(self, own: Sequence[Any], reduced: Sequence[Any], examples: tf.Tensor, apply: Apply) -> None:
        """Take in one step, and `apply` it. Collective."""
        # A rank without examples has no gradient, whatever it holds.
        dense = [tf.math.multiply_no_nan(each, tf.sign(tf.cast(examples, each.dtype))) for each in self._dense(own)]
        squares, groups = self.statistics.contribution(dense, examples)
        packed = tf.concat([tf.cast(squares, tf.float64), [tf.cast(groups, tf.float64), examples]], axis=0)
        sums = place().collectives(self._name).sum_group([packed])[0]
        contribution = Contribution(tf.cast(sums[:-2], squares.dtype), tf.cast(sums[-2], groups.dtype))
        due = self.statistics.due()
        optimize = lambda: apply(list(reduced))  # noqa: E731
        moments = self.statistics.update(self._dense(reduced), contribution, sums[-1], optimize)

        def keep() -> tf.Tensor:
            self.moments.assign(moments)
            self.counts.assign(sums[-2:])
            return tf.constant(True)

        tf.cond(due, keep, lambda: tf.constant(False))

    def _dense(self, gradients: Sequence[Any]) -> list[tf.Tensor]:
        pairs = zip(gradients, self.statistics.variables, strict=True)
        return [tf.zeros_like(variable) if each is None else tf.convert_to_tensor(each) for each, variable in pairs]
