"""The order of the examples: a pure function of (seed, position), the same on every machine and for any world.

`index(position) = permute(position mod N)` with a bijection of 0 .. N - 1 that is keyed by (seed, epoch). It is a
Feistel network over the smallest fitting power of two; values that fall outside 0 .. N - 1 go through it again until
they are inside ("cycle walking": Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002). Memory and time are
O(1) in N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distrain.world.topology import share

ROUNDS = 8
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


def drawn(batch: Batch, *, rank: int, size: int, examples: int, seed: int) -> list[int]:
    """The indices of the examples that `rank` of `size` draws for a batch, in order."""
    part = share(batch.size, rank=rank, size=size)
    if not part:
        return []
    epoch, offset = divmod(batch.start, examples)
    places = np.arange(offset + part.start, offset + part.stop, dtype=np.uint64)
    return [int(index) for index in permute(places, examples=examples, seed=seed, epoch=epoch)]


def permute(places: npt.NDArray[np.uint64], *, examples: int, seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    """A bijection of 0 .. examples - 1, keyed by (seed, epoch), applied to `places` [n], uint64."""
    if examples == 1:
        return places.copy()
    low_bits = ((examples - 1).bit_length() + 1) // 2
    high_bits = (examples - 1).bit_length() - low_bits
    keys = [mix_all(seed, epoch, number) for number in range(ROUNDS)]
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


def _feistel(values: npt.NDArray[np.uint64], low_bits: int, high_bits: int, keys: list[int]) -> npt.NDArray[np.uint64]:
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
