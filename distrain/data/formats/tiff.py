"""TIFF: the chain of pages and the blocks of each are checked, tifffile decodes."""

from __future__ import annotations

import contextlib
import functools
import logging
import lzma
import math
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import tifffile

from distrain.data.formats.files import (
    Array,
    Shape,
    coloured,
    damaged,
    decoding,
    not_supported,
    require_kind,
    require_page,
    require_size,
    words,
)
from distrain.data.storage import opened, regular

_TIFF_COMPRESSIONS = {1, 5, 7, 8, 32773, 32946, 34925, 50000}
_TIFF_COMPRESSIONS_NAMED = "none, LZW, JPEG, Deflate, PackBits, LZMA or Zstandard"
_TIFF_JPEG = 7
_TIFF_YCBCR = 6
_TIFF_PALETTE = 3
_TIFF_PHOTOMETRICS = {0, 1, 2, _TIFF_PALETTE, 4}
_TIFF_DESCRIPTION = 270
_TIFF_WIDTH = 256
_TIFF_HEIGHT = 257
_TIFF_SAMPLES = 277
_TIFF_NUMBERS = {_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_SAMPLES, 278, 322, 323, 32997, 32998}  # rows, tiles, depths
_TIFF_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_TIFF_ALL_ENTRIES = 4096
# What tifffile raised on damaged files: its own errors are ValueErrors, those of its C decoders RuntimeErrors, and a
# decoder that is not installed is an ImportError. Tags of unexpected types end in any of the others.
_TIFF_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    ImportError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


class _TiffTable(NamedTuple):
    """Where the directory of each page starts, and how many pages ImageJ appended to the only one (1: none)."""

    offsets: tuple[int, ...]
    stacked: int

    @property
    def pages(self) -> int:
        return max(len(self.offsets), self.stacked)


class _TiffLayout(NamedTuple):
    """The struct formats of the classic and of the big variant of TIFF."""

    order: str
    entries: struct.Struct  # how many entries a directory has
    entry: struct.Struct  # tag, type, count, value or its offset
    offset: struct.Struct


def _tiff_table(path: str) -> _TiffTable:
    status = regular(path)
    return _tiff_table_of(path, status.size, status.changed_ns)


@functools.lru_cache(maxsize=64)
def _tiff_table_of(path: str, size: int, mtime_ns: int) -> _TiffTable:
    """Follows the chain of directories; kept, because reading page n would follow it anew up to n."""
    with opened(path) as file, decoding(path, "TIFF", (OSError,)):
        layout, offset = _tiff_start(path, file.read(16))
        offsets: dict[int, None] = {}
        while offset:
            if offset in offsets or offset >= size:
                seen = "goes in a circle" if offset in offsets else f"leads to byte {offset} of {size}"
                raise damaged(path, "TIFF", f"its chain of pages {seen} after page {len(offsets) - 1}")
            offsets[offset] = None
            offset = _tiff_next(path, file, layout, offset)
        if not offsets:
            raise damaged(path, "TIFF", "it has no pages")
        stacked = _tiff_stacked(path, file, layout, next(iter(offsets)), size) if len(offsets) == 1 else 1
    return _TiffTable(tuple(offsets), stacked)


def _tiff_start(path: str, head: bytes) -> tuple[_TiffLayout, int]:
    """The layout of the file and the offset of its first directory."""
    require_kind(path, head, "TIFF")
    if len(head) < 16:
        raise damaged(path, "TIFF", "it is cut short within the header")
    order = "<" if head[:2] == b"II" else ">"
    if head[2:4] in (b"*\0", b"\0*"):
        layout = _TiffLayout(order, *(struct.Struct(order + form) for form in ("H", "HHI4s", "I")))
        return layout, layout.offset.unpack(head[4:8])[0]
    layout = _TiffLayout(order, *(struct.Struct(order + form) for form in ("Q", "HHQ8s", "Q")))
    return layout, layout.offset.unpack(head[8:16])[0]


def _tiff_entries(path: str, file: BinaryIO, layout: _TiffLayout, offset: int) -> tuple[bytes, int]:
    """The entries of the directory at `offset`, and the offset of the next one."""
    file.seek(offset)
    head = file.read(layout.entries.size)
    count = layout.entries.unpack(head)[0] if len(head) == layout.entries.size else 0
    if not 1 <= count <= _TIFF_ALL_ENTRIES:
        raise damaged(path, "TIFF", f"no directory of a page at byte {offset}")
    data = file.read(count * layout.entry.size + layout.offset.size)
    if len(data) < count * layout.entry.size + layout.offset.size:
        raise damaged(path, "TIFF", f"it is cut short within the directory at byte {offset}")
    return data[: -layout.offset.size], layout.offset.unpack(data[-layout.offset.size :])[0]


def _tiff_next(path: str, file: BinaryIO, layout: _TiffLayout, offset: int) -> int:
    """Checks the numbers of the directory at `offset` that tifffile trusts, and gives the offset of the next one."""
    data, following = _tiff_entries(path, file, layout, offset)
    numbers: dict[int, int] = {}
    for tag, kind, count, value in layout.entry.iter_unpack(data):
        if tag in _TIFF_NUMBERS:
            form = _TIFF_INTEGERS.get(kind)
            if form is None or count != 1 or struct.calcsize(form) > len(value):
                raise damaged(path, "TIFF", f"tag {tag} in the directory at byte {offset} is not a whole number")
            number = struct.unpack_from(layout.order + form, value)[0]
            numbers[tag] = max(number, numbers.get(tag, 0))
    require_size(path, (numbers.get(_TIFF_HEIGHT, 0), numbers.get(_TIFF_WIDTH, 0), numbers.get(_TIFF_SAMPLES, 1)))
    return following


def _tiff_stacked(path: str, file: BinaryIO, layout: _TiffLayout, offset: int, size: int) -> int:
    """The number of pages that the description of a file with one directory speaks of.

    ImageJ writes stacks of more than 4 GB as one directory, followed by the pixels of all pages.
    """
    entries = layout.entry.iter_unpack(_tiff_entries(path, file, layout, offset)[0])
    length, value = next(((count, value) for tag, _, count, value in entries if tag == _TIFF_DESCRIPTION), (0, b""))
    if length <= len(value):  # too short to say anything, as it stands in the entry itself
        return 1
    at = layout.offset.unpack(value)[0]
    if at >= size:
        raise damaged(path, "TIFF", f"its description leads to byte {at} of {size}")
    file.seek(at)
    text = file.read(min(length, 4096))
    if b'"truncated": true' in text and b'"shape"' in text:
        raise not_supported(path, "a TIFF whose pages share one directory", "one directory for each page")
    images = re.search(rb"^images=(\d{1,9})\b", text, re.MULTILINE) if text.startswith(b"ImageJ=") else None
    return max(int(images[1]), 1) if images else 1


@contextlib.contextmanager
def _tiff_page(path: str, page: int) -> Iterator[tuple[tifffile.TiffPage, int]]:
    """The checked directory of the page, in an open file, and the page's place in an ImageJ stack (else 0)."""
    table = _tiff_table(path)
    require_page(path, page, table.pages)
    place = page if table.stacked > 1 else 0
    with opened(path) as file, _silent(), decoding(path, "TIFF", _TIFF_ERRORS), tifffile.TiffFile(file) as tiff:
        tiff.filehandle.seek(table.offsets[page - place])
        directory = tifffile.TiffPage(tiff, page - place)
        _require_tiff(path, directory, tiff.filehandle.size, place)
        yield directory, place


def _require_tiff(path: str, page: tifffile.TiffPage, size: int, place: int) -> None:
    """Refuses what cannot be read, before memory is set aside for it."""
    require_size(path, page.shape or (0, 0))
    if page.dtype is None or page.dtype.kind not in "buif" or page.imagedepth != 1:
        raise not_supported(
            path,
            f"a TIFF of sample format {page.sampleformat}, {page.bitspersample} bits and depth {page.imagedepth}",
            "integers or floats of 1 to 64 bits and depth 1",
        )
    if page.compression not in _TIFF_COMPRESSIONS:
        raise not_supported(path, f"a TIFF of compression {int(page.compression)}", _TIFF_COMPRESSIONS_NAMED)
    if page.photometric not in _TIFF_PHOTOMETRICS and (page.photometric, page.compression) != (_TIFF_YCBCR, _TIFF_JPEG):
        raise not_supported(path, f"a TIFF of photometric {int(page.photometric)}", "grey, RGB or a palette")
    _require_blocks(path, page, size)
    if place:
        last = page.dataoffsets[0] + (place + 1) * page.nbytes
        if not page.is_contiguous or page.predictor != 1 or page.fillorder != 1 or last > size:
            raise damaged(path, "TIFF", f"page {place} of its ImageJ stack is not there")


def _require_blocks(path: str, page: tifffile.TiffPage, size: int) -> None:
    """Checks the strips or tiles: tifffile fills missing ones with zeros and trusts the sizes of the others."""
    require_size(path, page.chunks)
    blocks = math.prod(page.chunked)
    if len(page.dataoffsets) != blocks or len(page.databytecounts) != blocks:
        raise damaged(path, "TIFF", f"it has {len(page.dataoffsets)} blocks of pixels instead of {blocks}")
    raw = math.prod(page.chunks) * page.dtype.itemsize if page.dtype else 0
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset < 1 or length < 1 or offset + length > size:
            raise damaged(path, "TIFF", f"pixels are missing: {length} bytes at byte {offset} of {size}")
        if length > 2 * raw + 65536:
            raise damaged(path, "TIFF", f"a block of {length} bytes cannot hold {raw} bytes of pixels")


def count_pages(path: str) -> int:
    """The number of pages. Raises `BadInput`."""
    return _tiff_table(path).pages


def page_shape(path: str, page: int, indices: bool) -> Shape:
    """The shape of a page, from headers alone. Raises `BadInput`."""
    with _tiff_page(path, page) as (directory, _):
        shape = _channels_last(directory.shape, directory.axes)
        coloured = directory.photometric == _TIFF_PALETTE and not indices
        return (*shape, 3) if coloured else shape


def _channels_last(shape: Shape, axes: str) -> Shape:
    if axes == "SYX":
        shape = (*shape[1:], shape[0])
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else shape


def read_page(path: str, page: int, indices: bool) -> Array:
    """The pixels of a page; see `data.images.read_page`. Raises `BadInput`."""
    with _tiff_page(path, page) as (directory, place):
        pixels = _tiff_stack_page(directory, place) if place else directory.asarray(maxworkers=1)
        if pixels.shape != directory.shape:
            raise damaged(path, "TIFF", f"its header says {words(directory.shape)}, its pixels {words(pixels.shape)}")
        if directory.axes == "SYX":
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
        if directory.photometric == _TIFF_PALETTE and not indices:
            return coloured(path, pixels, _tiff_palette(path, directory))
    return pixels.reshape(_channels_last(pixels.shape, "YXS"))


def _tiff_stack_page(page: tifffile.TiffPage, place: int) -> Array:
    assert page.dtype is not None
    file = page.parent.filehandle
    file.seek(page.dataoffsets[0] + place * page.nbytes)
    pixels = np.frombuffer(file.read(page.nbytes), page.dtype.newbyteorder(page.parent.byteorder))
    return pixels.reshape(page.shape).astype(page.dtype, copy=False)


def _tiff_palette(path: str, page: tifffile.TiffPage) -> bytes:
    """The palette as red, green and blue bytes; TIFF holds 16 bits of each, some old writers only 8."""
    if page.colormap is None:
        raise damaged(path, "TIFF", "it has no palette")
    colours = np.asarray(page.colormap).reshape(3, -1).T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).tobytes()


_quiet = threading.local()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps tifffile from logging about damage in this thread: what matters of it becomes an error."""
    _quiet.on = True
    try:
        yield
    finally:
        _quiet.on = False


def _audible(record: logging.LogRecord) -> bool:
    return not getattr(_quiet, "on", False)


tifffile.logger().addFilter(_audible)
