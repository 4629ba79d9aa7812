"""Shards that are best read from their start to their end: a few blocks are kept, and reading goes on from the last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

from distrain.errors import BadInput

T = TypeVar("T")


class Blocks(Generic[T]):
    """Items of shards, fetched in blocks of `block` consecutive ones; at most `kept` blocks stay in memory.

    `fetch(shard, first, count)` gives `count` items of a shard from `first` on. It is called by one thread at a time.
    """

    def __init__(
        self, fetch: Callable[[int, int, int], Sequence[T]], counts: Sequence[int], block: int, *, kept: int
    ) -> None:
        self._fetch = fetch
        self._counts = counts
        self._block = block
        self._kept = kept
        self._blocks: OrderedDict[tuple[int, int], Sequence[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, shard: int, number: int) -> T:
        """Item `number` of a shard. Raises what `fetch` raises."""
        block = number // self._block
        key = (shard, block)
        with self._lock:
            if key not in self._blocks:
                first = block * self._block
                self._blocks[key] = self._fetch(shard, first, min(self._block, self._counts[shard] - first))
                while len(self._blocks) > self._kept:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(key)
            return self._blocks[key][number % self._block]


class Streams(Generic[T]):
    """Shards whose items can only be had one after the other: `fetch` goes on where it ended, or begins anew.

    `begin(shard)` iterates over a shard's items; the shards of at most `kept` calls stay open.
    """

    def __init__(self, begin: Callable[[int], Generator[T, None, None]], counts: Sequence[int], *, kept: int) -> None:
        self._begin = begin
        self._counts = counts
        self._kept = kept
        self._open: OrderedDict[int, tuple[int, Generator[T, None, None]]] = OrderedDict()

    def fetch(self, shard: int, first: int, count: int) -> list[T]:
        """Items `first` to `first + count - 1` of a shard. Raises `BadInput` where it has fewer."""
        at, items = self._open.pop(shard, (0, None))
        if items is None or at > first:
            if items is not None:
                items.close()
            at, items = 0, self._begin(shard)
        found: list[T] = []
        for item in items:
            at += 1
            if at > first:
                found.append(item)
            if len(found) == count:
                break
        if len(found) < count:
            raise BadInput(f"shard {shard} of the data set ends after item {at}, expected {self._counts[shard]}")
        self._keep(shard, at, items)
        return found

    def _keep(self, shard: int, at: int, items: Generator[T, None, None]) -> None:
        """Leave a shard open to be read on, unless it is through; close the one that was asked for longest ago."""
        if at == self._counts[shard]:
            items.close()
            return
        self._open[shard] = (at, items)
        while len(self._open) > self._kept:
            self._open.popitem(last=False)[1][1].close()
