"""What the readers of all image formats share: checking what a file claims, errors of one line."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageFile

from distrain.data.storage import regular, shown
from distrain.errors import BadInput

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

# A page of more samples (height x width x channels) is refused as a decompression bomb: 16384 x 16384 greys pass.
MAX_SAMPLES = 1 << 28


def words(shape: Shape) -> str:
    """A shape as error messages show it, for example `512 x 512 x 3`."""
    return " x ".join(str(length) for length in shape)


@contextlib.contextmanager
def decoding(path: str, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turns the errors of a decoder into one line."""
    try:
        yield
    except BadInput:
        raise
    except errors as error:
        if "requires the 'imagecodecs' package" in str(error) or isinstance(error, ImportError):
            seen = f"a {kind} file compressed so that the Python package imagecodecs is needed to decode it"
            raise not_supported(
                path, seen, "that package, which is not installed, or no or Deflate compression"
            ) from error
        raise damaged(path, kind, _line(error)) from error


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())[:200] or type(error).__name__
    # These are the decoder stumbling, with a text that speaks of its own variables.
    stumbled = isinstance(error, TypeError | LookupError | AttributeError | ArithmeticError)
    return f"its header makes no sense: {text}" if stumbled else text


def damaged(path: str, kind: str, seen: str) -> BadInput:
    """What to raise for a file that cannot be decoded."""
    return BadInput(f"{shown(path)}: cannot be decoded ({seen}), expected an undamaged {kind} file")


def not_supported(path: str, seen: str, expected: str) -> BadInput:
    """What to raise for a sound file of a kind that is not read here."""
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


def require_kind(path: str, head: bytes, kind: str) -> None:
    """Checks by its first bytes that a file is what its ending says."""
    found = next((name for signature, name in _SIGNATURES.items() if head.startswith(signature)), None)
    if found != kind:
        seen = f"looks like a {found} file" if found else f"starts with {head[:8]!r}"
        raise BadInput(f"{shown(path)}: {seen}, expected a {kind} file as its ending says")


def require_size(path: str, shape: Shape) -> None:
    """Refuse an image without pixels, and one of too many."""
    if min(shape) < 1:
        raise BadInput(f"{shown(path)}: has an image of {words(shape)}, expected at least one pixel")
    if math.prod(shape) > MAX_SAMPLES:
        raise BadInput(
            f"{shown(path)}: claims an image of {words(shape)}, expected at most {MAX_SAMPLES} samples "
            "(height x width x channels): damaged, a decompression bomb, or to be cut into tiles first"
        )


def require_page(path: str, page: int, pages: int) -> None:
    """Refuse a page that the file does not have."""
    if not 0 <= page < pages:
        raise BadInput(f"{shown(path)}: has {pages} pages, expected a page {page} (counted from 0) too")


def one_page(path: str) -> int:
    """The number of pages of a file that always has one, if it is there."""
    regular(path)
    return 1


def loaded(image: ImageFile.ImageFile) -> Array:
    """The pixels of an image that Pillow has opened."""
    image.load()
    return np.asarray(image)


def coloured(path: str, pixels: Array, palette: bytes) -> Array:
    """The colours, [h, w, 3] uint8, of palette indices [h, w]. Raises `BadInput` where the palette lacks one."""
    colours = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
    if pixels.max() >= len(colours):
        raise BadInput(
            f"{shown(path)}: has the palette index {pixels.max()}, expected less than its palette's {len(colours)}"
        )
    return colours[pixels]
