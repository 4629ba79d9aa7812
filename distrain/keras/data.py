"""Each rank's share of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from distrain.data.order import Batch, batch_at, drawn, epoch_steps
from distrain.data.provider import BatchReader, Provider
from distrain.errors import BadInput
from distrain.keras.place import place, rank, size


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
            raise BadInput(f"Examples: batch_size is {batch_size}, with {self._count} examples in all")
        self._batch_size = batch_size
        self._seed = seed
        self._remainder = remainder
        self.steps_per_epoch = epoch_steps(examples=self._count, batch_size=batch_size, remainder=remainder)
        self.start = 0

    def dataset(self) -> tf.data.Dataset:
        """This rank's batches (x, y), from `start` on."""
        x, y = self._shapes()
        signature = tuple(tf.TensorSpec([None, *one.shape[1:]], one.dtype) for one in (x, y))
        return tf.data.Dataset.from_generator(self._batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        epoch, step = divmod(self.start, self.steps_per_epoch)
        position = epoch * self._count + step * self._batch_size
        while True:
            batch = batch_at(position, examples=self._count, batch_size=self._batch_size, remainder=self._remainder)
            position = batch.stop
            yield self._read(self._indices(batch))

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
