"""Memory for images and batches, used again once nobody holds it: fresh memory costs more than filling it does.

The system gives a page at a time, zeroed, at each first touch; an image of a megabyte takes 256 of them, and its place
is handed back as soon as it is freed. Here it waits for the next image of its size instead.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

SMALLEST = 1 << 16  # bytes; below, the system's own way is quick
ALIGNMENT = 64  # bytes; TensorFlow's, which uses memory that begins at such an address without a copy
KEPT = 1 << 28  # bytes that may wait to be used again
_SLACK = 1.25  # how much larger than needed a piece of memory may be

Bytes = npt.NDArray[np.uint8]


class Pool:
    """Pieces of memory that come back by themselves; the longest unused go where more than `kept` bytes wait."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._free: deque[Bytes] = deque()
        # A finalizer may run in any thread at any time, also within `take`.
        self._lock = threading.RLock()

    @property
    def waiting(self) -> int:
        """Bytes that wait to be used again."""
        return sum(piece.nbytes for piece in self._free)

    def take(self, size: int) -> Bytes:
        """`size` bytes of whatever values, from SMALLEST on aligned."""
        if size < SMALLEST:
            return np.empty(size, np.uint8)
        with self._lock:
            piece = next((free for free in reversed(self._free) if size <= free.nbytes <= _SLACK * size), None)
            if piece is not None:
                self._free = deque(free for free in self._free if free is not piece)
        if piece is None:
            piece = _aligned(size)
        # Made of a buffer rather than of the array, so that every part and view of it keeps this object alive; of an
        # array, NumPy lets them refer to its memory past the object.
        lent = np.frombuffer(piece.data, np.uint8, size)
        weakref.finalize(lent, self._back, piece).atexit = False
        return lent

    def _back(self, piece: Bytes) -> None:
        with self._lock:
            self._free.append(piece)
            while self.waiting > self._kept:
                self._free.popleft()


def _aligned(size: int) -> Bytes:
    whole = np.empty(size + ALIGNMENT, np.uint8)
    start = -whole.ctypes.data % ALIGNMENT
    return whole[start : start + size]


_shared = Pool()


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """As `numpy.empty`, from memory that was used before where there is some."""
    kind = np.dtype(dtype)
    size = kind.itemsize
    for length in shape:
        size *= length
    return _shared.take(size).view(kind).reshape(shape)
