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
from distrain.gradients.statistics import (
    Contribution,
    GradientStatistics,
    group_contribution,
    where_measured,
)
from distrain.model.build import Trained
from distrain.model.sync_batch_norm import Exchange, exchanging
from distrain.model.unet import centre
from distrain.step import rank_reports
from distrain.step.adasum import adapted
from distrain.step.program import as_program, plain
from distrain.step.reduction import Reduction, Slices, added
from distrain.step.settlement import FLAGS, SUMS, Settlement, StepResult
from distrain.step.update import Update
from distrain.world.collectives import Collectives
from distrain.world.topology import World

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
    jit_compile: bool = False,
    programs: bool = False,
) -> TrainStep:
    """The compiled step for examples of `spec`; it is traced once, whatever the sizes of the shares.

    From the backward pass to the reduction gradients are those of the loss times `part`, a power of two: with `part_of`
    the batch they are parts of the mean, and remain within the range of 16 bits. They are sent as `wire`, as they are
    where it is None, and added up, or combined by Adasum where `adaptive`.
    With `jit_compile` forward and backward pass are a program of XLA's, compiled for each size of a share; with
    `programs` all else but the exchange is: some thousand operations, each of which a GPU has to be told to start.
    """
    variables = trained.trainable()
    averaged = [buffer for buffer in trained.buffers() if buffer.dtype.is_floating]
    kept = [buffer for buffer in trained.buffers() if not buffer.dtype.is_floating]
    # With one group in all, what it saw is what all saw.
    several = statistics is not None and world.size * accumulate > 1
    portion = Part(trained, variables, statistics if several else None, collectives)
    reduction = _reduction(variables, collectives, wire, adaptive=adaptive)
    settlement = Settlement(
        trained,
        statistics,
        Update(trained, statistics),
        averaged,
        (SUMS, FLAGS, len(variables) if several else 0, *rank_reports.shape(world, kept=statistics is not None)),
        reduction is not None and adaptive,
        part,
        clip_norm,
    )
    passes, rest = as_program if jit_compile else plain, as_program if programs else plain
    set_random_states = rest(functools.partial(_set_random_states, trained.random_states()))
    measure = rest(portion.measure) if several else portion.measure
    settle = rest(settlement.settle)

    # Parts of different sizes are programs of their own.
    @(passes if accumulate > 1 else plain)
    def compute(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, factor: tf.Tensor) -> Computed:
        loss_sum, gradients = _summed(portion, images, labels, weights, factor)
        return Computed(loss_sum, gradients, measure(gradients, tf.reduce_sum(weights)))

    @(passes if accumulate == 1 else plain)
    def share(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, key: tf.Tensor, flags: tf.Tensor) -> Share:
        set_random_states(key)
        weights = tf.cast(weights, variables[0].dtype)
        before = [tf.identity(buffer) for buffer in averaged]
        # A power of two, so that no digit changes, and division by the examples takes it back without another pass.
        scale = trained.loss_scale
        factor = tf.constant(part, weights.dtype) if scale is None else scale.scale * part
        loss_sum, gradients, own = _accumulated(compute, portion, [images, labels, weights], factor, accumulate)
        own = Contribution(own.squares / factor**2, own.groups)

        count = tf.reduce_sum(weights)
        steps = None if statistics is None else statistics.running_mean.count
        turn, reports = rank_reports.told(loss_sum, count, own, steps, world)
        pieces = [tf.stack([loss_sum, count, own.groups]), tf.cast(flags, weights.dtype), own.squares, reports]
        vector = tf.concat([tf.reshape(piece, [-1]) for piece in pieces], axis=0)
        # What the forward pass changed is averaged, not the values: frozen weights then keep every bit.
        changes = [
            (buffer - value) * tf.cast(count, buffer.dtype) for buffer, value in zip(averaged, before, strict=True)
        ]
        return Share(gradients, [*changes, vector], count, before, factor, turn)

    # Alone there is no exchange that has to stay outside.
    @(rest if jit_compile and accumulate == 1 and collectives.size == 1 else plain)
    def whole(*batch: tf.Tensor) -> tuple[StepResult, tf.Tensor]:
        own = share(*batch)
        if reduction is None:
            summed = collectives.sum_group([*own.gradients, *own.others])
        else:
            summed = reduction(own.gradients, own.count * part) + collectives.sum_group(own.others)
        return settle(summed[: len(variables)], summed[len(variables) :], own.before, own.factor, own.turn)

    def step(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, key: tf.Tensor, flags: tf.Tensor) -> StepResult:
        before = [tf.identity(buffer) for buffer in kept]
        result, measured = whole(images, labels, weights, key, flags)
        for buffer, value in zip(kept, before, strict=True):
            buffer.assign(tf.where(result.applied, buffer, value))
        return result._replace(moments=where_measured(result.moments, measured))

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
        concrete = trace()
        # What a call does before this is to see to it that the tensors are of the signature; it takes a tenth of a
        # millisecond, and for these it is known but for their shapes.
        result: StepResult = concrete._call_flat(tensors, concrete.captured_inputs)
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


class Share(NamedTuple):
    """What a rank has computed of its examples, `count` () of them.

    Summed over ranks are the `gradients`, times `factor` (), and `others`: the changes of buffers, which were `before`,
    and last a vector of all that is told. `turn` () is whose reports are in that.
    """

    gradients: list[tf.Tensor]
    others: list[tf.Tensor]
    count: tf.Tensor
    before: list[tf.Tensor]
    factor: tf.Tensor
    turn: tf.Tensor


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


class Computed(NamedTuple):
    """Of some examples: the sum of their losses, that of their gradients times a factor, and what these add to the
    statistics."""

    loss_sum: tf.Tensor
    gradients: list[tf.Tensor]
    own: Contribution


# images, labels, weights [b], factor ().
Compute = Callable[..., Computed]


def _accumulated(
    compute: Compute, part: Part, examples: Sequence[tf.Tensor], factor: tf.Tensor, accumulate: int
) -> Computed:
    """What `compute` makes of this rank's examples (images, labels, weights), in up to `accumulate` parts."""
    if accumulate == 1:
        return compute(*examples, factor)
    weights = examples[-1]
    count = tf.shape(weights)[0]
    length = (count + accumulate - 1) // accumulate

    def add(start: tf.Tensor, loss_sum: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        loss, gradients, own = compute(*(each[start : start + length] for each in examples), factor)
        return start + length, loss_sum + loss, *(one + two for one, two in zip(sums, [*gradients, *own], strict=True))

    nothing = [tf.zeros(variable.shape, variable.dtype) for variable in part.variables]
    contribution = part.measure(nothing, tf.zeros([], weights.dtype))
    start = (tf.constant(0), tf.zeros([], weights.dtype), *nothing, *contribution)
    _, loss_sum, *sums = tf.while_loop(lambda begin, *_: begin < count, add, start, parallel_iterations=1)
    return Computed(loss_sum, sums[:-2], Contribution(*sums[-2:]))


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
