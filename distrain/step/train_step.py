"""One optimizer step, compiled: forward, backward, one allreduce, running mean, clipping, optimizer.

All ranks call it together. What it returns about the step is the same on every rank, since it is computed from what
the allreduce gave to all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from distrain.data.provider import ExampleSpec
from distrain.gradients.running_mean import RunningMean, sum_of_squares
from distrain.model.build import Trained
from distrain.model.unet import centre
from distrain.world.collectives import Collectives

# Places in the vector of flags, with which a rank tells all others something in the same step.
STOP, SAVE, FAILED, RESIZE = range(4)
FLAGS = 4


class StepResult(NamedTuple):
    """What one step tells; equal on every rank. `loss` is the mean over the global batch, before the update.

    `flags` [4]: how many ranks raised STOP, SAVE, FAILED, RESIZE. `gradient_squares`, `mean_squares` [variables]:
    squared L2 norms of the gradient and of its running mean; the latter empty, [0], where it is not kept or not due.
    With `applied` false nothing was updated: loss or gradient were not finite, or a rank had failed.
    """

    loss: tf.Tensor
    applied: tf.Tensor
    flags: tf.Tensor
    learning_rate: tf.Tensor
    gradient_squares: tf.Tensor
    mean_squares: tf.Tensor


# images [b, h, w, c], labels [b, ...], weights [b] (1, or 0 for an example that only fills up an empty share),
# random key [2] uint32, flags [4].
TrainStep = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor], StepResult]


def build_train_step(
    trained: Trained,
    running_mean: RunningMean | None,
    collectives: Collectives,
    spec: ExampleSpec,
    *,
    accumulate: int = 1,
    clip_norm: float | None = None,
) -> TrainStep:
    """The compiled step for examples of `spec`; it is traced once, whatever the sizes of the shares."""
    variables = trained.trainable()
    buffers = trained.buffers()
    averaged = [number for number, buffer in enumerate(buffers) if buffer.dtype.is_floating]
    dtype = variables[0].dtype

    def step(images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor, key: tf.Tensor, flags: tf.Tensor) -> StepResult:
        _set_random_states(trained.random_states(), key)
        weights = tf.cast(weights, dtype)
        buffers_before = [tf.identity(buffer) for buffer in buffers]

        loss_sum, gradients = _accumulated(trained, variables, images, labels, weights, accumulate)

        count = tf.reduce_sum(weights)
        vector = tf.concat([[loss_sum, count], tf.cast(flags, dtype)], axis=0)
        # What the forward pass changed is averaged, not the values: frozen weights then keep every bit.
        changes = [
            (buffers[number] - buffers_before[number]) * tf.cast(count, buffers[number].dtype) for number in averaged
        ]
        summed = collectives.sum_group([*gradients, *changes, vector])
        total = summed[-1]
        loss, flags = total[0] / total[1], total[2:]
        gradients = [gradient / total[1] for gradient in summed[: len(variables)]]
        buffers_after = [
            buffers_before[number] + change / tf.cast(total[1], change.dtype)
            for number, change in zip(averaged, summed[len(variables) : -1], strict=True)
        ]

        squares = tf.stack([sum_of_squares(gradient) for gradient in gradients])
        norm = tf.sqrt(tf.reduce_sum(squares))
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
        for buffer in buffers_after:
            finite &= tf.reduce_all(tf.math.is_finite(buffer))
        learning_rate = tf.identity(tf.convert_to_tensor(trained.optimizer.learning_rate))

        def apply() -> tf.Tensor:
            mean_squares = running_mean.update(gradients) if running_mean is not None else tf.zeros([0], dtype)
            clipped = gradients if clip_norm is None else _clipped(gradients, norm, clip_norm)
            trained.optimizer.apply(clipped, trained.model.trainable_variables)
            for number, value in zip(averaged, buffers_after, strict=True):
                buffers[number].assign(value)
            return mean_squares

        def skip() -> tf.Tensor:
            for buffer, value in zip(buffers, buffers_before, strict=True):
                buffer.assign(value)
            return tf.zeros([0], dtype)

        applied = finite & (flags[FAILED] == 0)
        mean_squares = tf.cond(applied, apply, skip)
        return StepResult(loss, applied, flags, learning_rate, squares, mean_squares)

    signature = [
        tf.TensorSpec([None, *spec.image_shape], tf.float32),
        tf.TensorSpec([None, *spec.label_shape], tf.int32),
        tf.TensorSpec([None], tf.float32),
        tf.TensorSpec([2], tf.uint32),
        tf.TensorSpec([FLAGS], tf.float32),
    ]
    compiled: TrainStep = tf.function(step, input_signature=signature, autograph=False)
    return compiled


def _accumulated(
    trained: Trained,
    variables: Sequence[tf.Variable],
    images: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor,
    accumulate: int,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Sum over this rank's examples of losses and of their gradients, in up to `accumulate` micro-batches."""
    if accumulate == 1:
        return _summed(trained, variables, images, labels, weights)
    count = tf.shape(images)[0]
    length = (count + accumulate - 1) // accumulate

    def add(start: tf.Tensor, loss_sum: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        part = slice(start, start + length)
        loss, gradients = _summed(trained, variables, images[part], labels[part], weights[part])
        return start + length, loss_sum + loss, *(one + two for one, two in zip(sums, gradients, strict=True))

    zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
    start = (tf.constant(0), tf.zeros([], weights.dtype), *zeros)
    _, loss_sum, *gradients = tf.while_loop(lambda begin, *_: begin < count, add, start, parallel_iterations=1)
    return loss_sum, list(gradients)


def _summed(
    trained: Trained, variables: Sequence[tf.Variable], images: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Sum over examples of weighted losses, and its gradients; regularisation counts once for each example."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        logits = trained.model(tf.cast(images, weights.dtype), training=True)
        losses = tf.cast(trained.loss(crop_labels(labels, logits), logits), weights.dtype)
        # An example of weight 0 must not count even where its loss is not finite.
        loss_sum = tf.reduce_sum(tf.math.multiply_no_nan(losses, weights))
        loss_sum += tf.reduce_sum(weights) * _regularisation(trained, weights.dtype)
    gradients = tape.gradient(loss_sum, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
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


def _clipped(gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    factor = tf.minimum(tf.ones([], norm.dtype), limit / norm)
    return [gradient * factor for gradient in gradients]
