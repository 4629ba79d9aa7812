"""Decodes one page of an image file (PNG, JPEG, TIFF or NPY) to an array with the values that the file holds.

A damaged file must never end a training run of many hours with a crash, a hang or a silently wrong picture. Headers
are therefore checked here before a decoder sees them, checksums that the decoders skip are verified, and whatever a
decoder raises becomes one `BadInput` line that names the file.

What counts as a page: PNG and JPEG have one; a TIFF has one per image file directory, or as many as ImageJ says it
appended to the first; an `.npy` array of shape (height, width) or (height, width, 1, 3 or 4) is one page, of shape
(pages, height, width) or (pages, height, width, channels) several. Pages are counted from 0.

Values are not changed: 16 bits stay 16 bits, 2 and 4 bit greys stay 0..3 and 0..15, one bit becomes bool. Orientation
tags, transparency colours, colour profiles and "white is zero" of TIFF are left aside. Palette images give 8-bit RGB
colours, or their palette indices where these are asked for, as labels need them.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from distrain.data.formats import jpeg, npy, png, tiff
from distrain.data.formats.files import Array, Shape, one_page
from distrain.data.storage import regular, shown
from distrain.errors import BadInput


def count_pages(path: str) -> int:
    """The number of pages of the file, from its headers. Raises `BadInput`."""
    return _format(path).pages(path)


def page_shape(path: str, page: int, *, indices: bool = False) -> Shape:
    """The shape that `read_page` would give, from headers alone. Raises `BadInput`."""
    return _format(path).shape(path, page, indices)


def read_page(path: str, page: int, *, indices: bool = False) -> Array:
    """The page as an array (height, width), or (height, width, channels) where it has more than one channel.

    The dtype is the file's own: bool, an integer or a float, in native byte order. `indices` asks for the palette
    indices of a palette image instead of its colours. The array may be read-only. Raises `BadInput`.
    """
    pixels = _format(path).read(path, page, indices)
    # Pillow and damaged files store a true as any byte but 0; who looks at the bytes must find a 1.
    return pixels.view(np.uint8) != 0 if pixels.dtype.kind == "b" else pixels


def decode(name: str, data: bytes, *, indices: bool = False) -> Array:
    """The pixels of a PNG or JPEG that is in memory, as `read_page` gives them. Raises `BadInput`, naming `name`."""
    decoder = jpeg.decode if data.startswith(b"\xff\xd8") else png.decode
    pixels = decoder(name, io.BytesIO(data), indices)
    return pixels.view(np.uint8) != 0 if pixels.dtype.kind == "b" else pixels


def is_encoded(data: bytes) -> bool:
    """Whether bytes begin as a PNG or a JPEG does."""
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def is_image(path: str) -> bool:
    """Whether the ending of the name is one that this module reads."""
    return _ending(path) in _FORMATS


def has_one_page(path: str) -> bool:
    """Whether the ending alone says that the file has one page, so that it need not be opened to count."""
    return _ending(path) in _FORMATS and _FORMATS[_ending(path)].pages is one_page


class _Format(NamedTuple):
    """How one kind of file is read; each function checks the file before it trusts it."""

    pages: Callable[[str], int]
    shape: Callable[[str, int, bool], Shape]
    read: Callable[[str, int, bool], Array]


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _format(path: str) -> _Format:
    ending = _ending(path)
    if ending not in _FORMATS:
        regular(path)
        seen = f"the ending '{ending}'" if ending else "no ending"
        raise BadInput(f"{shown(path)}: has {seen}, expected one of {', '.join(sorted(_FORMATS))}")
    return _FORMATS[ending]


_FORMATS = {
    ".png": _Format(one_page, png.page_shape, png.read_page),
    ".jpg": _Format(one_page, jpeg.page_shape, jpeg.read_page),
    ".jpeg": _Format(one_page, jpeg.page_shape, jpeg.read_page),
    ".tif": _Format(tiff.count_pages, tiff.page_shape, tiff.read_page),
    ".tiff": _Format(tiff.count_pages, tiff.page_shape, tiff.read_page),
    ".npy": _Format(npy.count_pages, npy.page_shape, npy.read_page),
}
ENDINGS = tuple(_FORMATS)
