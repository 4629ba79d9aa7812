"""Validation: metrics against NumPy, and the same for any number of workers."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import pytest

from distrain.data.provider import Example, ExampleSpec
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.step.evaluate_step import EvaluateStep, build_evaluate_step
from distrain.train.validation import Validated, metrics, read_examples, stack, validate
from distrain.world.control import Control
from distrain.world.topology import World
from tests.small_models import make_examples, make_trained
from tests.support import in_world

PIXELS = ExampleSpec((6, 6, 1), (6, 6), 3)
WHOLE = ExampleSpec((6, 6, 1), (), 3)


class Held:
    """Random examples."""

    def __init__(self, count: int, spec: ExampleSpec) -> None:
        self.spec = spec
        self.images, self.labels = make_examples(count, spec=spec)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Example:
        return Example(self.images[index], self.labels[index])


def _as_read(example: Example, index: int, epoch: int) -> Example:
    assert epoch == 0
    return example


def _source(count: int, spec: ExampleSpec) -> Source:
    return Source(Held(count, spec), spec, _as_read)


def _step(spec: ExampleSpec) -> EvaluateStep:
    unet = {"name": "unet", "layers": 1, "features": 2}
    return build_evaluate_step(make_trained(unet if spec.segmentation else "batch_norm", spec=spec), spec)


def _confusion(true: Any, predicted: Any) -> Any:
    counts = np.zeros((3, 3), np.int64)
    np.add.at(counts, (true, predicted), 1)
    return counts


@pytest.mark.parametrize("predicted_classes", [1, 2, 3])
def test_metrics_of_pixels(predicted_classes: int) -> None:
    """By counting pixels, class by class; the ground, class 0, is left out of the means."""
    random = np.random.default_rng(1)
    true, predicted = random.integers(0, 3, 500), random.integers(0, predicted_classes, 500)
    dice, iou = [], []
    for one in (1, 2):
        both, either = np.sum((true == one) & (predicted == one)), np.sum((true == one) | (predicted == one))
        dice.append(2 * both / (np.sum(true == one) + np.sum(predicted == one)))
        iou.append(both / either)
    expected = {"pixel_error": np.mean(true != predicted), "dice": np.mean(dice), "iou": np.mean(iou)}
    assert metrics(_confusion(true, predicted), segmentation=True) == pytest.approx(expected, rel=1e-12)


def test_metrics_of_images() -> None:
    true, predicted = np.array([0, 1, 2, 2, 2]), np.array([0, 2, 2, 2, 1])
    assert metrics(_confusion(true, predicted), segmentation=False) == {"accuracy": 0.6}


def test_a_class_that_neither_occurs_nor_is_predicted_counts_as_found() -> None:
    found = metrics(_confusion([0, 1, 1], [0, 1, 0]), segmentation=True)
    assert (found["dice"], found["iou"]) == ((2 / 3 + 1) / 2, (1 / 2 + 1) / 2)
    assert metrics(_confusion([0, 0], [0, 0]), segmentation=True) == {"pixel_error": 0, "dice": 1, "iou": 1}


@pytest.mark.parametrize("spec", [PIXELS, WHOLE])
def test_it_is_exact_over_all_examples_for_any_world_and_batch(spec: ExampleSpec) -> None:
    """Counts to the last one; the loss up to the order of 7 float64 numbers."""
    source, step = _source(7, spec), _step(spec)
    losses, confusion, _ = step(*stack(read_examples(source, 7)))
    expected = {"loss": float(np.mean(losses)), **metrics(confusion.numpy(), segmentation=spec.segmentation)}
    for size, batch_size in ((1, 1), (1, 7), (2, 3), (3, 2), (4, 100), (9, 1)):

        def run(world: World, control: Control, batch_size: int = batch_size) -> dict[str, float]:
            return validate(source, step, world, control, batch_size=batch_size).values

        found = [future.result() for future in in_world(size, run)]
        assert all(one == found[0] for one in found)
        assert {**found[0], "loss": 0} == {**expected, "loss": 0}
        assert found[0]["loss"] == pytest.approx(expected["loss"], rel=1e-12)


def test_an_example_that_cannot_be_read_is_all_ranks_error() -> None:
    spec, step = WHOLE, _step(WHOLE)
    held = Held(4, spec)

    def prepare(example: Example, index: int, epoch: int) -> Example:
        if index == 3:
            raise BadInput("picture_3.png: broken")
        return example

    def run(world: World, control: Control, *, skips: bool = False) -> Validated:
        return validate(Source(held, spec, prepare, skips=skips), step, world, control, batch_size=2)

    futures: list[Future[Validated]] = in_world(2, run)
    assert [str(future.exception()) for future in futures] == ["rank 1: picture_3.png: broken"] * 2
    for future in in_world(2, partial(run, skips=True)):
        assert future.result().bad == [(3, "picture_3.png: broken")]
        assert future.result().values["bad_examples"] == 1


@pytest.mark.parametrize(("count", "read"), [(1, 1), (3, 3), (9, 3)])
def test_the_first_examples_are_read(count: int, read: int) -> None:
    examples = read_examples(_source(3, WHOLE), count)
    images, labels = stack(examples)
    assert images.shape == (read, 6, 6, 1)
    assert np.array_equal(images, make_examples(3, spec=WHOLE)[0][:read])
    assert labels.dtype == "int32"
