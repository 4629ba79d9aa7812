"""A rank's share of each global batch, read ahead of the step by threads, or without any when it is asked for."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from distrain.data.order import Batch, batch_at, drawn
from distrain.data.pool import empty
from distrain.data.provider import FloatArray, LabelArray
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.job.schema import Reading
from distrain.world.topology import World


@dataclass(frozen=True)
class Plan:
    """What fixes the order of the examples, beside the world; `data.order` has the functions of it."""

    seed: int
    batch_size: int
    remainder: str


@dataclass(frozen=True)
class LocalBatch:
    """One rank's part of a global batch.

    `images` [b, h, w, c], `labels` [b, ...] and `weights` [b] (all 1). A rank without a share gets b = 1 with an empty
    picture of weight 0, so that it takes part in the step all the same. So does one whose examples could not be read;
    `error` then says why. Where such examples are skipped they are left out instead, and `bad` has the index and the
    reason of each; `indices` has all that were drawn.
    """

    batch: Batch
    indices: list[int]
    images: FloatArray
    labels: LabelArray
    weights: npt.NDArray[np.float32]
    error: BadInput | None = None
    bad: tuple[tuple[int, str], ...] = ()


class Batches:
    """This rank's batches from a position on, without end. Close it when done."""

    def __init__(self, source: Source, plan: Plan, world: World, position: int, reading: Reading | None = None) -> None:
        reading = Reading() if reading is None else reading
        self._source = source
        self._plan = plan
        self._world = world
        self._position = position
        self._pending: deque[Future[LocalBatch]] = deque()
        # Fewer batches than threads would leave some of these idle.
        self._ahead = max(reading.ahead, reading.threads + 1)
        self._executor = ThreadPoolExecutor(reading.threads, thread_name_prefix="read") if reading.threads else None
        self.waited = 0.0

    def next(self) -> LocalBatch:
        """The next batch; `waited` then holds the seconds that it was not ready for."""
        self._read_ahead()
        started = time.perf_counter()
        local = self.read(self._following()) if self._executor is None else self._pending.popleft().result()
        self.waited = time.perf_counter() - started
        self._read_ahead()
        return local

    def close(self) -> None:
        """End the threads; what was read ahead is dropped."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def _read_ahead(self) -> None:
        while self._executor is not None and len(self._pending) < self._ahead:
            self._pending.append(self._executor.submit(self.read, self._following()))

    def _following(self) -> Batch:
        batch = batch_at(
            self._position,
            examples=len(self._source),
            batch_size=self._plan.batch_size,
            remainder=self._plan.remainder,
        )
        self._position = batch.stop
        return batch

    def read(self, batch: Batch) -> LocalBatch:
        """This rank's share of one global batch, read now."""
        examples = len(self._source)
        indices = drawn(
            batch,
            rank=self._world.rank,
            size=self._world.size,
            examples=examples,
            seed=self._plan.seed,
            order=self._source.order,
        )
        spec, count = self._source.spec, len(indices)
        images = empty((count, *spec.image_shape), np.float32)
        labels = empty((count, *spec.label_shape), np.int32)
        good = 0
        errors: list[tuple[int, BadInput]] = []
        # Each goes to its place before the next is read: while it is still near the processor.
        for index, example in zip(indices, self._source.read_batch(indices, batch.start // examples), strict=True):
            if isinstance(example, BadInput):
                errors.append((index, example))
            else:
                np.copyto(images[good], example.image)
                np.copyto(labels[good, ...], example.label)
                good += 1
        if errors and not self._source.skips:
            return self._empty(batch, indices, errors[0][1])
        bad = tuple((index, str(error)) for index, error in errors)
        if not good:
            return replace(self._empty(batch, indices, None), bad=bad)
        return LocalBatch(batch, indices, images[:good], labels[:good], np.ones(good, np.float32), bad=bad)

    def _empty(self, batch: Batch, indices: list[int], error: BadInput | None) -> LocalBatch:
        spec = self._source.spec
        images = np.zeros((1, *spec.image_shape), np.float32)
        labels = np.zeros((1, *spec.label_shape), np.int32)
        return LocalBatch(batch, indices, images, labels, np.zeros(1, np.float32), error)
