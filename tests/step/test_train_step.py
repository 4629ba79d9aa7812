"""The compiled step: what all ranks together make of their examples, and what changes nothing."""

from __future__ import annotations

import functools
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.data import pool
from distrain.gradients.statistics import GradientStatistics
from distrain.model.build import Trained
from distrain.step.settlement import FAILED, FLAGS, SAVE, STOP, StepResult, measured_of
from distrain.step.train_step import TrainStep, as_tensor, build_train_step
from distrain.world.collectives import AloneCollectives, Collectives
from distrain.world.topology import World
from tests.small_models import SPEC, Arrays, OtherRank, bits, make_examples, make_trained, values

KEY = np.array([3, 4], np.uint32)
NO_FLAGS = np.zeros(FLAGS, np.float32)
# float64 sums of some hundred terms in another order: far below this, and any term left out is far above.
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


class Trainee:
    """A model with its step and all the variables that a step may change."""

    def __init__(self, trained: Trained, collectives: Collectives | None = None, **options: Any) -> None:
        self.trained = trained
        self.collectives = collectives or AloneCollectives()
        self.paths = [weight.path for weight in trained.model.trainable_variables]
        self.statistics = GradientStatistics(trained.trainable(), every=options.pop("every", 1))
        world = options.pop("world", World(0, 2) if isinstance(collectives, OtherRank) else World())
        self.step: TrainStep = build_train_step(trained, self.statistics, self.collectives, SPEC, world, **options)
        self.start = values(self.state())

    def __call__(self, examples: Arrays, weights: Any = None, key: Any = KEY, flags: Any = NO_FLAGS) -> StepResult:
        images, labels = examples
        ones = np.ones(len(images), np.float32)
        return self.step(images, labels, ones if weights is None else np.asarray(weights, np.float32), key, flags)

    def state(self) -> list[tf.Variable]:
        weights = [*self.trained.trainable(), *self.trained.buffers()]
        optimizer = [variable.value for variable in self.trained.optimizer.variables]
        return [*weights, *optimizer, *self.statistics.state(self.paths).values()]

    def meaning(self) -> list[npt.NDArray[Any]]:
        """The state, without what depends on the groups that the examples were in."""
        unlike = {f"gradient_{name}:0" for name in ("signal", "noise", "smoothed_weight")}
        return values([variable for variable in self.state() if variable.name not in unlike])

    def means(self) -> list[npt.NDArray[Any]]:
        return [mean.numpy() for mean in self.statistics.running_mean.means()]

    def restore(self, state: list[npt.NDArray[Any]]) -> None:
        for variable, value in zip(self.state(), state, strict=True):
            variable.assign(value)


@functools.cache
def _made(model: str, precision: str, l2: float, **options: Any) -> Trainee:
    collectives = OtherRank() if options.pop("of_two", False) else None
    return Trainee(make_trained(model, precision=precision, loss={"l2": l2}), collectives, **options)


def _trainee(model: str = "convolution", *, precision: str = "float64", l2: float = 0.0, **options: Any) -> Trainee:
    """At its start; tests share those that are made alike, since tracing is what takes the time."""
    trainee = _made(model, precision, l2, **options)
    trainee.restore(trainee.start)
    return trainee


def _pair(model: str = "convolution") -> tuple[Trainee, OtherRank]:
    """Rank 0 of 2, with what it gets of the other: nothing as yet."""
    trainee = _trainee(model, of_two=True)
    assert isinstance(trainee.collectives, OtherRank)
    trainee.collectives.other = None
    return trainee, trainee.collectives


def _gradients(trained: Trained, examples: Arrays) -> list[npt.NDArray[Any]]:
    """The mean over the examples, each one by itself, by nothing but Keras and a tape."""
    images, labels = examples
    sums = [np.zeros(variable.shape) for variable in trained.trainable()]
    for image, label in zip(images, labels, strict=True):
        with tf.GradientTape() as tape:
            logits = trained.model(tf.cast(image[None], trained.trainable()[0].dtype), training=True)
            loss = trained.loss(tf.constant(label[None]), logits)[0]
        gradients = tape.gradient(loss, trained.trainable())
        sums = [total + gradient.numpy() for total, gradient in zip(sums, gradients, strict=True)]
    return [total / len(images) for total in sums]


def _assert_all_close(one: list[npt.NDArray[Any]], other: list[npt.NDArray[Any]]) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, **CLOSE)


def test_the_gradient_is_the_mean_over_the_examples() -> None:
    trainee, examples = _trainee(), make_examples(5)
    expected = _gradients(trainee.trained, examples)
    before = values(trainee.trained.trainable())
    result = trainee(examples)
    _assert_all_close(trainee.means(), expected)
    np.testing.assert_allclose(result.gradient_squares, [np.sum(one**2) for one in expected], **CLOSE)
    # The first step of momentum is plain gradient descent.
    moved = [old - 0.2 * gradient for old, gradient in zip(before, expected, strict=True)]
    _assert_all_close(values(trainee.trained.trainable()), moved)
    assert float(result.learning_rate) == 0.2


@pytest.mark.parametrize(
    ("model", "shares"),
    [("convolution", (3, 2)), ("convolution", (4, 1)), ("convolution", (5, 0)), ("batch_norm", (5, 0))],
)
def test_two_ranks_make_the_step_of_one(model: str, shares: tuple[int, int]) -> None:
    """Shares weigh by their examples; a rank without any takes part with an empty picture of weight 0.

    Batch normalisation sees its own rank's examples only, so that there the others must have none.
    """
    examples = make_examples(5)
    alone, (together, world) = _trainee(model), _pair(model)
    expected = alone(examples)
    second = (examples[0][shares[0] :], examples[1][shares[0] :])
    if shares[1]:
        together(second)
    else:
        together((np.zeros((1, 6, 6, 1), np.float32), np.zeros(1, np.int32)), weights=[0])
    world.other = world.given
    together.restore(together.start)
    result = together((examples[0][: shares[0]], examples[1][: shares[0]]))
    assert bool(result.applied)
    np.testing.assert_allclose(result.loss, expected.loss, **CLOSE)
    _assert_all_close(together.meaning(), alone.meaning())


def test_buffers_are_averaged_over_ranks_by_their_examples() -> None:
    examples = make_examples(5)
    shares = [(examples[0][:4], examples[1][:4]), (examples[0][4:], examples[1][4:])]
    each = []
    for share in shares:
        alone = _trainee("batch_norm").trained
        alone.model(share[0].astype(np.float64), training=True)  # Keras alone moves the averages
        each.append(values(alone.buffers()))
    together, world = _pair("batch_norm")
    together(shares[1])
    world.other = world.given
    together.restore(together.start)
    together(shares[0])
    expected = [(4 * first + second) / 5 for first, second in zip(*each, strict=True)]
    _assert_all_close(values(together.trained.buffers()), expected)


def test_an_example_of_weight_zero_changes_nothing() -> None:
    """Not even one whose loss is thousands of times that of the others."""
    images, labels = make_examples(3)
    filled = np.concatenate([images, 1e3 * images[:1]]), np.append(labels, labels[0])
    trainee = _trainee()
    loss = trainee((images, labels)).loss
    expected = values(trainee.state())
    trainee.restore(trainee.start)
    np.testing.assert_allclose(trainee(filled, weights=[1, 1, 1, 0]).loss, loss, **CLOSE)
    _assert_all_close(values(trainee.state()), expected)


@pytest.mark.parametrize("model", ["convolution", "batch_norm"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_leaves_every_bit_as_it_was(model: str, bad: float) -> None:
    trainee = _trainee(model, precision="float32")
    trainee(make_examples(4))
    before = bits(trainee.state())
    images, labels = make_examples(4, seed=2)
    images[2, 3, 3, 0] = bad
    result = trainee((images, labels))
    assert not bool(result.applied)
    assert bits(trainee.state()) == before
    assert measured_of(result) is None


def test_no_buffer_gets_worse_than_finite() -> None:
    """The variance of huge pixels overflows; batch normalisation then makes zeros of them, and the loss is finite."""
    trainee = _trainee("batch_norm", precision="float32")
    images, labels = make_examples(4)
    images[2, 3, 3, 0] = 1e38
    trainee((images, labels))
    assert all(np.isfinite(buffer).all() for buffer in values(trainee.trained.buffers()))


def test_another_ranks_nan_stops_this_ranks_update_too() -> None:
    trainee, world = _pair("batch_norm")
    trainee(make_examples(2))
    before = bits(trainee.state())
    world.other = [np.full_like(array, np.nan) for array in world.given]
    world.other[-1][2:] = 0  # its flags
    assert not bool(trainee(make_examples(2)).applied)
    assert bits(trainee.state()) == before


@pytest.mark.parametrize(("flag", "applied"), [(STOP, True), (SAVE, True), (FAILED, False)])
def test_flags_reach_all_ranks_and_a_failure_stops_the_update(flag: int, applied: bool) -> None:
    trainee, world = _pair("batch_norm")
    before = bits(trainee.state())
    flags = NO_FLAGS.copy()
    flags[flag] = 1
    trainee(make_examples(2), flags=flags)
    world.other = world.given
    trainee.restore(trainee.start)
    result = trainee(make_examples(2))
    assert result.flags.numpy().tolist() == flags.tolist()
    assert bool(result.applied) is applied
    assert (bits(trainee.state()) == before) is not applied


@pytest.mark.parametrize("count", [1, 2, 6, 7])
def test_micro_batches_give_the_same_step(count: int) -> None:
    whole, parts = _trainee(), _trainee(accumulate=3)
    for seed in range(3):
        expected, result = (trainee(make_examples(count, seed=seed)) for trainee in (whole, parts))
        np.testing.assert_allclose(result.loss, expected.loss, **CLOSE)
    _assert_all_close(parts.meaning(), whole.meaning())


@pytest.mark.parametrize(("limit", "clipped"), [(0.01, True), (1e6, False)])
def test_clipping_scales_to_the_global_norm_and_spares_the_statistics(limit: float, clipped: bool) -> None:
    trainee, examples = _trainee(clip_norm=limit), make_examples(5)
    gradients = _gradients(trainee.trained, examples)
    norm = np.sqrt(sum(np.sum(one**2) for one in gradients))
    assert (norm > limit) is np.bool_(clipped)
    before = values(trainee.trained.trainable())
    trainee(examples)
    factor = min(1.0, limit / norm)
    moved = [old - 0.2 * factor * gradient for old, gradient in zip(before, gradients, strict=True)]
    _assert_all_close(values(trainee.trained.trainable()), moved)
    _assert_all_close(trainee.means(), gradients)


def test_a_gradient_of_zero_can_be_clipped() -> None:
    trainee = _trainee("dense", clip_norm=1.0)
    for variable in trainee.trained.trainable():
        variable.assign(tf.zeros_like(variable))
    images = np.zeros((3, 6, 6, 1), np.float32)
    assert bool(trainee((images, np.arange(3, dtype=np.int32))).applied)
    _assert_all_close(values(trainee.trained.trainable()), [np.zeros((36, 3)), np.zeros(3)])


@pytest.mark.parametrize(("model", "l2", "factor"), [("convolution", 0.3, 0.3), ("penalised", 0.0, 1.0)])
def test_l2_and_keras_own_penalties_count_once_per_example(model: str, l2: float, factor: float) -> None:
    """`l2` acts on kernels by half the square; the model's own L2(0.5), equal to a factor of 1, on its kernel."""
    trainee, examples = _trainee(model, l2=l2), make_examples(4)
    plain = _gradients(trainee.trained, examples)
    names = [weight.path for weight in trainee.trained.model.trainable_variables]
    acted = {"convolution/kernel"} | ({"logits/kernel"} if l2 else set())
    weights = values(trainee.trained.trainable())
    result = trainee(examples)
    expected = [
        gradient + factor * weight if name in acted else gradient
        for name, gradient, weight in zip(names, plain, weights, strict=True)
    ]
    _assert_all_close(trainee.means(), expected)
    squares = sum(np.sum(weight**2) for name, weight in zip(names, weights, strict=True) if name in acted)
    np.testing.assert_allclose(result.loss, float(_trainee()(examples).loss) + factor * squares / 2, **CLOSE)


def test_without_a_running_mean_the_training_is_the_same() -> None:
    with_mean, trained = _trainee(), make_trained()
    step = build_train_step(trained, None, AloneCollectives(), SPEC, World())
    for seed in range(3):
        images, labels = make_examples(4, seed=seed)
        with_mean((images, labels))
        result = step(images, labels, np.ones(4, np.float32), KEY, NO_FLAGS)
    assert measured_of(result) is None
    assert bits(trained.trainable()) == bits(with_mean.trained.trainable())


def test_norms_of_the_mean_come_when_they_are_due_and_the_mean_itself_each_step() -> None:
    always, now_and_then = _trainee(), _trainee(every=3)
    for step in range(1, 7):
        expected, result = (trainee(make_examples(3, seed=step)) for trainee in (always, now_and_then))
        measured, always_measured = measured_of(result), measured_of(expected)
        assert always_measured is not None
        if step % 3:
            assert measured is None
        else:
            assert measured is not None
            assert measured[0].mean_squares.tolist() == always_measured[0].mean_squares.tolist()
    assert bits(now_and_then.state()) == bits(always.state())


def test_a_variable_without_a_gradient_stays() -> None:
    trainee = _trainee("bystander")
    result = trainee(make_examples(4))
    paths = [weight.path for weight in trainee.trained.model.trainable_variables]
    place = paths.index("bystander/unused")
    assert bool(result.applied)
    assert result.gradient_squares.numpy()[place] == 0
    assert trainee.trained.trainable()[place].numpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_is_traced_once_whatever_the_size_of_the_share(accumulate: int) -> None:
    traces = []
    trained = make_trained()

    def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        traces.append(labels.shape)
        return trained.loss(labels, logits)

    trainee = Trainee(replace(trained, loss=loss), accumulate=accumulate)
    for count in (4, 1, 7, 4):
        trainee(make_examples(count))
    assert len(traces) == 1


def test_frozen_weights_stay_bit_for_bit() -> None:
    """Whatever the number of examples: w * n / n is not always w."""
    trainee = _trainee("frozen", precision="float32")
    before = bits(trainee.trained.buffers())
    for count in (3, 5, 6, 7):
        trainee(make_examples(count))
    assert len(before) == 2
    assert bits(trainee.trained.buffers()) == before


def test_integers_among_the_weights_stay() -> None:
    trainee = _trainee("normalization")
    before = bits(trainee.trained.buffers())
    assert bool(trainee(make_examples(3)).applied)
    assert bits(trainee.trained.buffers()) == before


def test_random_draws_follow_from_the_key_alone() -> None:
    examples, losses = make_examples(4), []
    for key in ([3, 4], [3, 4], [3, 5], [4, 4]):
        trainee = _trainee("dropout")
        for _ in range(2):
            trainee(examples, key=np.array([9, 9], np.uint32))
        losses.append(float(trainee(examples, key=np.array(key, np.uint32)).loss))
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_two_dropouts_in_a_row_keep_the_product_of_what_each_keeps() -> None:
    """A quarter of 1440 pixels, within 4 standard errors; were both to draw the same, it would be a half."""
    trainee, kept = _trainee("dropout"), 0
    for number in range(40):
        trainee.restore(trainee.start)
        trainee(make_examples(1), key=np.array([number, 0], np.uint32))
        kept += int(np.count_nonzero(trainee.means()[0].any(axis=1)))
    assert abs(kept / 1440 - 0.25) < 4 * (0.25 * 0.75 / 1440) ** 0.5


def test_optimizer_steps_are_counted_and_the_rate_told_is_the_one_used() -> None:
    decaying = {"learning_rate": 0.2, "decay_rate": 0.5, "decay_every": "2 steps"}
    trainee, rates = Trainee(make_trained(optimizer=decaying)), []
    for seed in range(5):
        rates.append(float(trainee(make_examples(3, seed=seed)).learning_rate))
    # The schedule computes in float32 where it will.
    np.testing.assert_allclose(rates, [0.2, 0.2, 0.1, 0.1, 0.05], rtol=1e-6)
    assert int(trainee.trained.optimizer.iterations) == int(trainee.statistics.running_mean.count) == 5


def test_an_optimizer_that_accumulates_makes_a_step_of_two() -> None:
    """Momentum that Keras does more with than the compiled operation knows."""
    trainee = Trainee(make_trained(optimizer={"name": "tests.small_models:accumulating"}))
    weights = trainee.trained.trainable()
    before = values(weights)
    trainee(make_examples(4))
    assert bits(weights) == [value.tobytes() for value in before]
    trainee(make_examples(4))
    assert all(np.any(weight.numpy() != value) for weight, value in zip(weights, before, strict=True))


def test_a_batch_is_taken_from_where_it_lies() -> None:
    array = pool.empty((4, 80, 80, 1), np.float32)
    array[:] = 1.0
    tensor = as_tensor(array, tf.float32)
    array[3, 79, 79, 0] = 7.0
    assert float(tensor[3, 79, 79, 0]) == 7.0
    # It is kept as long as the tensor is, and no longer.
    alive = weakref.ref(array)
    del array
    assert float(tf.reduce_max(tensor)) == 7.0
    assert alive() is not None
    del tensor
    assert alive() is None


@pytest.mark.parametrize(
    "given",
    [
        pool.empty((80, 80, 8), np.float32)[:, :, ::2],
        pool.empty((60, 80, 8), np.float64),
        pool.empty((2**17,), np.uint8)[4:].view(np.float32),
        np.zeros((3, 3), np.float32),
        pool.empty((80, 80, 8), np.float32),
    ],
    ids=["not in a row", "another type", "not aligned", "small", "read only"],
)
def test_what_does_not_lie_as_it_should_is_copied(given: npt.NDArray[Any], request: pytest.FixtureRequest) -> None:
    given[:] = 1.0
    given.setflags(write="read only" not in request.node.name)
    tensor = as_tensor(given, tf.float32)
    given.setflags(write=True)
    given[0] = 7.0
    assert tensor.dtype == tf.float32
    assert float(tf.reduce_max(tensor)) == 1.0


def test_mixed_precision_keeps_weights_and_sums_in_float32() -> None:
    full = _trainee(precision="float32")
    examples = make_examples(8)
    expected = full(examples)
    mixed = _trainee(precision="mixed_bfloat16")
    layers = [layer for layer in mixed.trained.model.layers if layer.weights]
    assert {layer.compute_dtype for layer in layers} == {"bfloat16"}
    assert {variable.dtype for variable in mixed.trained.trainable()} == {tf.float32}
    result = mixed(examples)
    assert bool(result.applied)
    assert result.loss.dtype == result.gradient_squares.dtype == tf.float32
    # bfloat16 has 8 bits.
    np.testing.assert_allclose(result.loss, expected.loss, rtol=2e-2)
    np.testing.assert_allclose(result.gradient_squares, expected.gradient_squares, rtol=0.1)
    losses = [float(mixed(examples).loss) for _ in range(40)]
    assert losses[-1] < 0.9 * float(expected.loss)
    # Smaller than a bfloat16 can tell from 1: steps that add up only where weights are more exact.
    assert len(set(losses)) > 30
