"""Steps of several ranks in float16, with gradients sent in 16 bits, and by Adasum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.checkpoint.state import ReplicaState
from distrain.gradients.statistics import GradientStatistics
from distrain.model.loss_scale import FIRST, GROWTH_STEPS, LEAST, MOST, LossScale, part_of
from distrain.step.settlement import FAILED, FLAGS, StepResult, measured_of
from distrain.step.train_step import build_train_step
from distrain.world.collectives import AloneCollectives
from distrain.world.topology import World
from tests.ranks import ThreadCollectives, on_all, world_of
from tests.reductions import adasum
from tests.small_models import SPEC, Arrays, bits, make_examples, make_trained, values

KEY = np.array([3, 4], np.uint32)
NO_FLAGS = np.zeros(FLAGS, np.float32)


class Replica:
    """One rank's model and step; `state` is all that a checkpoint holds. For a few steps compiling takes too long."""

    def __init__(
        self,
        collectives: ThreadCollectives | None,
        precision: str,
        *,
        statistics: bool = True,
        compiled: bool = False,
        **options: Any,
    ) -> None:
        self.trained = make_trained(options.pop("model", "convolution"), precision=precision)
        self.statistics = GradientStatistics(self.trained.trainable()) if statistics else None
        self.state = list(ReplicaState(self.trained, self.statistics).variables.values())
        world = World() if collectives is None else World(collectives.rank, collectives.size)
        where = AloneCollectives() if collectives is None else collectives
        step: Any = build_train_step(self.trained, self.statistics, where, SPEC, world, **options)
        self._step = step if compiled else step.__wrapped__.python_function

    def step(self, examples: Arrays, flags: Any = NO_FLAGS) -> StepResult:
        images, labels = examples
        weights = np.ones(len(images), np.float32)
        if not len(images):
            images, labels, weights = np.zeros((1, 6, 6, 1), np.float32), np.zeros(1, np.int32), np.zeros(1, np.float32)
        tensors = [tf.constant(each) for each in (images, labels, weights, KEY, flags)]
        result: StepResult = self._step(*tensors)
        return result

    @property
    def scale(self) -> LossScale:
        assert self.trained.loss_scale is not None
        return self.trained.loss_scale

    def without_scale(self) -> list[bytes]:
        own = {id(self.scale.scale), id(self.scale.steps)}
        return bits([variable for variable in self.state if id(variable) not in own])


class Replicas:
    """A world of replicas; examples are dealt to them in so many each."""

    def __init__(self, size: int, precision: str = "float64", **options: Any) -> None:
        self.world = world_of(size)
        self.ranks = [Replica(collectives, precision, **options) for collectives in self.world]

    def step(self, examples: Arrays, shares: tuple[int, ...]) -> list[StepResult]:
        ends = np.cumsum(shares)
        dealt = [(examples[0][end - n : end], examples[1][end - n : end]) for n, end in zip(shares, ends, strict=True)]
        results = on_all(self.world, lambda rank: self.ranks[rank].step(dealt[rank]))
        assert len({tuple(bits(rank.state)) for rank in self.ranks}) == 1
        assert len({(bool(one.applied), bool(one.overflowed), float(one.loss_scale)) for one in results}) == 1
        return results


def _distance(one: list[npt.NDArray[Any]], other: list[npt.NDArray[Any]]) -> float:
    """Relative, over all."""
    apart = sum(float(np.sum((left - right) ** 2)) for left, right in zip(one, other, strict=True))
    return float(np.sqrt(apart / sum(float(np.sum(left**2)) for left in one)))


# ---- float16 layers


def test_layers_compute_in_float16_and_weights_stay_float32() -> None:
    full = Replica(None, "float32", compiled=True)
    mixed = Replica(None, "mixed_float16", compiled=True, part=part_of(8))
    examples = make_examples(8)
    start = values(full.trained.trainable())
    layers = [layer for layer in mixed.trained.model.layers if layer.weights]
    assert {layer.compute_dtype for layer in layers} == {"float16"}
    assert {variable.dtype for variable in mixed.trained.trainable()} == {tf.float32}
    expected, result = full.step(examples), mixed.step(examples)
    assert (float(expected.loss_scale), float(result.loss_scale)) == (0, FIRST)
    # float16 has 11 bits, and sums of some dozen terms here.
    np.testing.assert_allclose(result.loss, expected.loss, rtol=2e-3)
    np.testing.assert_allclose(result.gradient_squares, expected.gradient_squares, rtol=1e-2)
    for _ in range(30):
        expected, result = full.step(examples), mixed.step(examples)
    np.testing.assert_allclose(result.loss, expected.loss, rtol=5e-3)
    moved, differing = (_distance(start, values(each.trained.trainable())) for each in (full, mixed))
    assert abs(moved - differing) < 1e-2 * moved
    measured = [measured_of(each.step(examples)) for each in (full, mixed)]
    assert measured[0] is not None
    assert measured[1] is not None
    np.testing.assert_allclose(measured[1][0].mean_squares, measured[0][0].mean_squares, rtol=2e-2)


def test_a_gradient_that_float16_cannot_hold_is_there_all_the_same() -> None:
    """Its parts are below 6e-8, the least of float16, but not once the loss is scaled."""
    examples = make_examples(4)
    squares = {}
    for precision in ("float32", "mixed_float16"):
        replica = Replica(None, precision, part=part_of(4), model="dense")
        with _steeper(replica, 1e-8):
            squares[precision] = replica.step(examples).gradient_squares.numpy()
    np.testing.assert_allclose(squares["mixed_float16"], squares["float32"], rtol=1e-2)


@pytest.mark.parametrize("options", [{}, {"wire": tf.float16}, {"accumulate": 2, "clip_norm": 0.1}], ids=str)
def test_two_and_three_ranks_in_float16_train_as_one(options: dict[str, Any]) -> None:
    alone = Replica(None, "mixed_float16", part=part_of(7), clip_norm=options.get("clip_norm"))
    losses = [float(alone.step(make_examples(7, seed=seed)).loss) for seed in range(5)]
    for shares in ((4, 3), (3, 0, 4)):
        together = Replicas(len(shares), "mixed_float16", part=part_of(7), **options)
        seen = [float(together.step(make_examples(7, seed=seed), shares)[0].loss) for seed in range(5)]
        np.testing.assert_allclose(seen, losses, rtol=2e-3)
        weights = [values(each.trained.trainable()) for each in (alone, together.ranks[0])]
        assert _distance(*weights) < 1e-3


@pytest.mark.parametrize("options", [{}, {"wire": tf.bfloat16}, {"wire": tf.float16, "accumulate": 2}], ids=str)
def test_an_overflow_on_one_rank_leaves_the_step_out_on_both(options: dict[str, Any]) -> None:
    """The other's loss is finite, and its own gradient too."""
    together = Replicas(2, "mixed_float16", part=part_of(4), model="batch_norm", **options)
    assert bool(together.step(make_examples(4), (2, 2))[0].applied)
    before = together.ranks[0].without_scale()
    with _steeper(together.ranks[1], 1e4):
        result, _ = together.step(make_examples(4, seed=2), (2, 2))
    assert np.isfinite(result.loss)
    assert (bool(result.applied), bool(result.overflowed), float(result.loss_scale)) == (False, True, FIRST)
    assert measured_of(result) is None
    for rank in together.ranks:
        assert rank.without_scale() == before
        assert (float(rank.scale.scale), int(rank.scale.steps)) == (FIRST / 2, 0)
    result, _ = together.step(make_examples(4), (2, 2))
    assert (bool(result.applied), float(result.loss_scale)) == (True, FIRST / 2)
    assert int(together.ranks[1].scale.steps) == 1


@contextmanager
def _steeper(replica: Replica, factor: float) -> Iterator[None]:
    """In here the slope of the loss is so many times what it should be, the loss what it is."""
    loss = replica.trained.loss

    @tf.custom_gradient
    def steep(logits: tf.Tensor) -> Any:
        return logits, lambda upstream: upstream * factor

    object.__setattr__(replica.trained, "loss", lambda labels, logits: loss(labels, steep(logits)))
    try:
        yield
    finally:
        object.__setattr__(replica.trained, "loss", loss)


def test_a_lower_scale_does_what_a_high_one_could_not() -> None:
    replica = Replica(None, "mixed_float16", part=part_of(4))
    overflows = 0
    with _steeper(replica, 100):
        while not bool((result := replica.step(make_examples(4))).applied):
            assert bool(result.overflowed)
            overflows += 1
    assert 1 < overflows < 15
    assert float(replica.scale.scale) == FIRST / 2**overflows


def test_after_so_many_steps_without_the_scale_is_doubled() -> None:
    replica = Replica(None, "mixed_float16", compiled=True, part=part_of(4))
    scales = []
    replica.scale.scale.assign(8.0)
    replica.scale.steps.assign(GROWTH_STEPS - 2)
    for seed in range(3):
        scales.append(float(replica.step(make_examples(4, seed=seed)).loss_scale))
    assert scales == [8, 8, 16]
    assert (float(replica.scale.scale), int(replica.scale.steps)) == (16, 1)


def test_the_scale_has_bounds() -> None:
    scale = LossScale()
    yes, no = tf.constant(True), tf.constant(False)
    scale.scale.assign(MOST)
    scale.steps.assign(GROWTH_STEPS - 1)
    scale.settle(yes, no)
    assert (float(scale.scale), int(scale.steps)) == (MOST, 0)
    scale.scale.assign(2 * LEAST)
    for expected in (True, False):
        too_high = scale.too_high(yes)
        assert bool(too_high) is expected
        scale.settle(no, too_high)
    assert float(scale.scale) == LEAST


@pytest.mark.parametrize("flag", [None, FAILED])
def test_what_is_not_the_scales_fault_leaves_it_alone(flag: int | None) -> None:
    """A pixel that is no number, and a rank that failed: whatever its gradient is then."""
    replica = Replica(None, "mixed_float16", part=part_of(4))
    replica.scale.steps.assign(7)
    before = bits(replica.state)
    images, labels = make_examples(4)
    flags = NO_FLAGS.copy()
    if flag is None:
        images[2, 3, 3, 0] = np.nan
    else:
        flags[flag] = 1
    with _steeper(replica, 1e5):
        result = replica.step((images, labels), flags)
    assert (bool(result.applied), bool(result.overflowed)) == (False, False)
    assert bits(replica.state) == before


def test_a_gradient_that_is_no_number_at_any_scale_is_told_in_the_end() -> None:
    replica = Replica(None, "mixed_float16", part=part_of(4))

    with _steeper(replica, np.nan):
        told = [bool(replica.step(make_examples(4)).overflowed) for _ in range(17)]
    assert told == [True] * 15 + [False] * 2


# ---- 16 bits on the way


@pytest.mark.parametrize(("wire", "error"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_gradients_are_sent_in_half_the_bytes_and_all_else_as_it_is(wire: str, error: float) -> None:
    examples = make_examples(5)
    alone, together = Replica(None, "float64"), Replicas(2, part=part_of(5), wire=tf.as_dtype(wire))
    expected, result = alone.step(examples), together.step(examples, (3, 2))[0]
    assert sorted(together.world[0].sent) == ["float64", "uint16", "uint16"]
    np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-12)
    measured = [measured_of(expected), measured_of(result)]
    assert measured[0] is not None
    assert measured[1] is not None
    mean = [np.asarray(each.statistics.running_mean.means()[0]) for each in (alone, together.ranks[0])]  # type: ignore[union-attr]
    assert 1e-6 < np.linalg.norm(mean[1] - mean[0]) / np.linalg.norm(mean[0]) < error


def test_what_is_too_large_to_be_sent_leaves_the_step_out() -> None:
    together = Replicas(2, part=part_of(4), wire=tf.float16)
    before = bits(together.ranks[0].state)
    images, labels = make_examples(4)
    result, _ = together.step((images * 1e12, labels), (2, 2))
    assert (bool(result.applied), bool(result.overflowed)) == (False, False)
    assert bits(together.ranks[0].state) == before


@pytest.mark.parametrize("batch_size", [1, 5, 8, 1000])
def test_the_part_is_exact(batch_size: int) -> None:
    part = part_of(batch_size)
    assert batch_size / 2 < 1 / part / 1 <= 2 * batch_size
    assert 0.5 < batch_size * part <= 1
    assert np.log2(part).is_integer()


def test_a_part_changes_no_bit() -> None:
    whole, part = (Replica(None, "float32", accumulate=2, part=part) for part in (1.0, part_of(5)))
    for seed in range(3):
        for replica in (whole, part):
            replica.step(make_examples(5, seed=seed))
    assert bits(part.state) == bits(whole.state)


# ---- Adasum


@pytest.mark.parametrize("options", [{"part": part_of(7)}, {"accumulate": 2, "clip_norm": 1e6}], ids=str)
def test_adasum_updates_by_the_combined_means(options: dict[str, Any]) -> None:
    examples = make_examples(7)
    together = Replicas(2, statistics=False, adaptive=True, **options)
    before = values(together.ranks[0].trained.trainable())
    means = []
    for part in (slice(0, 3), slice(3, 7)):
        alone = Replica(None, "float64")
        alone.step((examples[0][part], examples[1][part]))
        assert alone.statistics is not None
        means.append([mean.numpy() for mean in alone.statistics.running_mean.means()])
    together.step(examples, (3, 4))
    for old, new, one, other in zip(before, values(together.ranks[0].trained.trainable()), *means, strict=True):
        np.testing.assert_allclose(new, old - 0.2 * adasum([one, other]), rtol=1e-12, atol=1e-14)


def test_adasum_of_float16_layers_is_that_of_float32() -> None:
    norms = {}
    for precision, wire in (("float32", None), ("mixed_float16", tf.float16)):
        together = Replicas(3, precision, statistics=False, adaptive=True, part=part_of(7), wire=wire)
        norms[precision] = together.step(make_examples(7), (3, 0, 4))[0].gradient_squares
    np.testing.assert_allclose(norms["mixed_float16"], norms["float32"], rtol=1e-2)


def test_alone_adasum_is_the_mean() -> None:
    plain, adaptive = Replica(None, "float64"), Replica(None, "float64", adaptive=True)
    for replica in (plain, adaptive):
        replica.step(make_examples(4))
    assert bits(plain.state) == bits(adaptive.state)
