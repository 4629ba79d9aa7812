"""Validation by all ranks, exact over all examples: every rank sums over its part, the sums are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.data.provider import Example
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.step.evaluate_step import EvaluateStep
from distrain.train.watch import Watch
from distrain.world.control import Control, agreed
from distrain.world.topology import World, share

Confusion = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Validated:
    """Loss and metrics, and the examples that were skipped: index and reason of each."""

    values: dict[str, float]
    bad: list[tuple[int, str]]


def validate(source: Source, step: EvaluateStep, world: World, control: Control, *, batch_size: int) -> Validated:
    """Loss and metrics over all examples of `source`; equal on all ranks. Collective.

    Where examples that cannot be read are skipped, the value `bad_examples` says how many, if any. Raises `BadInput` on
    all ranks where any rank's examples cannot be read and are not skipped, and where none can.
    """
    loss, confusion, own = agreed(control, lambda: _sums(source, step, world, batch_size))
    sums = control.gather([loss, confusion.tolist(), own])
    total = np.sum([np.asarray(counts, np.int64) for _, counts, _ in sums], axis=0)
    bad = [(index, reason) for *_, reports in sums for index, reason in reports]
    if len(bad) == len(source):
        raise BadInput(f"no example of the validation data could be read; the last: {bad[-1][1]}", agreed=True)
    mean_loss = sum(part for part, *_ in sums) / (len(source) - len(bad))
    values = {"loss": mean_loss, **metrics(total, segmentation=source.spec.segmentation)}
    return Validated({**values, "bad_examples": float(len(bad))} if bad else values, bad)


def watched(evaluate: EvaluateStep, watch: Watch) -> EvaluateStep:
    """The step that says of itself that something moves: there may be many in one validation."""

    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        watch.doing("validation")
        return evaluate(images, labels)

    return step


def _sums(
    source: Source, step: EvaluateStep, world: World, batch_size: int
) -> tuple[float, Confusion, list[tuple[int, str]]]:
    """Sums over this rank's part of losses and of counts, and the examples of it that were skipped."""
    loss, bad = 0.0, list[tuple[int, str]]()
    confusion = np.zeros((source.spec.classes, source.spec.classes), np.int64)
    mine = share(len(source), rank=world.rank, size=world.size)
    for start in range(mine.start, mine.stop, batch_size):
        indices = range(start, min(start + batch_size, mine.stop))
        examples, unread = _read(source, indices)
        bad += unread
        if examples:
            losses, counts, _ = step(*stack(examples))
            loss += float(np.sum(losses.numpy()))
            confusion += counts.numpy()
    return loss, confusion, bad


def _read(source: Source, indices: Sequence[int]) -> tuple[list[Example], list[tuple[int, str]]]:
    """The examples at `indices`, and index and reason of those that are skipped. Raises `BadInput`."""
    examples, bad = [], []
    for index, read in zip(indices, source.read_batch(indices, 0), strict=True):
        if not isinstance(read, BadInput):
            examples.append(read)
        elif source.skips:
            bad.append((index, str(read)))
        else:
            raise read
    return examples, bad


def stack(examples: Sequence[Example]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Images [b, h, w, c] and labels [b, ...] of examples."""
    return np.stack([example.image for example in examples]), np.stack([example.label for example in examples])


def metrics(confusion: Confusion, *, segmentation: bool) -> dict[str, float]:
    """Metrics from counts of (true, predicted) classes [classes, classes].

    Segmentation: `pixel_error` is the share of wrong pixels; `dice` = 2 TP / (2 TP + FP + FN) and `iou` = TP /
    (TP + FP + FN) are means over the classes but the first, which is the ground; a class that neither occurs nor is
    predicted counts as found. Classification: `accuracy`.
    """
    right = np.diag(confusion).astype(float)
    total = float(confusion.sum())
    if not segmentation:
        return {"accuracy": float(right.sum()) / total}
    either = (confusion.sum(axis=0) + confusion.sum(axis=1) - right)[1:]
    both = right[1:]
    iou = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    dice = np.where(either > 0, 2 * both / np.maximum(either + both, 1), 1.0)
    return {"pixel_error": 1 - float(right.sum()) / total, "dice": float(dice.mean()), "iou": float(iou.mean())}


def measured(*, segmentation: bool) -> list[str]:
    """The names of what `validate` gives."""
    return ["loss", *metrics(np.ones((2, 2), np.int64), segmentation=segmentation)]


def read_examples(source: Source, count: int) -> list[Example]:
    """The first `count` examples that can be read, or all where there are fewer. Raises `BadInput` as `validate`."""
    examples: list[Example] = []
    for index in range(len(source)):
        if len(examples) == count:
            break
        examples += _read(source, [index])[0]
    if not examples:
        raise BadInput(f"'data.validation': none of {len(source)} examples can be read, expected one to draw")
    return examples
