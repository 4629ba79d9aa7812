"""JPEG: segments are checked, notes left out, Pillow decodes."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

from PIL import JpegImagePlugin

from distrain.data.formats.files import (
    Array,
    Shape,
    damaged,
    decoding,
    loaded,
    not_supported,
    require_kind,
    require_page,
    require_size,
    words,
)
from distrain.data.storage import opened

_JPEG_SCAN = 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Notes (Exif, profiles, comments), which Pillow would parse and warn about. JFIF and Adobe's tell the colour space.
_JPEG_NOTES = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}
# What Pillow raised on damaged files.
_JPEG_ERRORS = (OSError, SyntaxError, ValueError)


def _jpeg_segments(path: str, file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment up to the first scan, whose pixels follow it."""
    start, marker = 2, 0
    while marker != _JPEG_SCAN:
        file.seek(start)
        head = file.read(4)
        if len(head) < 4:
            raise damaged(path, "JPEG", "it is cut short before its pixels")
        if head[0] != 0xFF:
            raise damaged(path, "JPEG", f"no segment starts at byte {start}")
        if head[1] == 0xFF:  # a fill byte
            start += 1
            continue
        marker, end = head[1], start + 2 + int.from_bytes(head[2:], "big")
        yield marker, start, end
        start = end


def _jpeg_frame(path: str, frame: bytes) -> Shape:
    """The shape from the segment that starts the frame."""
    if len(frame) < 10:
        raise damaged(path, "JPEG", "it is cut short within the header")
    bits, height, width, channels = struct.unpack(">BHHB", frame[4:10])
    if bits != 8 or channels not in (1, 3):
        raise not_supported(path, f"a JPEG of {bits} bits and {channels} channels", "8 bits and 1 or 3 channels")
    shape = (height, width) if channels == 1 else (height, width, channels)
    require_size(path, shape)
    return shape


def _jpeg_header(path: str, file: BinaryIO) -> tuple[Shape, list[tuple[int, int]]]:
    """The shape, and the spans of the file that the pixels need up to the first scan."""
    require_kind(path, file.read(8), "JPEG")
    shape, spans = None, [(0, 2)]
    for marker, start, end in _jpeg_segments(path, file):
        if marker in _JPEG_FRAMES:
            file.seek(start)
            shape = _jpeg_frame(path, file.read(10))
        if marker not in _JPEG_NOTES and marker != _JPEG_SCAN:
            spans.append((start, end))
    if shape is None:
        raise damaged(path, "JPEG", "it has no frame header")
    return shape, [*spans, (start, -1)]


def page_shape(path: str, page: int, indices: bool) -> Shape:
    """The shape of a page, from headers alone. Raises `BadInput`."""
    require_page(path, page, 1)
    with opened(path) as file, decoding(path, "JPEG", (OSError,)):
        return _jpeg_header(path, file)[0]


def read_page(path: str, page: int, indices: bool) -> Array:
    """The pixels of a page; see `data.images.read_page`. Raises `BadInput`."""
    require_page(path, page, 1)
    with opened(path) as file:
        return decode(path, file, indices)


def decode(path: str, file: BinaryIO, indices: bool) -> Array:
    """The pixels of an open file, which errors call `path`. Raises `BadInput`."""
    with decoding(path, "JPEG", _JPEG_ERRORS):
        shape, spans = _jpeg_header(path, file)
        file.seek(0)
        data = file.read()
        needed = b"".join(data[start : end if end >= 0 else None] for start, end in spans)
        pixels = loaded(JpegImagePlugin.JpegImageFile(io.BytesIO(needed)))
    if pixels.shape != shape:
        raise damaged(path, "JPEG", f"its header says {words(shape)}, its pixels {words(pixels.shape)}")
    return pixels
