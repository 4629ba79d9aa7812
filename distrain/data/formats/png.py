"""PNG: every chunk's checksum is verified, Pillow decodes."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import PngImagePlugin

from distrain.data.formats.files import (
    Array,
    Shape,
    coloured,
    damaged,
    decoding,
    loaded,
    not_supported,
    require_kind,
    require_page,
    require_size,
)
from distrain.data.storage import opened

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
    require_kind(path, head, "PNG")
    if len(head) < 33:
        raise damaged(path, "PNG", "it is cut short within the header")
    length, name, width, height, bits, colour, compression, filtering, interlace, checksum = struct.unpack(
        ">I4sIIBBBBBI", head[8:33]
    )
    if length != 13 or name != b"IHDR" or zlib.crc32(head[12:29]) != checksum:
        raise damaged(path, "PNG", "its header does not match its checksum")
    if (bits, colour) == (16, 4):
        raise not_supported(path, "a 16-bit grey PNG with an alpha channel", "one without alpha")
    if (bits, colour) not in _PNG_CHANNELS or compression or filtering or interlace > 1:
        raise damaged(path, "PNG", f"its header has unknown values: {bits} bits, colour type {colour}")
    header = _Png(height, width, bits, colour)
    require_size(path, header.shape(indices=False))
    return header


def page_shape(path: str, page: int, indices: bool) -> Shape:
    """The shape of a page, from headers alone. Raises `BadInput`."""
    require_page(path, page, 1)
    with opened(path) as file, decoding(path, "PNG", (OSError,)):
        return _png_header(path, file.read(33)).shape(indices)


def read_page(path: str, page: int, indices: bool) -> Array:
    """The pixels of a page; see `data.images.read_page`. Raises `BadInput`."""
    require_page(path, page, 1)
    with opened(path) as file:
        return decode(path, file, indices)


def decode(path: str, file: BinaryIO, indices: bool) -> Array:
    """The pixels of an open file, which errors call `path`. Raises `BadInput`."""
    with decoding(path, "PNG", _PNG_ERRORS):
        head = file.read(33)
        header = _png_header(path, head)
        needed, palette = _png_chunks(path, head + file.read())
        if math.prod(header.shape(indices=True)) * header.bits > 8 * _PNG_MOST * len(needed):
            raise damaged(
                path, "PNG", f"{len(needed)} bytes cannot hold the {header.height} x {header.width} it claims"
            )
        if header.colour == _PNG_PALETTE and not indices:
            return coloured(path, loaded(_png_image(needed)), palette)
        if header.bits == 16 and header.colour != 0:
            return _png_deep(needed, header)
        pixels = loaded(_png_image(needed))
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
            raise damaged(path, "PNG", f"it is cut short at byte {len(data)}")
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            raise damaged(path, "PNG", f"it is cut short at byte {len(data)}")
        if zlib.crc32(view[start + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise damaged(path, "PNG", f"the chunk at byte {start} does not match its checksum")
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
    return loaded(image)
