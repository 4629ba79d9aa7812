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

import contextlib
import functools
import io
import logging
import lzma
import math
import os
import re
import stat
import struct
import threading
import tokenize
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import ImageFile, JpegImagePlugin, PngImagePlugin

from distrain.errors import BadInput

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

# A page of more samples (height x width x channels) is refused as a decompression bomb: 16384 x 16384 greys pass.
MAX_SAMPLES = 1 << 28


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


def is_image(path: str) -> bool:
    """Whether the ending of the name is one that this module reads."""
    return _ending(path) in _FORMATS


def has_one_page(path: str) -> bool:
    """Whether the ending alone says that the file has one page, so that it need not be opened to count."""
    return _ending(path) in _FORMATS and _FORMATS[_ending(path)].pages is _one_page


def shown(path: str) -> str:
    """The path as error messages show it: quoted only where it would break the line."""
    return path if path.isprintable() else ascii(path)


def words(shape: Shape) -> str:
    """A shape as error messages show it, for example `512 x 512 x 3`."""
    return " x ".join(str(length) for length in shape)


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
        _regular(path)
        seen = f"the ending '{ending}'" if ending else "no ending"
        raise BadInput(f"{shown(path)}: has {seen}, expected one of {', '.join(sorted(_FORMATS))}")
    return _FORMATS[ending]


# --- files ---


def _regular(path: str) -> os.stat_result:
    """Checks that a non-empty ordinary file is there; opening a pipe, for one, would wait for ever."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise BadInput(f"{shown(path)}: no such file, expected an image") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{shown(path)}: is a folder, expected an image file")
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{shown(path)}: is not an ordinary file, expected an image file")
    if status.st_size == 0:
        raise BadInput(f"{shown(path)}: is empty (0 bytes), expected an image")
    return status


def _unreadable(path: str, error: Exception) -> BadInput:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else _line(error)
    return BadInput(f"{shown(path)}: cannot be read ({reason}), expected a readable image file")


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    _regular(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed by the `with` below; only opening itself may fail here)
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        yield file


@contextlib.contextmanager
def _decoding(path: str, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns the errors of a decoder into one line."""
    try:
        yield
    except BadInput:
        raise
    except errors as error:
        if "requires the 'imagecodecs' package" in str(error) or isinstance(error, ImportError):
            seen = f"a {kind} file compressed so that the Python package imagecodecs is needed to decode it"
            raise _not_supported(
                path, seen, "that package, which is not installed, or no or Deflate compression"
            ) from error
        raise _damaged(path, kind, _line(error)) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    # These are the decoder stumbling, with a text that speaks of its own variables.
    stumbled = isinstance(error, TypeError | LookupError | AttributeError | ArithmeticError)
    return f"its header makes no sense: {text}" if stumbled else text


def _damaged(path: str, kind: str, seen: str) -> BadInput:
    return BadInput(f"{shown(path)}: cannot be decoded ({seen}), expected an undamaged {kind} file")


def _not_supported(path: str, seen: str, expected: str) -> BadInput:
    return BadInput(f"{shown(path)}: is {seen}, expected {expected}")


_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"\x93NUMPY": "NPY",
    b"PK\x03\x04": "ZIP or NPZ",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\x89HDF": "HDF5",
}


def _require_kind(path: str, head: bytes, kind: str) -> None:
    """Checks by its first bytes that a file is what its ending says."""
    found = next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)
    if found != kind:
        seen = f"looks like a {found} file" if found else f"starts with {head[:8]!r}"
        raise BadInput(f"{shown(path)}: {seen}, expected a {kind} file as its ending says")


def _require_size(path: str, shape: Shape) -> None:
    if min(shape) < 1:
        raise BadInput(f"{shown(path)}: has an image of {words(shape)}, expected at least one pixel")
    if math.prod(shape) > MAX_SAMPLES:
        raise BadInput(
            f"{shown(path)}: claims an image of {words(shape)}, expected at most {MAX_SAMPLES} samples "
            "(height x width x channels): damaged, a decompression bomb, or to be cut into tiles first"
        )


def _require_page(path: str, page: int, pages: int) -> None:
    if not 0 <= page < pages:
        raise BadInput(f"{shown(path)}: has {pages} pages, expected a page {page} (counted from 0) too")


def _one_page(path: str) -> int:
    _regular(path)
    return 1


def _pixels(image: ImageFile.ImageFile) -> Array:
    image.load()
    return np.asarray(image)


# --- PNG ---

# (bits of a sample, colour type) -> channels; a palette has one channel of indices.
_PNG_CHANNELS = {(bits, 0): 1 for bits in (1, 2, 4, 8, 16)} | {(bits, 3): 1 for bits in (1, 2, 4, 8)}
_PNG_CHANNELS |= {(8, 2): 3, (16, 2): 3, (8, 4): 2, (8, 6): 4, (16, 6): 4}
_PNG_PALETTE = 3
_PNG_START = 8  # of the first chunk, after the signature
_PNG_MOST = 1032  # bytes of pixels that one byte compressed by Deflate may give
_PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# What Pillow raised on damaged files.
_PNG_ERRORS = (OSError, SyntaxError, ValueError)


class _Png(NamedTuple):
    height: int
    width: int
    bits: int
    colour: int

    def shape(self, indices: bool) -> Shape:
        channels = 3 if self.colour == _PNG_PALETTE and not indices else _PNG_CHANNELS[self.bits, self.colour]
        return (self.height, self.width) if channels == 1 else (self.height, self.width, channels)


def _png_header(path: str, head: bytes) -> _Png:
    """Reads the first 33 bytes: signature, length, name, fields and checksum of the header chunk."""
    _require_kind(path, head, "PNG")
    if len(head) < 33:
        raise _damaged(path, "PNG", "it is cut short within the header")
    length, name, width, height, bits, colour, compression, filtering, interlace, checksum = struct.unpack(
        ">I4sIIBBBBBI", head[8:33]
    )
    if length != 13 or name != b"IHDR" or zlib.crc32(head[12:29]) != checksum:
        raise _damaged(path, "PNG", "its header does not match its checksum")
    if (bits, colour) == (16, 4):
        raise _not_supported(path, "a 16-bit grey PNG with an alpha channel", "one without alpha")
    if (bits, colour) not in _PNG_CHANNELS or compression or filtering or interlace > 1:
        raise _damaged(path, "PNG", f"its header has unknown values: {bits} bits, colour type {colour}")
    header = _Png(height, width, bits, colour)
    _require_size(path, header.shape(indices=False))
    return header


def _png_shape(path: str, page: int, indices: bool) -> Shape:
    _require_page(path, page, 1)
    with _opened(path) as file, _decoding(path, "PNG", (OSError,)):
        return _png_header(path, file.read(33)).shape(indices)


def _png_read(path: str, page: int, indices: bool) -> Array:
    _require_page(path, page, 1)
    with _opened(path) as file, _decoding(path, "PNG", _PNG_ERRORS):
        head = file.read(33)
        header = _png_header(path, head)
        needed, palette = _png_chunks(path, head + file.read())
        if math.prod(header.shape(indices=True)) * header.bits > 8 * _PNG_MOST * len(needed):
            raise _damaged(
                path, "PNG", f"{len(needed)} bytes cannot hold the {header.height} x {header.width} it claims"
            )
        if header.colour == _PNG_PALETTE and not indices:
            return _coloured(path, _pixels(_png_image(needed)), palette)
        if header.bits == 16 and header.colour != 0:
            return _png_deep(needed, header)
        pixels = _pixels(_png_image(needed))
        # Pillow stretches 2 and 4 bits of grey to 0..255, which would turn the label 1 into 85.
        return pixels // (255 // (2**header.bits - 1)) if header.colour == 0 and header.bits in (2, 4) else pixels


def _png_chunks(path: str, data: bytes) -> tuple[bytes, bytes]:
    """The file without the chunks that pixels do not need, and its palette; checks every chunk.

    Pillow does not verify the checksums of the pixels, and warns on the screen about some of the chunks left out here.
    """
    kept, palette, start, name = [data[:_PNG_START]], b"", _PNG_START, b""
    view = memoryview(data)
    while name != b"IEND":
        if start + 12 > len(data):
            raise _damaged(path, "PNG", f"it is cut short at byte {len(data)}")
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise _damaged(path, "PNG", f"it is cut short at byte {len(data)}")
        if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise _damaged(path, "PNG", f"the chunk at byte {start} does not match its checksum")
        if name in _PNG_KEPT:
            kept.append(data[start:end])
        if name == b"PLTE":
            palette = data[start + 8 : end - 4]
        start = end
    return b"".join(kept), palette


def _png_image(data: bytes) -> PngImagePlugin.PngImageFile:
    # Not Image.open: that warns about large images instead of refusing them, and tries other formats.
    return PngImagePlugin.PngImageFile(io.BytesIO(data))


def _png_deep(data: bytes, header: _Png) -> Array:
    """16-bit colours, of which Pillow keeps the high bytes only: they are decoded once for each of the two bytes."""
    mode = "RGB" if _PNG_CHANNELS[header.bits, header.colour] == 3 else "RGBA"
    high, low = (_png_bytes(data, f"{mode};16{order}") for order in "BL")
    return high.astype(np.uint16) << 8 | low


def _png_bytes(data: bytes, packing: str) -> Array:
    image = _png_image(data)
    image.tile = [tile._replace(args=packing) for tile in image.tile]
    return _pixels(image)


def _coloured(path: str, pixels: Array, palette: bytes) -> Array:
    colours = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
    if pixels.max() >= len(colours):
        raise BadInput(
            f"{shown(path)}: has the palette index {pixels.max()}, expected less than its palette's {len(colours)}"
        )
    return colours[pixels]


# --- JPEG ---

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
            raise _damaged(path, "JPEG", "it is cut short before its pixels")
        if head[0] != 0xFF:
            raise _damaged(path, "JPEG", f"no segment starts at byte {start}")
        if head[1] == 0xFF:  # a fill byte
            start += 1
            continue
        marker, end = head[1], start + 2 + int.from_bytes(head[2:], "big")
        yield marker, start, end
        start = end


def _jpeg_frame(path: str, frame: bytes) -> Shape:
    """The shape from the segment that starts the frame."""
    if len(frame) < 10:
        raise _damaged(path, "JPEG", "it is cut short within the header")
    bits, height, width, channels = struct.unpack(">BHHB", frame[4:10])
    if bits != 8 or channels not in (1, 3):
        raise _not_supported(path, f"a JPEG of {bits} bits and {channels} channels", "8 bits and 1 or 3 channels")
    shape = (height, width) if channels == 1 else (height, width, channels)
    _require_size(path, shape)
    return shape


def _jpeg_header(path: str, file: BinaryIO) -> tuple[Shape, list[tuple[int, int]]]:
    """The shape, and the spans of the file that the pixels need up to the first scan."""
    _require_kind(path, file.read(8), "JPEG")
    shape, spans = None, [(0, 2)]
    for marker, start, end in _jpeg_segments(path, file):
        if marker in _JPEG_FRAMES:
            file.seek(start)
            shape = _jpeg_frame(path, file.read(10))
        if marker not in _JPEG_NOTES and marker != _JPEG_SCAN:
            spans.append((start, end))
    if shape is None:
        raise _damaged(path, "JPEG", "it has no frame header")
    return shape, [*spans, (start, -1)]


def _jpeg_shape(path: str, page: int, indices: bool) -> Shape:
    _require_page(path, page, 1)
    with _opened(path) as file, _decoding(path, "JPEG", (OSError,)):
        return _jpeg_header(path, file)[0]


def _jpeg_read(path: str, page: int, indices: bool) -> Array:
    _require_page(path, page, 1)
    with _opened(path) as file, _decoding(path, "JPEG", _JPEG_ERRORS):
        shape, spans = _jpeg_header(path, file)
        file.seek(0)
        data = file.read()
        needed = b"".join(data[start : end if end >= 0 else None] for start, end in spans)
        pixels = _pixels(JpegImagePlugin.JpegImageFile(io.BytesIO(needed)))
    if pixels.shape != shape:
        raise _damaged(path, "JPEG", f"its header says {words(shape)}, its pixels {words(pixels.shape)}")
    return pixels


# --- TIFF ---

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
    status = _regular(path)
    return _tiff_table_of(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _tiff_table_of(path: str, size: int, mtime_ns: int) -> _TiffTable:
    """Follows the chain of directories; kept, because reading page n would follow it anew up to n."""
    with _opened(path) as file, _decoding(path, "TIFF", (OSError,)):
        layout, offset = _tiff_start(path, file.read(16))
        offsets: dict[int, None] = {}
        while offset:
            if offset in offsets or offset >= size:
                seen = "goes in a circle" if offset in offsets else f"leads to byte {offset} of {size}"
                raise _damaged(path, "TIFF", f"its chain of pages {seen} after page {len(offsets) - 1}")
            offsets[offset] = None
            offset = _tiff_next(path, file, layout, offset)
        if not offsets:
            raise _damaged(path, "TIFF", "it has no pages")
        stacked = _tiff_stacked(path, file, layout, next(iter(offsets)), size) if len(offsets) == 1 else 1
    return _TiffTable(tuple(offsets), stacked)


def _tiff_start(path: str, head: bytes) -> tuple[_TiffLayout, int]:
    """The layout of the file and the offset of its first directory."""
    _require_kind(path, head, "TIFF")
    if len(head) < 16:
        raise _damaged(path, "TIFF", "it is cut short within the header")
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
        raise _damaged(path, "TIFF", f"no directory of a page at byte {offset}")
    data = file.read(count * layout.entry.size + layout.offset.size)
    if len(data) < count * layout.entry.size + layout.offset.size:
        raise _damaged(path, "TIFF", f"it is cut short within the directory at byte {offset}")
    return data[: -layout.offset.size], layout.offset.unpack(data[-layout.offset.size :])[0]


def _tiff_next(path: str, file: BinaryIO, layout: _TiffLayout, offset: int) -> int:
    """Checks the numbers of the directory at `offset` that tifffile trusts, and gives the offset of the next one."""
    data, following = _tiff_entries(path, file, layout, offset)
    numbers: dict[int, int] = {}
    for tag, kind, count, value in layout.entry.iter_unpack(data):
        if tag in _TIFF_NUMBERS:
            form = _TIFF_INTEGERS.get(kind)
            if form is None or count != 1 or struct.calcsize(form) > len(value):
                raise _damaged(path, "TIFF", f"tag {tag} in the directory at byte {offset} is not a whole number")
            number = struct.unpack_from(layout.order + form, value)[0]
            numbers[tag] = max(number, numbers.get(tag, 0))
    _require_size(path, (numbers.get(_TIFF_HEIGHT, 0), numbers.get(_TIFF_WIDTH, 0), numbers.get(_TIFF_SAMPLES, 1)))
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
        raise _damaged(path, "TIFF", f"its description leads to byte {at} of {size}")
    file.seek(at)
    text = file.read(min(length, 4096))
    if b'"truncated": true' in text and b'"shape"' in text:
        raise _not_supported(path, "a TIFF whose pages share one directory", "one directory for each page")
    images = re.search(rb"^images=(\d{1,9})\b", text, re.MULTILINE) if text.startswith(b"ImageJ=") else None
    return max(int(images[1]), 1) if images else 1


@contextlib.contextmanager
def _tiff_page(path: str, page: int) -> Iterator[tuple[tifffile.TiffPage, int]]:
    """The checked directory of the page, in an open file, and the page's place in an ImageJ stack (else 0)."""
    table = _tiff_table(path)
    _require_page(path, page, table.pages)
    place = page if table.stacked > 1 else 0
    with _opened(path) as file, _silent(), _decoding(path, "TIFF", _TIFF_ERRORS), tifffile.TiffFile(file) as tiff:
        tiff.filehandle.seek(table.offsets[page - place])
        directory = tifffile.TiffPage(tiff, page - place)
        _require_tiff(path, directory, tiff.filehandle.size, place)
        yield directory, place


def _require_tiff(path: str, page: tifffile.TiffPage, size: int, place: int) -> None:
    """Refuses what cannot be read, before memory is set aside for it."""
    _require_size(path, page.shape or (0, 0))
    if page.dtype is None or page.dtype.kind not in "buif" or page.imagedepth != 1:
        raise _not_supported(
            path,
            f"a TIFF of sample format {page.sampleformat}, {page.bitspersample} bits and depth {page.imagedepth}",
            "integers or floats of 1 to 64 bits and depth 1",
        )
    if page.compression not in _TIFF_COMPRESSIONS:
        raise _not_supported(path, f"a TIFF of compression {int(page.compression)}", _TIFF_COMPRESSIONS_NAMED)
    if page.photometric not in _TIFF_PHOTOMETRICS and (page.photometric, page.compression) != (_TIFF_YCBCR, _TIFF_JPEG):
        raise _not_supported(path, f"a TIFF of photometric {int(page.photometric)}", "grey, RGB or a palette")
    _require_blocks(path, page, size)
    if place:
        last = page.dataoffsets[0] + (place + 1) * page.nbytes
        if not page.is_contiguous or page.predictor != 1 or page.fillorder != 1 or last > size:
            raise _damaged(path, "TIFF", f"page {place} of its ImageJ stack is not there")


def _require_blocks(path: str, page: tifffile.TiffPage, size: int) -> None:
    """Checks the strips or tiles: tifffile fills missing ones with zeros and trusts the sizes of the others."""
    _require_size(path, page.chunks)
    blocks = math.prod(page.chunked)
    if len(page.dataoffsets) != blocks or len(page.databytecounts) != blocks:
        raise _damaged(path, "TIFF", f"it has {len(page.dataoffsets)} blocks of pixels instead of {blocks}")
    raw = math.prod(page.chunks) * page.dtype.itemsize if page.dtype else 0
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if offset < 1 or length < 1 or offset + length > size:
            raise _damaged(path, "TIFF", f"pixels are missing: {length} bytes at byte {offset} of {size}")
        if length > 2 * raw + 65536:
            raise _damaged(path, "TIFF", f"a block of {length} bytes cannot hold {raw} bytes of pixels")


def _tiff_count(path: str) -> int:
    return _tiff_table(path).pages


def _tiff_shape(path: str, page: int, indices: bool) -> Shape:
    with _tiff_page(path, page) as (directory, _):
        shape = _channels_last(directory.shape, directory.axes)
        coloured = directory.photometric == _TIFF_PALETTE and not indices
        return (*shape, 3) if coloured else shape


def _channels_last(shape: Shape, axes: str) -> Shape:
    if axes == "SYX":
        shape = (*shape[1:], shape[0])
    return shape[:2] if len(shape) == 3 and shape[2] == 1 else shape


def _tiff_read(path: str, page: int, indices: bool) -> Array:
    with _tiff_page(path, page) as (directory, place):
        pixels = _tiff_stack_page(directory, place) if place else directory.asarray(maxworkers=1)
        if pixels.shape != directory.shape:
            raise _damaged(path, "TIFF", f"its header says {words(directory.shape)}, its pixels {words(pixels.shape)}")
        if directory.axes == "SYX":
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
        if directory.photometric == _TIFF_PALETTE and not indices:
            return _coloured(path, pixels, _tiff_palette(path, directory))
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
        raise _damaged(path, "TIFF", "it has no palette")
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


# --- NPY ---

_NPY_LONGEST_HEADER = 512  # several times what an array of numbers needs, too short to exhaust Python's parser
# What NumPy raised on damaged files; its parser of headers hands a damaged one to Python's tokenizer.
_NPY_ERRORS = (OSError, ValueError, TypeError, SyntaxError, ArithmeticError, RecursionError, tokenize.TokenError)


def _npy_map(path: str) -> Array:
    """The whole array, mapped into memory: only the pages that are read take any."""
    _regular(path)
    with _opened(path) as file:
        _require_kind(path, file.read(8), "NPY")
    with _decoding(path, "numeric NPY", _NPY_ERRORS):
        array = np.lib.format.open_memmap(path, mode="r", max_header_size=_NPY_LONGEST_HEADER)
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise _not_supported(path, f"an array of dtype {array.dtype}", "bool, integers or floats of at most 64 bits")
    if array.ndim not in (2, 3, 4):
        raise _not_supported(
            path, f"an array of {array.ndim} dimensions", "2 (height, width), 3 or 4 (pages, height, width, channels)"
        )
    if array.size == 0:
        raise BadInput(f"{shown(path)}: has an array of {words(array.shape)}, expected at least one pixel")
    _require_size(path, _npy_page_shape(array.shape))
    return array


def _npy_pages(shape: Shape) -> int:
    """1 for (height, width) and (height, width, 1, 3 or 4), else the first length."""
    return 1 if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) else shape[0]


def _npy_page_shape(shape: Shape) -> Shape:
    page = shape if len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3, 4)) else shape[1:]
    return page[:2] if len(page) == 3 and page[2] == 1 else page


def _npy_count(path: str) -> int:
    return _npy_pages(_npy_map(path).shape)


def _npy_shape(path: str, page: int, indices: bool) -> Shape:
    array = _npy_map(path)
    _require_page(path, page, _npy_pages(array.shape))
    return _npy_page_shape(array.shape)


def _npy_read(path: str, page: int, indices: bool) -> Array:
    array = _npy_map(path)
    pages, shape = _npy_pages(array.shape), _npy_page_shape(array.shape)
    _require_page(path, page, pages)
    whole = array.size == math.prod(shape)
    return np.array(array if whole else array[page], array.dtype.newbyteorder("="), order="C").reshape(shape)


_FORMATS = {
    ".png": _Format(_one_page, _png_shape, _png_read),
    ".jpg": _Format(_one_page, _jpeg_shape, _jpeg_read),
    ".jpeg": _Format(_one_page, _jpeg_shape, _jpeg_read),
    ".tif": _Format(_tiff_count, _tiff_shape, _tiff_read),
    ".tiff": _Format(_tiff_count, _tiff_shape, _tiff_read),
    ".npy": _Format(_npy_count, _npy_shape, _npy_read),
}
ENDINGS = tuple(_FORMATS)
