"""NPZ: arrays in a ZIP file, checked by its checksums and never unpickled. A member is read whole."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from distrain.data.formats import npy
from distrain.data.formats.files import Array, Shape, damaged, decoding, require_kind
from distrain.data.storage import Status, opened, regular, shown
from distrain.errors import BadInput

WHAT = "an NPZ"
_MOST = 1032  # bytes that one byte compressed by Deflate may give
# What the ZIP reader raised on damaged files; RuntimeError is its word for a password, NotImplementedError for methods.
_ERRORS = (OSError, ValueError, EOFError, RuntimeError, LookupError, zipfile.BadZipFile, zlib.error, struct.error)


@dataclass(frozen=True)
class Member:
    """An array of a file, known by its header; `rows` reads it whole, so ask for many."""

    path: str
    name: str
    shape: Shape
    dtype: np.dtype[Any]
    fortran: bool
    status: Status

    def rows(self, start: int, count: int) -> Array:
        """The entries `start` to `start + count - 1` along the first axis, in native byte order. Raises `BadInput`."""
        if regular(self.path, WHAT) != self.status:
            raise BadInput(f"{shown(self.path)}: has changed since it was opened, expected data that stays as it is")
        with _opened(self.path, self.name) as file:
            npy.header(self.path, file)
            size = math.prod(self.shape) * self.dtype.itemsize
            data = file.read(size)
            # Only reading past the end makes the ZIP reader verify the checksum.
            if len(data) != size or file.read(1):
                raise damaged(self.path, "NPZ", f"{self.name} is not of the size that it claims")
        whole = np.frombuffer(data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")
        return np.ascontiguousarray(whole[start : start + count], self.dtype.newbyteorder("="))


def member(path: str, name: str) -> Member:
    """The array `name` of a file, from its header. Raises `BadInput`."""
    status = regular(path, WHAT)
    with _opened(path, name) as file:
        shape, dtype, fortran = npy.header(path, file)
    return Member(path, name, shape, dtype, fortran, status)


@contextmanager
def _opened(path: str, name: str) -> Iterator[IO[bytes]]:
    with opened(path, WHAT) as file:
        require_kind(path, file.read(8), "ZIP or NPZ")
        with decoding(path, "NPZ", _ERRORS), zipfile.ZipFile(file) as archive:
            there = [item.removesuffix(".npy") for item in archive.namelist()]
            if name not in there:
                raise BadInput(f"{shown(path)}: has no array '{name}', expected one of {', '.join(sorted(there)[:10])}")
            info = archive.getinfo(f"{name}.npy")
            if info.file_size > _MOST * max(info.compress_size, 1):
                raise damaged(path, "NPZ", f"{info.compress_size} bytes cannot hold the {info.file_size} it claims")
            with archive.open(info) as opened_member:
                yield opened_member
