"""Keeps examples that were read, in memory or in a file without a name on a local disk, up to a limit.

What is kept is kept for good: every example is drawn once an epoch, so that making room for the newest would always
throw out what is needed sooner. Nothing outlives the process, not even where it is killed, and nothing can be stale.
"""

from __future__ import annotations

import os
import tempfile
import threading
from typing import Protocol

from distrain.data.formats import tfrecord
from distrain.data.provider import Example, Provider
from distrain.data.record import decoded, encoded
from distrain.data.storage import one_line, shown
from distrain.errors import BadInput


class Store(Protocol):
    """Where examples are kept."""

    def get(self, index: int) -> Example | None:
        """The example, where it is kept and sound."""
        ...

    def put(self, index: int, example: Example) -> None:
        """Keep the example if there is room."""
        ...


class Cached:
    """A provider whose examples are read from `provider` the first time and from `store` thereafter."""

    def __init__(self, provider: Provider, store: Store) -> None:
        self._provider = provider
        self._store = store
        self.spec = provider.spec
        self.sharding = getattr(provider, "sharding", None)

    def __len__(self) -> int:
        return len(self._provider)

    def read(self, index: int) -> Example:
        """As the provider's own."""
        kept = self._store.get(index)
        if kept is not None:
            return kept
        example = self._provider.read(index)
        self._store.put(index, example)
        return example


class MemoryStore:
    """Up to `limit` bytes in memory."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._examples: dict[int, Example] = {}
        self._lock = threading.Lock()

    def get(self, index: int) -> Example | None:
        return self._examples.get(index)

    def put(self, index: int, example: Example) -> None:
        size = example.image.nbytes + example.label.nbytes
        with self._lock:
            if index in self._examples or size > self._left:
                return
            self._left -= size
            # A view would keep what it is a view of.
            image = example.image if example.image.base is None else example.image.copy()
            for array in (image, example.label):
                array.setflags(write=False)
            self._examples[index] = Example(image, example.label)


class DiskStore:
    """Up to `limit` bytes in a file that has no name, so that its space is free again once the process ends.

    Raises `BadInput` where no file can be made in `folder` (the system's own for temporary files where None).
    """

    def __init__(self, limit: int, folder: str | None) -> None:
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="distrain-")  # noqa: SIM115 (open as long as this)
        except OSError as error:
            where = shown(folder or tempfile.gettempdir())
            raise BadInput(f"{where}: no cache can be made there ({one_line(error)}), expected a folder") from error
        self._limit = limit
        self._end = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def get(self, index: int) -> Example | None:
        place = self._places.get(index)
        if place is None:
            return None
        start, length = place
        try:
            frame = os.pread(self._file.fileno(), length, start)
            return decoded(tfrecord.checked(frame, "cache"), "cache") if len(frame) == length else None
        except (BadInput, OSError):
            # A bad disk costs time, not the run: the example is read from its source again.
            return None

    def put(self, index: int, example: Example) -> None:
        frame = tfrecord.framed(encoded(example))
        with self._lock:
            start = self._end
            if index in self._places or start + len(frame) > self._limit:
                return
            self._end += len(frame)
        try:
            written = os.pwrite(self._file.fileno(), frame, start)
        except OSError:
            written = 0
        if written == len(frame):
            self._places[index] = (start, written)
        else:
            # The disk is full: what is kept stays, nothing more is.
            self._limit = 0
