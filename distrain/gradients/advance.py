"""One pass over a gradient: fold it into its running mean, update its variable by momentum, measure both.

By the compiled operation where there is one for the device, which reads and writes each array once; otherwise by
TensorFlow's own operations. What is measured never changes what is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from distrain.gradients.running_mean import Plan, sum_of_squares
from distrain.kernels import compiled

# What `advance` measures, with S the sum whose quotient is the running mean.
PREVIOUS, PRODUCT, TOTAL, UPDATE, WEIGHT = range(5)
MEASURED = 5


@dataclass(frozen=True)
class Folding:
    """The running mean of one gradient (`base` None: it has none), how it is folded in, and whether to measure."""

    recent: tf.Variable
    base: tf.Variable | None
    plan: Plan
    measure: tf.Tensor


@dataclass(frozen=True)
class Momentum:
    """The variable that a gradient is of, and how it is updated: `v = momentum * v - rate * clip * g; w = w + v`.

    With `nesterov` it is `w = w + momentum * v - rate * clip * g`. As Keras's SGD does it.
    """

    variable: tf.Variable
    velocity: tf.Variable
    rate: tf.Tensor
    momentum: float
    nesterov: bool
    clip: tf.Tensor


class Gradient(NamedTuple):
    """A gradient as the quotient of two tensors: the sum over examples, and their number (), times its scale if any."""

    total: tf.Tensor
    divisor: tf.Tensor


def advance(gradient: Gradient, folding: Folding | None, momentum: Momentum | None) -> tf.Tensor:
    """Fold in and update, as far as given. Returns [MEASURED], float64; zeros where nothing was to be measured.

    |S|^2 before, g . S before, |S|^2 after; |dw|^2, |w|^2 after, these two zero without `momentum`.
    """
    touched = momentum.variable if momentum is not None else folding.recent if folding is not None else None
    assert touched is not None
    if compiled.serve(touched):
        return _by_kernel(gradient, folding, momentum)
    return _by_tensorflow(gradient, folding, momentum)


def _by_kernel(gradient: Gradient, folding: Folding | None, momentum: Momentum | None) -> tf.Tensor:
    dtype = gradient.total.dtype
    numbers: list[tf.Tensor | float] = [gradient.divisor, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    measure: tf.Tensor | bool = False
    variables = []
    if folding is not None:
        measure = folding.measure
        numbers[1:4] = folding.plan.keep, folding.plan.gain, folding.plan.folded
        variables.append(folding.recent.handle)
    if momentum is not None:
        numbers[4:] = momentum.rate, momentum.momentum, momentum.clip
        variables += [momentum.variable.handle, momentum.velocity.handle]
    if folding is not None and folding.base is not None:
        variables.append(folding.base.handle)
    operations = compiled.operations()
    assert operations is not None
    return operations.distrain_advance(
        gradient=gradient.total,
        numbers=tf.stack([tf.cast(number, dtype) for number in numbers]),
        measure=measure,
        variables=variables,
        fold=folding is not None,
        update=momentum is not None,
        nesterov=momentum is not None and momentum.nesterov,
    )


def _by_tensorflow(gradient: Gradient, folding: Folding | None, momentum: Momentum | None) -> tf.Tensor:
    dtype = gradient.total.dtype
    value = gradient.total / gradient.divisor
    nothing = tf.zeros([], dtype)
    if momentum is None:
        assert folding is not None
        sums = tf.cond(folding.measure, lambda: _fold(value, folding, True), lambda: _fold(value, folding, False))
        return tf.cast(tf.stack([*sums, nothing, nothing]), tf.float64)
    if folding is None:
        _update(value, momentum)
        return tf.zeros([MEASURED], tf.float64)

    def measured() -> tf.Tensor:
        sums = _fold(value, folding, True)
        step = _update(value, momentum)
        return tf.stack([*sums, sum_of_squares(step), sum_of_squares(momentum.variable)])

    def only() -> tf.Tensor:
        sums = _fold(value, folding, False)
        _update(value, momentum)
        return tf.stack([*sums, nothing, nothing])

    return tf.cast(tf.cond(folding.measure, measured, only), tf.float64)


def _fold(value: tf.Tensor, folding: Folding, measure: bool) -> list[tf.Tensor]:
    dtype = value.dtype
    keep, gain, folded = (tf.cast(number, dtype) for number in folding.plan[:3])
    before = tf.convert_to_tensor(folding.recent)
    gained = value * gain
    after = folding.recent.assign(before * keep + gained)
    if not measure:
        return [tf.zeros([], dtype)] * 3
    # In a new window the sum before it does not count.
    previous, total = before, after
    if folding.base is not None:
        base = folding.base * folded
        previous, total = before * keep + base, after + base
    return [sum_of_squares(previous), tf.reduce_sum(previous * value), sum_of_squares(total)]


def _update(value: tf.Tensor, momentum: Momentum) -> tf.Tensor:
    """Update the variable in place; returns by how much."""
    step = value * tf.cast(momentum.clip, value.dtype) * tf.cast(momentum.rate, value.dtype)
    factor = tf.cast(momentum.momentum, value.dtype)
    velocity = momentum.velocity.assign(momentum.velocity * factor - step)
    update = velocity * factor - step if momentum.nesterov else velocity
    momentum.variable.assign_add(update, read_value=False)
    return update
