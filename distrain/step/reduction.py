"""From the gradients of each rank to those of all, where a plain allreduce does not serve: in 16 bits, or adaptively.

All gradients are one vector, cut into as many slices as there are ranks. Each rank gets its slice of all ranks' vectors
(an alltoall), makes one of them, and gives it to all (an allgather): as many bytes as the best allreduce. Each number
is rounded once on its way in and once on its way out, whatever the number of ranks, and all ranks have the same bits,
since each slice is made by one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import tensorflow as tf

from distrain.world.collectives import Collectives

# What types of 16 bits are sent as: Horovod knows no bfloat16, and need not.
PATTERN = tf.uint16

# Sums over a rank's examples of their gradients, and what they are to be divided by for means () -> the reduced ones.
Reduction = Callable[[Sequence[tf.Tensor], tf.Tensor], list[tf.Tensor]]


class Piece(NamedTuple):
    """The part of a slice, elements `start` to `stop`, that belongs to one of the tensors."""

    tensor: int
    start: int
    stop: int


class Slices:
    """Cuts tensors like `models` into a slice for each rank, and puts them together again.

    They are sent as `wire`, of 16 bits, or as they are; what is too large for it becomes infinite.
    """

    def __init__(
        self, models: Sequence[tf.Variable | tf.Tensor], collectives: Collectives, wire: tf.DType | None = None
    ) -> None:
        self.collectives = collectives
        self._wire = wire
        self._dtype = models[0].dtype
        self._shapes = [model.shape for model in models]
        self._sizes = [shape.num_elements() for shape in self._shapes]
        # What is left at the end is filled up with zeros that belong to nothing.
        self.length = -(-sum(self._sizes) // collectives.size)

    def pieces(self, rank: int) -> list[Piece]:
        """What rank `rank`'s slice is made of, in order, without the zeros at its end."""
        first = rank * self.length
        found = []
        for number, (end, size) in enumerate(zip(accumulate(self._sizes), self._sizes, strict=True)):
            start, stop = max(end - size, first), min(end, first + self.length)
            if start < stop:
                found.append(Piece(number, start - first, stop - first))
        return found

    def spread(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """This rank's slice [length] of the tensors of each rank, in rank order. Collective."""
        size = self.collectives.size
        rest = tf.zeros([size * self.length - sum(self._sizes)], self._dtype)
        # Made smaller before they are put together: half as much to copy.
        flat = tf.concat([self._small(tf.reshape(each, [-1])) for each in (*tensors, rest)], axis=0)
        received = self.collectives.alltoall(self._pattern(tf.reshape(flat, [size, self.length])))
        return [self._large(part) for part in tf.unstack(self._values(received))]

    def collect(self, part: tf.Tensor) -> list[tf.Tensor]:
        """The tensors that all ranks' slices [length] make up. Collective."""
        flat = self._values(self.collectives.allgather(self._pattern(self._small(part))))
        rest = self.collectives.size * self.length - sum(self._sizes)
        parts = tf.split(flat, [*self._sizes, rest])[:-1]
        return [self._large(tf.reshape(part, shape)) for part, shape in zip(parts, self._shapes, strict=True)]

    def _small(self, values: tf.Tensor) -> tf.Tensor:
        return values if self._wire is None else tf.cast(values, self._wire)

    def _large(self, values: tf.Tensor) -> tf.Tensor:
        return values if self._wire is None else tf.cast(values, self._dtype)

    def _pattern(self, small: tf.Tensor) -> tf.Tensor:
        return small if self._wire is None else tf.bitcast(small, PATTERN)

    def _values(self, pattern: tf.Tensor) -> tf.Tensor:
        return pattern if self._wire is None else tf.bitcast(pattern, self._wire)


def added(slices: Slices) -> Reduction:
    """The sum over ranks, added up in rank order in the tensors' own dtype."""

    def reduce(sums: Sequence[tf.Tensor], count: tf.Tensor) -> list[tf.Tensor]:
        total, *others = slices.spread(sums)
        for other in others:
            total += other
        return slices.collect(total)

    return reduce
