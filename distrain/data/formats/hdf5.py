"""HDF5: read by pyfive, which is Python throughout, so that a damaged file raises where libhdf5 might crash.

What lies in one piece is read by position; chunks are inflated by pyfive, one thread at a time in a file.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyfive
from pyfive.core import InvalidHDF5File

from distrain.data.formats.files import MAX_SAMPLES, Array, Shape, damaged, decoding, not_supported, require_kind
from distrain.data.formats.npy import Stored
from distrain.data.storage import Status, read, regular, shown
from distrain.errors import BadInput

WHAT = "an HDF5"
_AHEAD = 1 << 16
# What pyfive raised on damaged files.
_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    MemoryError,
    EOFError,
    struct.error,
    zlib.error,
    InvalidHDF5File,
)
_log = logging.getLogger("pyfive")
_log.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Chunked:
    """A dataset that lies in chunks of `chunk_rows` entries along its first axis."""

    path: str
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    chunk_rows: int
    dataset: Any
    lock: threading.Lock

    def rows(self, start: int, count: int) -> Array:
        """The entries `start` to `start + count - 1` along the first axis, in native byte order. Raises `BadInput`."""
        with self.lock, decoding(self.path, "HDF5", _ERRORS):
            rows = np.asarray(self.dataset[start : start + count])
        if rows.shape != (count, *self.shape[1:]) or rows.dtype.kind not in "buif":
            raise damaged(self.path, "HDF5", f"{self.name} gave {rows.dtype} {list(rows.shape)}")
        return np.ascontiguousarray(rows, rows.dtype.newbyteorder("="))


def dataset(path: str, name: str) -> Stored | Chunked:
    """The dataset `name` of a file, from its headers. Raises `BadInput`."""
    status = regular(path, WHAT)
    require_kind(path, bytes(read(path, 0, min(8, status.size), WHAT)), "HDF5")
    with decoding(path, "HDF5", _ERRORS):
        file = pyfive.File(io.BufferedReader(_Spans(path, status), _AHEAD))
        if name not in file:
            there = ", ".join(sorted(str(key) for key in file)[:10]) or "nothing"
            raise BadInput(f"{shown(path)}: has no dataset '{name}', expected one (there are: {there})")
        found = file[name]
        if not isinstance(found, pyfive.Dataset):
            raise BadInput(f"{shown(path)}: '{name}' is a group, expected a dataset")
        shape, dtype, chunks = tuple(int(length) for length in found.shape), found.dtype, found.chunks
        if not isinstance(dtype, np.dtype) or dtype.kind not in "buif" or dtype.itemsize > 8:
            raise not_supported(path, f"a dataset of {dtype}", "bool, integers or floats of at most 64 bits")
        if not shape or min(shape) < 0 or math.prod(shape[1:]) > MAX_SAMPLES:
            raise damaged(path, "HDF5", f"{name} is of shape {list(shape)}")
        if chunks is not None:
            return _chunked(path, name, shape, found)
        offset = int(found.id.data_offset)
    if offset < 0 or offset + math.prod(shape) * dtype.itemsize > status.size:
        raise damaged(path, "HDF5", f"{status.size} bytes cannot hold the {list(shape)} {dtype} it claims")
    return Stored(path, shape, dtype, fortran=False, offset=offset, status=status)


def _chunked(path: str, name: str, shape: Shape, found: Any) -> Chunked:
    chunks = tuple(int(length) for length in found.chunks)
    if len(chunks) != len(shape) or min(chunks) < 1 or math.prod(chunks) > MAX_SAMPLES:
        raise damaged(path, "HDF5", f"{name} is in chunks of {list(chunks)}")
    expected = math.prod(-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True))
    there = int(found.id.get_num_chunks())
    if there != expected:
        raise damaged(path, "HDF5", f"{name} has {there} chunks, expected {expected}")
    return Chunked(path, name, shape, found.dtype, chunks[0], found, threading.Lock())


class _Spans(io.RawIOBase):
    """A file for pyfive that is opened anew for each read, as `storage.read` does, and so never maps memory."""

    def __init__(self, path: str, status: Status) -> None:
        super().__init__()
        self.path = path
        self._status = status
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._status.size}[whence]
        if base + offset < 0:
            raise ValueError(f"byte {base + offset} of a file")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        count = max(0, min(len(buffer), self._status.size - self._at))
        if count:
            buffer[:count] = read(self.path, self._at, count, WHAT, known=self._status)
        self._at += count
        return count
