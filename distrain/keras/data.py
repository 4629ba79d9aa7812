"""Each rank's share of the data."""

from __future__ import annotations

import atexit
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from distrain.data.order import Batch, batch_at, drawn, epoch_steps
from distrain.data.provider import BatchReader, Provider
from distrain.errors import BadInput
from distrain.keras.place import place, rank, size

# Batches that are read ahead.
AHEAD = 2

_reading, _ending = threading.Lock(), threading.Event()


@atexit.register
def _end_reading() -> None:
    """Let nothing be read ahead any more when the process ends: Python would not be there to finish it."""
    _ending.set()
    with _reading:
        pass


def shared(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """This rank's share of each batch of a dataset of global batches, which all ranks read alike.

    The shares of all ranks are the batch, whatever their number; their sizes differ by at most 1, and may be 0.
    """
    numbers = place().numbers

    def part(*tensors: Any) -> Any:
        count = tf.shape(tf.nest.flatten(tensors)[0])[0]
        own, all_ranks = tf.unstack(numbers)
        first, last = count * own // all_ranks, count * (own + 1) // all_ranks
        parts = tf.nest.map_structure(lambda tensor: tensor[first:last], tensors)
        return parts[0] if len(parts) == 1 else parts

    return dataset.map(part, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


class Examples:
    """Examples in an order that is a pure function of seed and position, for any number of ranks.

    `source` is a pair of arrays (x, y) or a provider (`spec`, `len()`, `read(index)`); an epoch has each example once.
    `fit(examples.dataset(), steps_per_epoch=examples.steps_per_epoch)` draws this rank's share of each batch, without
    end; `start` is the step with which it begins.
    """

    def __init__(
        self, source: Provider | tuple[Any, Any], *, batch_size: int, seed: int = 0, remainder: str = "keep"
    ) -> None:
        if remainder not in ("keep", "drop"):
            raise BadInput(f"Examples: remainder is '{remainder}', expected 'keep' or 'drop'")
        if isinstance(source, tuple) and len(source[0]) != len(source[1]):
            raise BadInput(f"Examples: expected as many labels as inputs, got {len(source[1])} for {len(source[0])}")
        self._source = source
        self._count = len(source[0] if isinstance(source, tuple) else source)
        if not 1 <= batch_size or self._count < (batch_size if remainder == "drop" else 1):
            most = f"1 to {self._count}, the number of examples" if remainder == "drop" else "1 or more"
            expected = most if self._count else "examples to draw them from"
            raise BadInput(f"Examples: batch_size is {batch_size}, expected {expected}")
        self._batch_size = batch_size
        self._seed = seed
        self._remainder = remainder
        self.steps_per_epoch = epoch_steps(examples=self._count, batch_size=batch_size, remainder=remainder)
        self.start = 0

    def dataset(self) -> tf.data.Dataset:
        """This rank's batches (x, y), from `start` on."""
        shapes = self._shapes()

        def draw(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
            # No generator: TensorFlow calls Python once more when it drops one, which is too late as the process ends.
            drawn_now = tf.numpy_function(self._drawn, [number], [one.dtype for one in shapes])
            return tuple(
                tf.ensure_shape(one, [None, *like.shape[1:]]) for one, like in zip(drawn_now, shapes, strict=True)
            )

        return tf.data.Dataset.counter().map(draw).prefetch(AHEAD)

    def _drawn(self, number: int) -> tuple[Any, Any]:
        """The batch that is so many after `start`."""
        with _reading:
            if _ending.is_set():
                raise StopIteration
            epoch, step = divmod(self.start + int(number), self.steps_per_epoch)
            position = epoch * self._count + step * self._batch_size
            batch = batch_at(position, examples=self._count, batch_size=self._batch_size, remainder=self._remainder)
            return self._read(self._indices(batch))

    def _indices(self, batch: Batch) -> list[int]:
        return drawn(batch, rank=rank(), size=size(), examples=self._count, seed=self._seed)

    def _read(self, indices: list[int]) -> tuple[Any, Any]:
        if isinstance(self._source, tuple):
            x, y = self._source
            return x[indices], y[indices]
        if not indices:
            x, y = self._shapes()
            return x[:0], y[:0]
        reader = self._source
        read = (
            reader.read_batch(indices) if isinstance(reader, BatchReader) else [reader.read(each) for each in indices]
        )
        return np.stack([example.image for example in read]), np.stack([example.label for example in read])

    def _shapes(self) -> tuple[Any, Any]:
        """Batches of one, of the examples' shape and type."""
        if isinstance(self._source, tuple):
            return self._source[0][:1], self._source[1][:1]
        spec = self._source.spec
        return np.zeros((1, *spec.image_shape), np.float32), np.zeros((1, *spec.label_shape), np.int32)
