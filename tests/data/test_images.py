"""Decoding: values as in the file, pages as documented, and no damage that gets past as anything but `BadInput`."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import random
import re
import struct
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from distrain.data.formats.files import MAX_SAMPLES
from distrain.data.images import count_pages, has_one_page, is_image, page_shape, read_page
from distrain.errors import BadInput

Array = npt.NDArray[Any]

needs_imagecodecs = pytest.mark.skipif(
    importlib.util.find_spec("imagecodecs") is None, reason="the package imagecodecs is not installed"
)


def _pixels(dtype: str, *shape: int) -> Array:
    """Values over the whole range of an integer dtype, or fractions and negative numbers for a float."""
    generator = np.random.default_rng(sum(shape))
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if kind.kind == "f":
        return (generator.standard_normal(shape) * 1000).astype(kind)
    limits = np.iinfo(kind)
    return generator.integers(limits.min, limits.max, shape, dtype=kind.newbyteorder("="), endpoint=True).astype(kind)


def _png(pixels: Array, mode: str | None = None, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "PNG", **options)
    return file.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _raw_png(width: int, height: int, bits: int, colour: int, rows: bytes, more: bytes = b"") -> bytes:
    """A PNG written by hand, for what Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + more
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _deep_png(pixels: Array) -> bytes:
    """A 16-bit colour PNG whose rows use each of the five filters in turn, as real encoders do."""
    height, width, channels = pixels.shape
    step, rows = 2 * channels, pixels.astype(">u2").tobytes()
    stride = width * step
    above, packed = bytes(stride), bytearray()
    for row in range(height):
        line, kind = rows[row * stride : (row + 1) * stride], row % 5
        packed.append(kind)
        for place, value in enumerate(line):
            left = line[place - step] if place >= step else 0
            corner = above[place - step] if place >= step else 0
            packed.append((value - _predicted(kind, left, above[place], corner)) % 256)
        above = line
    return _raw_png(width, height, 16, {3: 2, 4: 6}[channels], bytes(packed))


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    paeth = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
    return (0, left, up, (left + up) // 2, paeth)[kind]


def _jpeg(pixels: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def _tiff(pixels: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **({"photometric": "minisblack"} | options))
    return file.getvalue()


def _npy(pixels: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def _write(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)


def _check(path: str, pages: list[Array]) -> None:
    """Count, shapes, dtypes and values of all pages."""
    assert count_pages(path) == len(pages)
    for page, pixels in enumerate(pages):
        found = read_page(path, page)
        assert page_shape(path, page) == found.shape == pixels.shape
        assert found.dtype == pixels.dtype.newbyteorder("=")
        assert np.array_equal(found, pixels)
        assert found.tobytes() == pixels.astype(found.dtype).tobytes()


# --- PNG ---


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [("u1", (7, 9)), ("u2", (7, 9)), ("?", (7, 9)), ("u1", (7, 9, 3)), ("u1", (7, 9, 4)), ("u1", (7, 9, 2))],
)
def test_png_keeps_values(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    pixels = _pixels(dtype, *shape)
    _check(_write(tmp_path, "a.png", _png(pixels)), [pixels])


@pytest.mark.parametrize("channels", [3, 4])
def test_png_of_16_bit_colours_keeps_all_16_bits(tmp_path: Path, channels: int) -> None:
    pixels = _pixels("u2", 11, 6, channels)
    _check(_write(tmp_path, "a.PNG", _deep_png(pixels)), [pixels])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits_keeps_the_values_of_the_file(tmp_path: Path, bits: int) -> None:
    """A label written with 2 bits must not come back as 0, 85, 170, 255."""
    rows = bytes([0, 0b00_01_10_11, 0, 0b11_10_01_00])
    expected = [[byte >> shift & 2**bits - 1 for shift in range(8 - bits, -1, -bits)] for byte in (rows[1], rows[3])]
    pixels = np.array(expected, bool if bits == 1 else np.uint8)
    _check(_write(tmp_path, "a.png", _raw_png(8 // bits, 2, bits, 0, rows)), [pixels])


def test_png_palette_gives_colours_or_indices(tmp_path: Path) -> None:
    palette, rows = bytes([9, 8, 7, 60, 50, 40, 255, 0, 1]), bytes([0, 0b00_10_01_01])
    path = _write(tmp_path, "a.png", _raw_png(4, 1, 2, 3, rows, _chunk(b"PLTE", palette)))
    _check(path, [np.array([[[9, 8, 7], [255, 0, 1], [60, 50, 40], [60, 50, 40]]], np.uint8)])
    assert page_shape(path, 0, indices=True) == (1, 4)
    assert read_page(path, 0, indices=True).tolist() == [[0, 2, 1, 1]]


def test_png_with_an_index_outside_its_palette_is_refused(tmp_path: Path) -> None:
    data = _raw_png(4, 1, 2, 3, bytes([0, 0b00_10_01_11]), _chunk(b"PLTE", bytes(9)))
    with pytest.raises(BadInput, match="palette index 3, expected less than its palette's 3"):
        read_page(_write(tmp_path, "a.png", data), 0)


def test_png_chunks_that_pixels_do_not_need_are_left_aside(tmp_path: Path) -> None:
    """Among them those that make Pillow warn, refuse the file, or unpack a megabyte of text."""
    pixels = _pixels("u1", 5, 6)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    bomb = b"comment\0\0" + zlib.compress(bytes(80_000_000))
    more = (
        _chunk(b"acTL", bytes(8)) + _chunk(b"zTXt", bomb) + _chunk(b"iCCP", b"x\0\0broken") + _chunk(b"tRNS", b"\0\7")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check(_write(tmp_path, "a.png", _raw_png(6, 5, 8, 0, rows, more)), [pixels])


def test_png_with_a_flipped_bit_in_its_pixels_is_refused(tmp_path: Path) -> None:
    """Each bit of the pixels: Pillow alone reads several of these as a picture."""
    data = _png(_pixels("u1", 20, 20))
    start = data.index(b"IDAT")
    for place in range(start, start + 100):
        damaged = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
        with pytest.raises(BadInput, match=r"does not match its checksum|cut short"):
            read_page(_write(tmp_path, "a.png", damaged), 0)


def test_png_headers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """From the header alone: bits, colour type, compression, filter and interlacing, then a wrong checksum."""
    data = _raw_png(5, 6, 8, 0, bytes(36))
    for place, value in ((24, 3), (25, 5), (26, 1), (27, 1), (28, 2)):
        header = data[12:place] + bytes([value]) + data[place + 1 : 29]
        path = _write(tmp_path, "a.png", data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])
        with pytest.raises(BadInput, match="its header has unknown values"):
            page_shape(path, 0)
    with pytest.raises(BadInput, match="its header does not match its checksum"):
        page_shape(_write(tmp_path, "a.png", data[:19] + b"\7" + data[20:]), 0)


def test_png_bombs_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    huge = _raw_png(100_000, 100_000, 8, 0, bytes(10))
    for refused in (read_page, page_shape):
        with pytest.raises(BadInput, match=f"image of 100000 x 100000, expected at most {MAX_SAMPLES} samples"):
            refused(_write(tmp_path, "huge.png", huge), 0)
    with pytest.raises(BadInput, match="cannot hold the 16000 x 16000 it claims"):
        read_page(_write(tmp_path, "claims.png", _raw_png(16_000, 16_000, 8, 0, bytes(10))), 0)


def test_png_of_16_bit_grey_and_alpha_is_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="16-bit grey PNG with an alpha channel"):
        page_shape(_write(tmp_path, "a.png", _raw_png(1, 1, 16, 4, bytes(5))), 0)


# --- JPEG ---


@pytest.mark.parametrize("shape", [(16, 24), (16, 24, 3)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0II*\0broken", "comment": b"hello"}])
def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]) -> None:
    data = _jpeg(_pixels("u1", *shape), **options)
    plain = _jpeg(_pixels("u1", *shape), progressive=options.get("progressive", False))
    expected = np.asarray(Image.open(io.BytesIO(plain)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check(_write(tmp_path, "a.jpeg", data), [expected])


def test_jpeg_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = _jpeg(_pixels("u1", 32, 32, 3))
    for length in range(0, len(data) - 40, 37):
        with pytest.raises(BadInput, match="expected"):
            read_page(_write(tmp_path, "a.jpg", data[:length]), 0)


def test_jpeg_of_four_inks_is_refused_clearly(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(file, "JPEG")
    with pytest.raises(BadInput, match="8 bits and 4 channels, expected 8 bits and 1 or 3 channels"):
        page_shape(_write(tmp_path, "a.jpg", file.getvalue()), 0)


# --- TIFF ---


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"])
def test_tiff_keeps_values_of_every_dtype(tmp_path: Path, dtype: str, order: Any) -> None:
    pixels = _pixels(dtype, 3, 5, 6)
    _check(_write(tmp_path, "a.tif", _tiff(pixels, byteorder=order)), list(pixels))


_TIFFS: list[dict[str, Any]] = [
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 3},
    {"compression": "zlib", "tile": (16, 16)},
    {"compression": "lzma"},
    {"compression": "packbits"},
    {"bigtiff": True},
    {"rowsperstrip": 1},
    {"photometric": "miniswhite"},
]


@pytest.mark.parametrize("options", _TIFFS, ids=str)
def test_tiff_keeps_values_however_it_is_stored(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = _pixels("u2", 2, 37, 41)
    _check(_write(tmp_path, "a.tiff", _tiff(pixels, **options)), list(pixels))


@needs_imagecodecs
@pytest.mark.parametrize("options", [{"compression": "lzw", "predictor": True}, {"compression": "zstd"}], ids=str)
def test_tiff_keeps_values_with_imagecodecs(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = _pixels("u2", 2, 37, 41)
    _check(_write(tmp_path, "a.tiff", _tiff(pixels, **options)), list(pixels))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colours_have_their_channels_last(tmp_path: Path, planar: Any) -> None:
    pixels = _pixels("u2", 5, 6, 3)
    stored = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
    _check(_write(tmp_path, "a.tif", _tiff(stored, photometric="rgb", planarconfig=planar)), [pixels])


def test_tiff_bits_are_bools(tmp_path: Path) -> None:
    pixels = _pixels("?", 9, 16)
    rows = np.packbits(pixels, axis=1).tobytes()
    numbers = {256: 16, 257: 9, 258: 1, 259: 1, 262: 1, 273: 200, 277: 1, 278: 9, 279: len(rows)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in numbers.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(numbers)) + entries + bytes(4)
    _check(_write(tmp_path, "a.tif", head.ljust(200, b"\0") + rows), [pixels])


def test_tiff_palette_gives_colours_or_indices(tmp_path: Path) -> None:
    pixels, palette = _pixels("u1", 6, 7), _pixels("u2", 3, 256)
    path = _write(tmp_path, "a.tif", _tiff(pixels, photometric="palette", colormap=palette))
    _check(path, [np.moveaxis((palette >> 8).astype(np.uint8)[:, pixels], 0, 2)])
    assert page_shape(path, 0, indices=True) == (6, 7)
    assert np.array_equal(read_page(path, 0, indices=True), pixels)


def test_tiff_pages_may_differ(tmp_path: Path) -> None:
    pages = [_pixels("u1", 5, 6), _pixels("f4", 7, 3), _pixels("u2", 4, 4, 3)]
    path = str(tmp_path / "a.tif")
    with tifffile.TiffWriter(path) as writer:
        for page in pages:
            writer.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", metadata=None)
    _check(path, pages)


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_stack_of_imagej_with_one_directory_has_all_its_pages(tmp_path: Path, order: Any) -> None:
    """As ImageJ writes stacks of more than 4 GB: only the first page has a directory."""
    pixels = _pixels("u2", 4, 5, 6)
    first = _tiff(pixels[0], description="ImageJ=1.54f\nimages=4\nslices=4\n", metadata=None, byteorder=order)
    path = _write(tmp_path, "a.tif", first + pixels[1:].astype(f"{order}u2").tobytes())
    assert first.endswith(pixels[0].astype(f"{order}u2").tobytes())
    _check(path, list(pixels))
    _write(tmp_path, "a.tif", first + pixels[1:].astype(f"{order}u2").tobytes()[:-1])
    assert np.array_equal(read_page(path, 2), pixels[2])
    with pytest.raises(BadInput, match="page 3 of its ImageJ stack is not there"):
        read_page(path, 3)


def test_tiff_pages_that_would_be_overlooked_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.tif", _tiff(_pixels("u1", 4, 5, 6), truncate=True))
    with pytest.raises(BadInput, match="pages share one directory, expected one directory for each page"):
        count_pages(path)


def test_tiff_that_changes_on_disk_is_read_anew(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.tif", _tiff(_pixels("u1", 3, 5, 6)))
    assert count_pages(path) == 3
    _write(tmp_path, "a.tif", _tiff(_pixels("u1", 2, 5, 6)))
    assert count_pages(path) == 2


def test_tiff_with_a_chain_of_pages_in_a_circle_ends(tmp_path: Path) -> None:
    """Of more than 100 pages, from where on tifffile would follow it for ever."""
    data = bytearray(_tiff(_pixels("u1", 120, 4, 4)))
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        last, middle = tiff.pages[119].offset, tiff.pages[110].offset
        after = last + 2 + 12 * struct.unpack_from("<H", data, last)[0]
    assert struct.unpack_from("<I", data, after) == (0,)
    struct.pack_into("<I", data, after, middle)
    with pytest.raises(BadInput, match="its chain of pages goes in a circle after page 119"):
        count_pages(_write(tmp_path, "a.tif", bytes(data)))


def _with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian classic TIFF with another value of a tag of its first page."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        entry = tiff.pages.first.tags[tag].offset
    struct.pack_into("<HI", changed, entry + 2, 4, 1)
    struct.pack_into("<I", changed, entry + 8, value)
    return bytes(changed)


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (256, 100_000_000, f"claims an image of 6 x 100000000 x 1, expected at most {MAX_SAMPLES}"),
        (257, 0, "has an image of 0 x 5 x 1, expected at least one pixel"),
        (273, 5000, "pixels are missing: 30 bytes at byte 5000"),
        (279, 0, "pixels are missing: 0 bytes"),
        (259, 34712, "is a TIFF of compression 34712, expected none, LZW"),
        (262, 5, "is a TIFF of photometric 5, expected grey, RGB or a palette"),
        (258, 40, "40 bits and depth 1, expected integers or floats"),
        (278, 1, "it has 1 blocks of pixels instead of 6"),
    ],
)
def test_tiff_headers_that_lie_are_refused(tmp_path: Path, tag: int, value: int, message: str) -> None:
    path = _write(tmp_path, "a.tif", _with_tag(_tiff(_pixels("u1", 6, 5)), tag, value))
    for refused in (page_shape, read_page):
        with pytest.raises(BadInput, match=message):
            refused(path, 0)


def test_tiff_block_far_larger_than_its_pixels_is_refused(tmp_path: Path) -> None:
    """It would be unpacked before its size shows."""
    data = _tiff(_pixels("u1", 6, 5), compression="zlib")
    bomb = _with_tag(_with_tag(data, 273, len(data)), 279, 100_000) + bytes(100_000)
    with pytest.raises(BadInput, match="a block of 100000 bytes cannot hold 30 bytes of pixels"):
        read_page(_write(tmp_path, "a.tif", bomb), 0)


def test_tiff_of_complex_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="64 bits and depth 1, expected integers or floats"):
        page_shape(_write(tmp_path, "a.tif", _tiff(np.zeros((5, 6), np.complex64))), 0)


def test_tiff_that_needs_imagecodecs_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> Array:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    path = _write(tmp_path, "a.tif", _tiff(_pixels("u1", 6, 5)))
    monkeypatch.setattr(tifffile.TiffPage, "asarray", missing)
    with pytest.raises(BadInput, match="the Python package imagecodecs is needed"):
        read_page(path, 0)


# --- NPY ---


@pytest.mark.parametrize(
    ("shape", "pages", "page"),
    [
        ((5, 6), 1, (5, 6)),
        ((5, 6, 1), 1, (5, 6)),
        ((5, 6, 3), 1, (5, 6, 3)),
        ((5, 6, 4), 1, (5, 6, 4)),
        ((5, 6, 2), 5, (6, 2)),
        ((1, 6, 7), 1, (6, 7)),
        ((4, 5, 6, 3), 4, (5, 6, 3)),
        ((1, 5, 6, 4), 1, (5, 6, 4)),
        ((4, 5, 6, 1), 4, (5, 6)),
    ],
)
def test_npy_pages(tmp_path: Path, shape: tuple[int, ...], pages: int, page: tuple[int, ...]) -> None:
    for dtype in ("u1", ">i2", "f4", "f8", "?"):
        pixels = _pixels(dtype, *shape)
        for stored in (pixels, np.asfortranarray(pixels)):
            _check(_write(tmp_path, "a.npy", _npy(stored)), list(pixels.reshape(pages, *page)))


def test_npy_page_does_not_hold_on_to_the_file(tmp_path: Path) -> None:
    path = _write(tmp_path, "a.npy", _npy(_pixels("u1", 3, 5, 6)))
    page = read_page(path, 1)
    before = page.copy()
    _write(tmp_path, "a.npy", _npy(np.zeros((3, 5, 6), np.uint8)))
    assert type(page) is np.ndarray
    assert np.array_equal(page, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1, "a"]], object), "Python objects in dtype.*expected an undamaged numeric NPY file"),
        (np.zeros((3, 3), complex), "dtype complex128, expected bool, integers or floats"),
        (np.zeros((3, 3), [("a", "u1")]), "expected bool, integers or floats"),
        (np.zeros(3), "an array of 1 dimensions, expected 2"),
        (np.zeros((1, 1, 1, 1, 1)), "an array of 5 dimensions, expected 2"),
        (np.zeros((0, 3)), "array of 0 x 3, expected at least one pixel"),
        (np.zeros((4, 3, 0)), "array of 4 x 3 x 0, expected at least one pixel"),
        (np.zeros((0, 3, 5)), "array of 0 x 3 x 5, expected at least one pixel"),
    ],
)
def test_npy_of_other_things_is_refused(tmp_path: Path, array: Array, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        count_pages(_write(tmp_path, "a.npy", _npy(array)))


@pytest.mark.parametrize(
    "shape", ["(-3, 4)", "(9223372036854775808, 4)", "(True, 4)", "(" + "-" * 9000 + "3, 4)", "(3, "]
)
def test_npy_headers_that_make_no_sense_are_refused(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(100)
    with pytest.raises(BadInput, match="cannot be decoded"):
        count_pages(_write(tmp_path, "a.npy", data))


# --- files that are not what they should be ---


def test_endings() -> None:
    assert all(is_image(f"x.{ending}") for ending in ("png", "PNG", "jpg", "jpeg", "tif", "TIFF", "npy"))
    assert not any(is_image(name) for name in ("x.txt", "png", "x.npz", "x.png.bak", ".png"))
    assert [has_one_page(name) for name in ("a.png", "a.JPG", "a.tif", "a.npy", "a.txt")] == [True, True, *[False] * 3]


def _folder(path: Path) -> None:
    path.mkdir()


def _nothing(path: Path) -> None:
    pass


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("Not Found, said the server that should have sent an image")


def _gif(path: Path) -> None:
    Image.new("L", (3, 3)).save(path, "GIF")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_folder, "is a folder, expected an image file"),
        (_nothing, "no such file, expected an image"),
        (_empty, "is empty"),
        (_text, r"starts with b'Not Foun', expected a \w+ file as its ending says"),
        (_gif, r"looks like a GIF file, expected a \w+ file as its ending says"),
        (_pipe, "is not an ordinary file"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, name: str, make: Callable[[Path], None], message: str) -> None:
    path = str(tmp_path / name)
    make(tmp_path / name)
    for refused in (read_page, page_shape):
        with pytest.raises(BadInput, match=message) as caught:
            refused(path, 0)
        assert str(caught.value).startswith(f"{path}: ")
    if make in (_folder, _nothing, _empty, _pipe):
        with pytest.raises(BadInput, match=message):
            count_pages(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy"])
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = _write(tmp_path, name, b"data")
    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\)"):
        read_page(path, 0)


@pytest.mark.parametrize(("name", "seen"), [("a.bmp", "the ending '.bmp'"), ("a", "no ending")])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str, seen: str) -> None:
    path = _write(tmp_path, name, b"data")
    for refused in (count_pages, lambda path: page_shape(path, 0), lambda path: read_page(path, 0)):
        with pytest.raises(BadInput, match=f"has {seen}, expected one of .*.npy, .png"):
            refused(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", _png(_pixels("u1", 3, 3))),
        ("a.jpg", _jpeg(_pixels("u1", 8, 8))),
        ("a.tif", _tiff(_pixels("u1", 3, 3))),
        ("a.npy", _npy(_pixels("u1", 3, 3))),
    ],
)
def test_a_page_that_is_not_there_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    path = _write(tmp_path, name, data)
    for page in (-1, 1):
        for refused in (read_page, page_shape):
            with pytest.raises(BadInput, match=f"has 1 pages, expected a page {page}"):
                refused(path, page)


@pytest.mark.parametrize(("name", "reason"), [("a" * 300, "File name too long"), ("a\0b", "embedded null byte")])
def test_an_impossible_name_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(BadInput, match=rf"cannot be read \({reason}\), expected a readable image file"):
        count_pages(f"{tmp_path}/{name}.png")


def test_messages_stay_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        read_page(str(tmp_path / "two\nlines.png"), 0)
    assert "two\\nlines.png" in str(caught.value)
    assert "\n" not in str(caught.value)


# --- damage ---


def _samples() -> dict[str, bytes]:
    grey, colours, deep, stack = (_smooth(*shape) for shape in ((30, 23), (30, 23, 3), (24, 16, 3), (3, 20, 16)))
    samples = {
        "grey.png": _png(grey),
        "colours.png": _png(colours),
        "palette.png": _png(grey, "P"),
        "bits.png": _png(grey > 50),
        "deep.png": _deep_png(deep.astype(np.uint16) * 200),
        "grey.jpg": _jpeg(grey),
        "colours.jpg": _jpeg(colours, comment=b"hello"),
        "progressive.jpg": _jpeg(colours, progressive=True),
        "grey.tif": _tiff(grey),
        "stack.tif": _tiff(stack, bigtiff=True),
        "wide.tif": _tiff(stack.astype(np.float32), compression="zlib", byteorder=">"),
        "strips.tif": _tiff(grey.astype(np.uint16), compression="zlib", predictor=True, rowsperstrip=4),
        "tiles.tif": _tiff(grey, compression="zlib", tile=(16, 16)),
        "lzma.tif": _tiff(grey, compression="lzma"),
        "packbits.tif": _tiff(grey, compression="packbits"),
        "imagej.tif": _tiff(stack, imagej=True),
        "palette.tif": _tiff(grey, photometric="palette", colormap=_pixels("u2", 3, 256)),
        "grey.npy": _npy(grey),
        "stack.npy": _npy(np.asfortranarray(stack.astype(np.float64))),
    }
    if importlib.util.find_spec("imagecodecs") is not None:
        samples["lzw.tif"] = _tiff(grey, compression="lzw", predictor=True)
        samples["zstd.tif"] = _tiff(grey, compression="zstd")
        samples["jpeg.tif"] = _tiff(deep, photometric="rgb", compression="jpeg")
    return samples


def _smooth(*shape: int) -> Array:
    return np.cumsum(np.random.default_rng(1).integers(0, 3, shape), axis=0).astype(np.uint8)


def _truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def _shortened(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + data[place + chance.randrange(1, 20) :]


def _flipped(data: bytes, chance: random.Random) -> bytes:
    """Up to eight bytes changed, half of the time among the first 200, where headers are."""
    changed = bytearray(data)
    end = len(data) if chance.random() < 0.5 else min(len(data), 200)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(end)
        changed[place] = chance.choice((changed[place] ^ 1 << chance.randrange(8), 0, 0x7F, 0xFF))
    return bytes(changed)


def _checksums_repaired(data: bytes) -> bytes:
    """A damaged PNG whose checksums say that it is not, so that the damage reaches the decoder."""
    repaired, start = bytearray(data), 8
    while start + 12 <= len(data):
        end = start + 12 + struct.unpack_from(">I", data, start)[0]
        if end > len(data):
            break
        struct.pack_into(">I", repaired, end - 4, zlib.crc32(data[start + 4 : end - 4]))
        start = end
    return bytes(repaired)


def _tags_changed(data: bytes, chance: random.Random) -> bytes:
    """A TIFF with another tag, type, count or value in an entry or two of its first directory."""
    order, big = ("<" if data[:2] == b"II" else ">"), data[2:4] in (b"+\0", b"\0+")
    word, entry, head = ("Q", 20, 8) if big else ("I", 12, 2)
    start = struct.unpack_from(order + word, data, 8 if big else 4)[0]
    count = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    changed, width = bytearray(data), struct.calcsize("=" + word)
    for _ in range(chance.choice((1, 1, 2))):
        place = start + head + entry * chance.randrange(count)
        number = chance.choice((0, 1, 2, 3, 5, 8, 16, 100, 65535, 2**31 - 1, 2**32 - 1))
        field = chance.randrange(4)
        tags = (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 32997)
        if field == 0:
            struct.pack_into(order + "H", changed, place, chance.choice(tags))
        elif field == 1:
            struct.pack_into(order + "H", changed, place + 2, chance.randrange(19))
        else:
            struct.pack_into(order + word, changed, place + (4 if field == 2 else 4 + width), number)
    return bytes(changed)


def _damaged(name: str, data: bytes, chance: random.Random) -> bytes:
    if name.endswith(".tif") and chance.random() < 0.5:
        return _tags_changed(data, chance)
    damaged = chance.choice((_truncated, _shortened, _flipped, _flipped))(data, chance)
    return _checksums_repaired(damaged) if name.endswith(".png") and chance.random() < 0.6 else damaged


def _read_all(path: str) -> int:
    """Reads every page both ways; the number of arrays that came out."""
    arrays = 0
    for page in range(count_pages(path)):
        for indices in (False, True):
            shape, pixels = page_shape(path, page, indices=indices), read_page(path, page, indices=indices)
            assert pixels.shape == shape
            assert pixels.size > 0
            assert pixels.dtype.kind in "buif"
            arrays += 1
    return arrays


def _refusal(path: str) -> str | None:
    """The message with which the file is refused, if it is."""
    try:
        _read_all(path)
    except BadInput as error:
        return str(error)
    return None


@pytest.mark.parametrize(("name", "data"), _samples().items(), ids=_samples())
def test_damaged_files_give_an_array_or_one_clear_line(
    tmp_path: Path,
    name: str,
    data: bytes,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """45 cases for each of about 20 files, the same each time; no decoder may warn, log, print or take long."""
    chance, refused = random.Random(name), 0
    path = _write(tmp_path, name, data)
    assert _read_all(path) > 0
    start = time.perf_counter()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, "tifffile"):
        warnings.simplefilter("error")
        for case in range(45):
            path = _write(tmp_path, f"{case}_{name}", _damaged(name, data, chance))
            message = _refusal(path)
            refused += message is not None
            assert message is None or re.fullmatch(rf"{re.escape(path)}: .*, expected .*", message)
    assert refused >= 10
    assert time.perf_counter() - start < 5
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith("tifffile")]


@pytest.mark.parametrize(("name", "data"), _samples().items(), ids=_samples())
def test_files_cut_short_are_refused(tmp_path: Path, name: str, data: bytes) -> None:
    """At 15 places: even where all that is missing belongs to the last page, reading all pages tells."""
    for cut in range(15):
        # The last bytes may be an end marker of a JPEG or padding of a TIFF, without which all pixels are there.
        length = (len(data) - 20) * cut // 14
        with pytest.raises(BadInput):
            _read_all(_write(tmp_path, f"{cut}_{name}", data[:length]))
