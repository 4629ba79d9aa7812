"""A step as programs of XLA's, which GPUs get, is the step as operations; tried on the CPU, which has both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from distrain.checkpoint.state import ReplicaState
from distrain.data.provider import ExampleSpec
from distrain.gradients.statistics import GradientStatistics
from distrain.model.loss_scale import part_of
from distrain.step.settlement import FLAGS, StepResult, measured_of
from distrain.step.train_step import build_train_step
from distrain.world.collectives import AloneCollectives
from distrain.world.topology import World
from tests.ranks import ThreadCollectives, on_all, world_of
from tests.small_models import SPEC, Arrays, bits, make_examples, make_trained, values

KEY = np.array([3, 4], np.uint32)
PIXELS = ExampleSpec((20, 21, 1), (20, 21), 3)
UNET = {"name": "unet", "layers": 2, "features": 2, "keep_probability": 0.5}
ADAM = {"name": "adam", "learning_rate": 0.01}


class Replica:
    """A model and its step; `state` is all that a checkpoint holds."""

    def __init__(self, model: Any, *, precision: str, spec: ExampleSpec, job: dict[str, Any], **options: Any) -> None:
        self.trained = make_trained(model, spec=spec, precision=precision, **job)
        self.statistics = GradientStatistics(self.trained.trainable(), every=options.pop("every", 1))
        self.state = list(ReplicaState(self.trained, self.statistics).variables.values())
        where: AloneCollectives | ThreadCollectives = options.pop("collectives", None) or AloneCollectives()
        world = World(where.rank, where.size)
        step: Any = build_train_step(self.trained, self.statistics, where, spec, world, **options)
        # Threads cannot meet within a compiled function; programs are compiled all the same.
        self._step = step if where.size == 1 else step.__wrapped__.python_function

    def step(self, examples: Arrays) -> StepResult:
        tensors = [*examples, np.ones(len(examples[0]), np.float32), KEY, np.zeros(FLAGS, np.float32)]
        result: StepResult = self._step(*(tf.constant(each) for each in tensors))
        return result


def _told(result: StepResult) -> list[Any]:
    """What does not depend on the model, and whether there were moments."""
    plain = (result.applied, result.overflowed, result.loss_scale, result.examples, result.learning_rate)
    return [*(np.asarray(value).tolist() for value in plain), measured_of(result) is None]


@pytest.mark.parametrize(
    ("model", "precision", "job", "options", "jit_compile"),
    [
        (UNET, "float64", {}, {"clip_norm": 0.5}, True),
        ("convolution", "float64", {"optimizer": ADAM}, {"every": 2}, False),
        ("batch_norm", "float64", {}, {}, False),
        ("normalization", "float64", {}, {"accumulate": 3}, True),
        ("convolution", "mixed_float16", {}, {"part": part_of(4)}, False),
    ],
    ids=["unet", "adam", "normalised", "accumulated", "float16"],
)
def test_programs_make_the_steps_that_operations_make(
    model: Any, precision: str, job: dict[str, Any], options: dict[str, Any], jit_compile: bool
) -> None:
    """Also where one in the middle is not finite and left out."""
    spec = PIXELS if model is UNET else SPEC
    ways: list[dict[str, Any]] = [{}, {"programs": True, "jit_compile": jit_compile}]
    replicas = [Replica(model, precision=precision, spec=spec, job=job, **options, **way) for way in ways]
    # Sums in another order; layers in float16 have 11 bits.
    close: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12} if precision == "float64" else {"rtol": 2e-2, "atol": 2e-3}
    for number in range(4):
        images, labels = make_examples(4, seed=number, spec=spec)
        if number == 2:
            images[1, 3, 3, 0] = np.nan
            before = [bits(replica.state) for replica in replicas]
        expected, result = (replica.step((images, labels)) for replica in replicas)
        assert _told(result) == _told(expected)
        if number == 2:
            assert not bool(result.applied)
            after = [bits(replica.state) for replica in replicas]
            assert precision == "mixed_float16" or after == before
            continue
        np.testing.assert_allclose(result.loss, expected.loss, **close)
        np.testing.assert_allclose(result.gradient_squares, expected.gradient_squares, **close)
        np.testing.assert_allclose(result.moments, expected.moments, **close)
    for one, other in zip(values(replicas[1].state), values(replicas[0].state), strict=True):
        np.testing.assert_allclose(one, other, **close)


def test_ranks_exchange_between_programs() -> None:
    """Two ranks, with 3 examples and with 2."""
    plain: dict[str, Any] = {"precision": "float64", "spec": SPEC, "job": {}}
    world = world_of(2)
    ranks = [Replica("batch_norm", collectives=each, programs=True, jit_compile=True, **plain) for each in world]
    expected = [Replica("batch_norm", collectives=each, **plain) for each in world]
    images, labels = make_examples(5)
    shares = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    for _ in range(2):
        results = on_all(world, lambda rank: ranks[rank].step(shares[rank]))
        others = on_all(world, lambda rank: expected[rank].step(shares[rank]))
        assert bits(ranks[0].state) == bits(ranks[1].state)
        np.testing.assert_allclose(results[0].moments, others[0].moments, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(results[0].reports, others[0].reports, rtol=1e-9)
    for one, other in zip(values(ranks[0].state), values(expected[0].state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
