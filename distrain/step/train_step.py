"""One optimizer step, compiled: forward, backward, one allreduce, running mean, clipping, optimizer.

All ranks call it together. What it returns about the step is the same on every rank, since it is computed from what
the allreduce gave to all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.data.pool import ALIGNMENT, SMALLEST
from distrain.data.provider import ExampleSpec
from distrain.gradients.advance import Gradient
from distrain.gradients.measures import Moments, RankMoments
from distrain.gradients.running_mean import sums_of_squares
from distrain.gradients.statistics import Contribution, GradientStatistics, as_moments, group_contribution
from distrain.model.build import Trained
from distrain.model.loss_scale import LossScale
from distrain.model.sync_batch_norm import Exchange, exchanging
from distrain.model.unet import centre
from distrain.step import rank_reports
from distrain.step.adasum import adapted
from distrain.step.reduction import Reduction, Slices, added
from distrain.step.update import Update
from distrain.world.collectives import Collectives
from distrain.world.topology import World

# Places in the vector of flags, with which a rank tells all others something in the same step.
STOP, SAVE, FAILED, RESIZE, BAD = range(5)
FLAGS = 5


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


# images [b, h, w, c], labels [b, ...], weights [b] (1, or 0 for an example that only fills up an empty share),
# random key [2] uint32, flags [5].
TrainStep = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], StepResult]


def build_train_step(
    trained: Trained,
    statistics: GradientStatistics | None,
    collectives: Collectives,
    spec: ExampleSpec,
    world: World,
    *,
    accumulate: int = 1,
    clip_norm: float | None = None,
    part: float = 1.0,
    wire: tf.DType | None = None,
    adaptive: bool = False,
) -> TrainStep:
    """The compiled step for examples of `spec`; it is traced once, whatever the sizes of the shares.

    From the backward pass to the reduction gradients are those of the loss times `part`, a power of two: with `part_of`
    the batch they are parts of the mean, and remain within the range of 16 bits. They are sent as `wire`, as they are
    where it is None, and added up, or combined by Adasum where `adaptive`.
    """
    variables = trained.trainable()
    buffers = trained.buffers()
    averaged = [number for number, buffer in enumerate(buffers) if buffer.dtype.is_floating]
    dtype = variables[0].dtype
    update = Update(trained, statistics)
    # With one group in all, what it saw is what all saw.
    several = statistics is not None and world.size * accumulate > 1
    portion = Part(trained, variables, statistics if several else None, collectives)
    reduction = _reduction(variables, collectives, wire, adaptive=adaptive)

    def step(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, key: tf.Tensor, flags: tf.Tensor) -> StepResult:
        _set_random_states(trained.random_states(), key)
        weights = tf.cast(weights, dtype)
        buffers_before = [tf.identity(buffer) for buffer in buffers]

        scale = trained.loss_scale
        # A power of two, so that no digit changes, and division by the examples takes it back without another pass.
        factor = tf.constant(part, dtype) if scale is None else scale.scale * part
        loss_sum, local, own = _accumulated(portion, images, labels, weights, factor, accumulate)
        own = Contribution(own.squares / factor**2, own.groups)

        count = tf.reduce_sum(weights)
        steps = None if statistics is None else statistics.running_mean.count
        turn, reports = rank_reports.told(loss_sum, count, own, steps, world)
        sums = tf.stack([loss_sum, count, own.groups])
        pieces = [sums, tf.cast(flags, dtype), own.squares, tf.reshape(reports, [-1])]
        # What the forward pass changed is averaged, not the values: frozen weights then keep every bit.
        changes = [
            (buffers[number] - buffers_before[number]) * tf.cast(count, buffers[number].dtype) for number in averaged
        ]
        if reduction is None:
            summed = collectives.sum_group([*local, *changes, tf.concat(pieces, axis=0)])
        else:
            summed = reduction(local, count * part) + collectives.sum_group([*changes, tf.concat(pieces, axis=0)])
        sums, flags, local_squares, told = tf.split(summed[-1], [piece.shape[0] for piece in pieces])
        loss_sum, examples, groups = tf.unstack(sums)
        reports = tf.reshape(told, reports.shape)
        loss = loss_sum / examples
        # What Adasum has made is of means already.
        divisor = factor / part if reduction is not None and adaptive else examples * factor
        gradients = [Gradient(total, divisor) for total in summed[: len(variables)]]
        buffers_after = [
            buffers_before[number] + change / tf.cast(examples, change.dtype)
            for number, change in zip(averaged, summed[len(variables) : -1], strict=True)
        ]

        squares = sums_of_squares([gradient.total for gradient in gradients]) / divisor**2
        norm = tf.sqrt(tf.reduce_sum(squares))
        sound = _all_finite([loss, *buffers_after]) & (flags[FAILED] == 0)
        applied = sound & tf.math.is_finite(norm)
        overflowed, loss_scale = _settled(scale, applied, sound & ~applied)
        learning_rate = tf.identity(tf.convert_to_tensor(trained.optimizer.learning_rate))
        contribution = Contribution(local_squares, groups) if several else Contribution(squares * examples, groups)

        def apply() -> tf.Tensor:
            clip = tf.ones([], dtype) if clip_norm is None else tf.minimum(tf.ones([], dtype), clip_norm / norm)
            moments = update(gradients, squares, examples, clip, learning_rate, contribution)
            for number, value in zip(averaged, buffers_after, strict=True):
                buffers[number].assign(value)
            return moments

        def skip() -> tf.Tensor:
            for buffer, value in zip(buffers, buffers_before, strict=True):
                buffer.assign(value)
            return tf.zeros([0, len(variables)], tf.float64)

        moments = tf.cond(applied, apply, skip)
        return StepResult(
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
            reports,
            turn,
        )

    signature = [
        tf.TensorSpec([None, *spec.image_shape], tf.float32),
        tf.TensorSpec([None, *spec.label_shape], tf.int32),
        tf.TensorSpec([None], tf.float32),
        tf.TensorSpec([2], tf.uint32),
        tf.TensorSpec([FLAGS], tf.float32),
    ]
    return _traced_once(step, signature)


def _traced_once(step: TrainStep, signature: Sequence[tf.TensorSpec]) -> TrainStep:
    """The step as one `tf.function`, without what each call of such does to find the trace that fits."""
    compiled = tf.function(step, input_signature=signature, autograph=False)
    trace = functools.cache(compiled.get_concrete_function)

    @functools.wraps(compiled, updated=())
    def call(*arguments: tf.Tensor) -> StepResult:
        tensors = [as_tensor(given, spec.dtype) for given, spec in zip(arguments, signature, strict=True)]
        result: StepResult = trace()(*tensors)
        return result

    return call


def as_tensor(given: tf.Tensor | npt.NDArray[Any], dtype: tf.DType) -> tf.Tensor:
    """A tensor, where it can be of the array's own memory, which must stay as it is then: a copy takes longer."""
    if isinstance(given, np.ndarray) and given.nbytes >= SMALLEST and given.dtype == dtype.as_numpy_dtype:
        aligned = given.__array_interface__["data"][0] % ALIGNMENT == 0
        if aligned and given.flags.c_contiguous and given.flags.writeable:
            return tf.experimental.dlpack.from_dlpack(given.__dlpack__())
    return tf.convert_to_tensor(given, dtype)


def _reduction(
    variables: Sequence[tf.Variable], collectives: Collectives, wire: tf.DType | None, *, adaptive: bool
) -> Reduction | None:
    """How gradients are reduced other than by the allreduce of all else; None where that does, or there is one rank."""
    if collectives.size == 1 or (wire is None and not adaptive):
        return None
    slices = Slices(variables, collectives, wire)
    return adapted(slices) if adaptive else added(slices)


def _settled(scale: LossScale | None, applied: tf.Tensor, overflow: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Whether the loss scale was too high, and what it was, 0 where there is none; it is changed for the next step."""
    if scale is None:
        return tf.constant(False), tf.zeros([])
    before, too_high = tf.convert_to_tensor(scale.scale), scale.too_high(overflow)
    scale.settle(applied, too_high)
    return too_high, before


def _all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])


class Part(NamedTuple):
    """What a micro-batch needs to be summed; `statistics` None: nothing is measured of it by itself."""

    trained: Trained
    variables: Sequence[tf.Variable]
    statistics: GradientStatistics | None
    collectives: Collectives

    def measure(self, sums: Sequence[tf.Tensor], count: tf.Tensor) -> Contribution:
        """What the sums over `count` examples add to the statistics."""
        if self.statistics is None:
            return Contribution(tf.zeros([0], count.dtype), tf.cast(count > 0, count.dtype))
        return group_contribution(sums, count, self.statistics.due())


def _accumulated(
    part: Part, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, factor: tf.Tensor, accumulate: int
) -> tuple[tf.Tensor, list[tf.Tensor], Contribution]:
    """Sum over this rank's examples of losses, and of their gradients times `factor`, in up to `accumulate` parts.

    What they add to the statistics is of the gradients times `factor`, too.
    """
    if accumulate == 1:
        loss_sum, gradients = _summed(part, images, labels, weights, factor)
        return loss_sum, gradients, part.measure(gradients, tf.reduce_sum(weights))
    count = tf.shape(images)[0]
    length = (count + accumulate - 1) // accumulate

    def add(start: tf.Tensor, loss_sum: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        window = slice(start, start + length)
        loss, gradients = _summed(part, images[window], labels[window], weights[window], factor)
        own = part.measure(gradients, tf.reduce_sum(weights[window]))
        return start + length, loss_sum + loss, *(one + two for one, two in zip(sums, [*gradients, *own], strict=True))

    nothing = [tf.zeros(variable.shape, variable.dtype) for variable in part.variables]
    contribution = part.measure(nothing, tf.zeros([], weights.dtype))
    start = (tf.constant(0), tf.zeros([], weights.dtype), *nothing, *contribution)
    _, loss_sum, *sums = tf.while_loop(lambda begin, *_: begin < count, add, start, parallel_iterations=1)
    return loss_sum, sums[:-2], Contribution(*sums[-2:])


def _summed(
    part: Part, images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, factor: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Sum over examples of weighted losses, and its gradients times `factor`; regularisation counts once for each."""
    trained = part.trained
    exchange = Exchange(part.collectives.named, weights)
    with exchanging(exchange), tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(part.variables)
        logits = trained.logits(images, training=True)
        losses = tf.cast(trained.loss(crop_labels(labels, logits), logits), weights.dtype)
        # An example of weight 0 must not count even where its loss is not finite.
        loss_sum = tf.reduce_sum(tf.math.multiply_no_nan(losses, weights))
        loss_sum += tf.reduce_sum(weights) * _regularisation(trained, weights.dtype)
        scaled = loss_sum * factor
    gradients = tape.gradient(scaled, part.variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return loss_sum, [tf.convert_to_tensor(gradient) for gradient in gradients]


def crop_labels(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The labels that a prediction is about: for pixels, the central part of the prediction's size."""
    return labels if labels.shape.rank == 1 else centre(labels, logits)


def _regularisation(trained: Trained, dtype: tf.DType) -> tf.Tensor:
    total = tf.zeros([], dtype)
    if trained.l2:
        total += trained.l2 * tf.add_n([tf.nn.l2_loss(kernel) for kernel in trained.kernels()])
    for penalty in trained.model.losses:
        total += tf.cast(penalty, dtype)
    return total


def _set_random_states(states: Sequence[tf.Variable], key: tf.Tensor) -> None:
    """Give each generator of the model a state of its own, made from the step's key."""
    for number, state in enumerate(states):
        # The first word tells generators apart; generators count draws in the second.
        state.assign(tf.cast(key + tf.constant([number * 0x9E3779B9 % 2**32, 0], tf.uint32), state.dtype))


def measured_of(result: StepResult) -> tuple[Moments, RankMoments] | None:
    """What the step measured, on the host, the ranks' part empty in a world of 1; None where it was not due."""
    moments = as_moments(result.moments, result.groups, result.examples)
    if moments is None:
        return None
    return moments, rank_reports.read(result.reports, result.turn)
