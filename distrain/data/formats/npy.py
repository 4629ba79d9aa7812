"""NPY: NumPy's own array files, mapped into memory and never unpickled."""

from __future__ import annotations

import math
import tokenize

import numpy as np

from distrain.data.formats.files import (
    Array,
    Shape,
    decoding,
    not_supported,
    opened,
    regular,
    require_kind,
    require_page,
    require_size,
    shown,
    words,
)
from distrain.errors import BadInput

_NPY_LONGEST_HEADER = 512  # several times what an array of numbers needs, too short to exhaust Python's parser
# What NumPy raised on damaged files; its parser of headers hands a damaged one to Python's tokenizer.
_NPY_ERRORS = (OSError, ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError, tokenize.TokenError)


def _npy_map(path: str) -> Array:
    """The whole array, mapped into memory: only the pages that are read take any."""
    regular(path)
    with opened(path) as file:
        require_kind(path, file.read(8), "NPY")
    with decoding(path, "numeric NPY", _NPY_ERRORS):
        array = np.lib.format.open_memmap(path, mode="r", max_header_size=_NPY_LONGEST_HEADER)
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise not_supported(path, f"an array of dtype {array.dtype}", "bool, integers or floats of at most 64 bits")
    if array.ndim not in (2, 3, 4):
        raise not_supported(
            path, f"an array of {array.ndim} dimensions", "2 (height, width), 3 or 4 (pages, height, width, channels)"
        )
    if array.size == 0:
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
    return _npy_pages(_npy_map(path).shape)


def page_shape(path: str, page: int, indices: bool) -> Shape:
    """The shape of a page, from headers alone. Raises `BadInput`."""
    array = _npy_map(path)
    require_page(path, page, _npy_pages(array.shape))
    return _npy_page_shape(array.shape)


def read_page(path: str, page: int, indices: bool) -> Array:
    """The pixels of a page; see `data.images.read_page`. Raises `BadInput`."""
    array = _npy_map(path)
    pages, shape = _npy_pages(array.shape), _npy_page_shape(array.shape)
    require_page(path, page, pages)
    whole = array.size == math.prod(shape)
    return np.array(array if whole else array[page], array.dtype.newbyteorder("="), order="C").reshape(shape)
