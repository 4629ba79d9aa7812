"""NPY: NumPy's own array files, read by position and never unpickled."""

from __future__ import annotations

import math
import tokenize
from typing import IO, Any, NamedTuple

import numpy as np

from distrain.data.formats.files import (
    Array,
    Shape,
    damaged,
    decoding,
    not_supported,
    require_kind,
    require_page,
    require_size,
    words,
)
from distrain.data.storage import Status, opened, read, regular, shown
from distrain.errors import BadInput

_WHAT = "an image"
_NPY_LONGEST_HEADER = 512  # several times what an array of numbers needs, too short to exhaust Python's parser
# What NumPy raised on damaged files; its parser of headers hands a damaged one to Python's tokenizer.
_NPY_ERRORS = (OSError, ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError, tokenize.TokenError)


class Stored(NamedTuple):
    """Where the numbers of an array lie in a file."""

    path: str
    shape: Shape
    dtype: np.dtype[Any]
    fortran: bool
    offset: int
    status: Status

    def rows(self, start: int, count: int) -> Array:
        """The entries `start` to `start + count - 1` along the first axis, in native byte order. Raises `BadInput`.

        An array in Fortran's order, whose entries are spread over the file, is read whole for it.
        """
        if self.fortran:
            data = read(self.path, self.offset, self._size(self.shape[0]), _WHAT, known=self.status)
            whole = np.frombuffer(data, self.dtype).reshape(self.shape, order="F")
            rows = whole[start : start + count]
        else:
            data = read(self.path, self.offset + self._size(start), self._size(count), _WHAT, known=self.status)
            rows = np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
        return np.ascontiguousarray(rows, self.dtype.newbyteorder("="))

    def _size(self, rows: int) -> int:
        return rows * math.prod(self.shape[1:]) * self.dtype.itemsize


def stored(path: str) -> Stored:
    """The header of an NPY file, checked. Raises `BadInput`."""
    status = regular(path, _WHAT)
    with opened(path, _WHAT) as file:
        require_kind(path, file.read(8), "NPY")
        file.seek(0)
        shape, dtype, fortran = header(path, file)
        offset = file.tell()
    if offset + math.prod(shape) * dtype.itemsize > status.size:
        raise damaged(path, "numeric NPY", f"{status.size} bytes cannot hold the {words(shape)} {dtype} it claims")
    return Stored(path, shape, dtype, fortran, offset, status)


def header(path: str, file: IO[bytes]) -> tuple[Shape, np.dtype[Any], bool]:
    """Shape, dtype and whether in Fortran's order, from the start of an array in NPY's form. Raises `BadInput`."""
    with decoding(path, "numeric NPY", _NPY_ERRORS):
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise not_supported(path, f"an array of NPY version {version[0]}.{version[1]}", "version 1.0 or 2.0")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file, max_header_size=_NPY_LONGEST_HEADER)
    if dtype.hasobject:
        raise damaged(path, "numeric NPY", f"it has Python objects in dtype {dtype}, which are never loaded")
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise not_supported(path, f"an array of dtype {dtype}", "bool, integers or floats of at most 64 bits")
    if any(type(length) is not int or length < 0 for length in shape):
        raise damaged(path, "numeric NPY", f"its shape is {shape}")
    return shape, dtype, fortran


def _npy_image(path: str) -> Stored:
    """The header of an array of one or several images."""
    array = stored(path)
    if len(array.shape) not in (2, 3, 4):
        raise not_supported(
            path,
            f"an array of {len(array.shape)} dimensions",
            "2 (height, width), 3 or 4 (pages, height, width, channels)",
        )
    if min(array.shape) == 0:
        raise BadInput(f"{shown(path)}: has an array of {words(array.shape)}, expected at least one pixel")
    require_size(path, _npy_page_shape(array.shape))
    return array


def _npy_pages(shape: Shape) -> int:
    """1 for (height, width) and (height, width, 1, 3 or 4), else the first length."""
    return 1 if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) else shape[0]


def _npy_page_shape(shape: Shape) -> Shape:
    page = shape if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) else shape[1:]
    return page[:2] if len(page) == 3 and page[2] == 1 else page


def count_pages(path: str) -> int:
    """The number of pages. Raises `BadInput`."""
    return _npy_pages(_npy_image(path).shape)


def page_shape(path: str, page: int, indices: bool) -> Shape:
    """The shape of a page, from headers alone. Raises `BadInput`."""
    array = _npy_image(path)
    require_page(path, page, _npy_pages(array.shape))
    return _npy_page_shape(array.shape)


def read_page(path: str, page: int, indices: bool) -> Array:
    """The pixels of a page; see `data.images.read_page`. Raises `BadInput`."""
    array = _npy_image(path)
    pages, shape = _npy_pages(array.shape), _npy_page_shape(array.shape)
    require_page(path, page, pages)
    whole = math.prod(array.shape) == math.prod(shape)
    return (array.rows(0, array.shape[0]) if whole else array.rows(page, 1)).reshape(shape)
