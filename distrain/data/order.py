"""The order of the examples: a pure function of (seed, position), the same on every machine and for any world.

`index(position) = permute(position mod N)` with a bijection of 0 .. N - 1 that is keyed by (seed, epoch). It is a
Feistel network over the smallest fitting power of two; values that fall outside 0 .. N - 1 go through it again until
they are inside ("cycle walking": Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). Memory and time are
O(1) in N.

Sources that are slow to read at random are ordered shard by shard (`ByShard`): as exact and as easy to resume, but
examples of one shard come near each other, and resuming within a shard may read it from its start.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from distrain.data.provider import Sharding
from distrain.world.topology import share

Places = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

ROUNDS = 8
# So many places take less time one by one than as an array.
FEW = 32
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Batch:
    """The global batch of one step: positions `start .. start + size - 1`, all of one epoch."""

    start: int
    size: int

    @property
    def stop(self) -> int:
        """The position after the batch."""
        return self.start + self.size


def batch_at(position: int, *, examples: int, batch_size: int, remainder: str) -> Batch:
    """The global batch that begins at or, where a remainder is dropped, after `position`.

    A batch ends where its epoch ends: the last one is smaller with `remainder` "keep", left out with "drop".
    """
    left = examples - position % examples
    if left >= batch_size or remainder == "keep":
        return Batch(position, min(batch_size, left))
    assert batch_size <= examples, "a batch larger than an epoch would never be drawn"
    return Batch(position + left, batch_size)


def epoch_steps(*, examples: int, batch_size: int, remainder: str) -> int:
    """Batches in an epoch."""
    return examples // batch_size if remainder == "drop" else -(-examples // batch_size)


class Order(Protocol):
    """Which example stands at which place of an epoch."""

    def indices(self, places: Places, *, seed: int, epoch: int) -> Places:
        """The indices [n] at `places` [n] of the epoch, both uint64 in 0 .. N - 1."""
        ...


@dataclass(frozen=True)
class Permuted:
    """Any example anywhere, each order of the epoch as likely as the next."""

    examples: int

    def indices(self, places: Places, *, seed: int, epoch: int) -> Places:
        return permute(places, examples=self.examples, seed=seed, epoch=epoch)


class ByShard:
    """Shards in random order, several side by side, shuffled within blocks of consecutive examples.

    The permuted shards, one behind the other, are cut into `lanes` parts of equal length; place p of an epoch is step
    p // lanes of lane p % lanes. Where `lanes` divides the batch, a lane, and so a shard, is read by one rank at a
    time, as long as shards are not longer than lanes.
    """

    def __init__(self, sharding: Sharding) -> None:
        self.sharding = sharding
        counts = np.array(sharding.counts, np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(counts)])
        self.examples = int(self._firsts[-1])
        self._shards: dict[tuple[int, int], tuple[Integers, Integers]] = {}

    def indices(self, places: Places, *, seed: int, epoch: int) -> Places:
        shards, starts = self._permuted(seed, epoch)
        along = self._along(places.astype(np.int64))
        turns = np.searchsorted(starts, along, side="right") - 1
        blocks, within = np.divmod(along - starts[turns], self.sharding.block)
        result = np.empty(len(places), np.int64)
        # Each block that occurs is permuted at once.
        for turn, block in set(zip(turns.tolist(), blocks.tolist(), strict=True)):
            inside = (turns == turn) & (blocks == block)
            result[inside] = self._shuffled(int(shards[turn]), block, within[inside], seed, epoch)
        return result.astype(np.uint64)

    def _along(self, places: Integers) -> Integers:
        """Places along the permuted shards; the first lanes are longer by one where the epoch is not full."""
        lanes = min(self.sharding.lanes, self.examples)
        length = -(-self.examples // lanes)
        longer = self.examples - (length - 1) * lanes
        step, lane = np.divmod(places, lanes)
        along: Integers = lane * length - np.maximum(lane - longer, 0) + step
        return along

    def _permuted(self, seed: int, epoch: int) -> tuple[Integers, Integers]:
        """The shards in the order of an epoch, without empty ones, and the place at which each starts."""
        known = self._shards.get((seed, epoch))
        if known is not None:
            return known
        counts = np.array(self.sharding.counts, np.int64)
        order = permute(np.arange(len(counts), dtype=np.uint64), examples=len(counts), seed=seed, epoch=epoch)
        shards = order.astype(np.int64)
        shards = shards[counts[shards] > 0]
        starts = np.cumsum(counts[shards]) - counts[shards]
        # Of this epoch and the one before or after it, which threads read at the same time.
        self._shards = {**dict(list(self._shards.items())[-1:]), (seed, epoch): (shards, starts)}
        return shards, starts

    def _shuffled(self, shard: int, block: int, within: Integers, seed: int, epoch: int) -> Integers:
        """The indices at places [n] within a block of a shard."""
        first = block * self.sharding.block
        length = min(self.sharding.block, self.sharding.counts[shard] - first)
        places = permute(within.astype(np.uint64), examples=length, seed=mix_all(seed, shard, block), epoch=epoch)
        indices: Integers = places.astype(np.int64) + (int(self._firsts[shard]) + first)
        return indices


def drawn(batch: Batch, *, rank: int, size: int, examples: int, seed: int, order: Order | None = None) -> list[int]:
    """The indices of the examples that `rank` of `size` draws for a batch, in order; `Permuted` unless told."""
    part = share(batch.size, rank=rank, size=size)
    if not part:
        return []
    epoch, offset = divmod(batch.start, examples)
    places = np.arange(offset + part.start, offset + part.stop, dtype=np.uint64)
    chosen = Permuted(examples) if order is None else order
    return [int(index) for index in chosen.indices(places, seed=seed, epoch=epoch)]


def permute(places: Places, *, examples: int, seed: int, epoch: int) -> Places:
    """A bijection of 0 .. examples - 1, keyed by (seed, epoch), applied to `places` [n], uint64."""
    if examples == 1:
        return places.copy()
    low_bits = ((examples - 1).bit_length() + 1) // 2
    high_bits = (examples - 1).bit_length() - low_bits
    keys = _keys(seed, epoch)
    if len(places) <= FEW:
        return np.array([_walked(place, examples, low_bits, high_bits, keys) for place in places.tolist()], np.uint64)
    values = _feistel(places.astype(np.uint64), low_bits, high_bits, keys)
    outside = values >= examples
    while outside.any():
        values[outside] = _feistel(values[outside], low_bits, high_bits, keys)
        outside = values >= examples
    return values


def mix_all(*values: int) -> int:
    """A 64-bit hash of several integers, in this order: exchanged, they give another."""
    result = 0
    for value in values:
        result = mix(result ^ mix(value))
    return result


def mix(value: int) -> int:
    """A 64-bit hash of a 64-bit integer: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


@functools.lru_cache(maxsize=16)
def _keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(mix_all(seed, epoch, number) for number in range(ROUNDS))


def _walked(value: int, examples: int, low_bits: int, high_bits: int, keys: tuple[int, ...]) -> int:
    """As `_feistel` and cycle walking, of one value."""
    low_mask, high_mask = (1 << low_bits) - 1, (1 << high_bits) - 1
    while True:
        low, high = value & low_mask, value >> low_bits
        for number, key in enumerate(keys):
            if number % 2:
                low = (low + mix(high ^ key)) & low_mask
            else:
                high = (high + mix(low ^ key)) & high_mask
        value = high << low_bits | low
        if value < examples:
            return value


def _feistel(
    values: npt.NDArray[np.uint64], low_bits: int, high_bits: int, keys: tuple[int, ...]
) -> npt.NDArray[np.uint64]:
    """One pass over values of `low_bits + high_bits` bits; each round alters one half by a hash of the other."""
    low_mask, high_mask = np.uint64((1 << low_bits) - 1), np.uint64((1 << high_bits) - 1)
    low, high = values & low_mask, values >> np.uint64(low_bits)
    for number, key in enumerate(keys):
        if number % 2:
            low = (low + _mix_array(high ^ np.uint64(key))) & low_mask
        else:
            high = (high + _mix_array(low ^ np.uint64(key))) & high_mask
    return (high << np.uint64(low_bits)) | low


def _mix_array(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`mix` of each value, [n] to [n]; arithmetic wraps at 64 bits."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
