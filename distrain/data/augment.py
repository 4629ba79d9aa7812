"""Random changes to an image and its label alike, to train on: a function of (seed, epoch, index) alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distrain.data.provider import Example, ExampleSpec, FloatArray
from distrain.errors import BadInput
from distrain.job import schema

# Fills the last word of the generator's counter, so that no other part that draws with the same key repeats it.
_PURPOSE = 0x61756776
_FIXED_WORDS = 5  # flips, turns, brightness, contrast
_LONGEST = 32767  # of a side, in OpenCV's warping
_COARSEST = 2  # knots along a side


@dataclass(frozen=True)
class Augmenter:
    """Changes examples as `options` say; `seed` is the job's.

    In this order: elastic deformation, flips, a quarter turn, contrast, brightness. Labels of pixels move with the
    image and keep their values; the label of a whole image stays.
    """

    options: schema.Augment
    seed: int

    def __call__(self, example: Example, index: int, epoch: int) -> Example:
        """The example at `index` as `epoch` sees it; the arrays are new."""
        options, (height, width) = self.options, example.image.shape[:2]
        knots = _knots(height, width, options.elastic_spacing) if options.elastic > 0 else (0, 0)
        generator = np.random.Philox(
            key=np.array([self.seed, epoch], np.uint64), counter=np.array([0, 0, index, _PURPOSE], np.uint64)
        )
        words = generator.random_raw(_FIXED_WORDS + 2 * knots[0] * knots[1])
        image, label = example.image, example.label
        if options.elastic > 0:
            grid = _normal(words[_FIXED_WORDS:]).reshape(*knots, 2) * np.float32(options.elastic)
            image, label = _warped(image, label, grid)
        image, label = self._turned(image, label, words)
        factor = 1 + options.contrast * _signed(words[3])
        offset = options.brightness * _signed(words[4])
        if options.contrast > 0:
            mean = image.mean(dtype=np.float64)
            offset += mean * (1 - factor)
        return Example(
            image * np.float32(factor) + np.float32(offset), label if label.ndim == 0 else np.ascontiguousarray(label)
        )

    def _turned(
        self, image: FloatArray, label: npt.NDArray[np.int32], words: npt.NDArray[np.uint64]
    ) -> tuple[FloatArray, npt.NDArray[np.int32]]:
        options = self.options
        left_right, up_down, turns = (int(word) >> 62 for word in words[:3])
        steps: list[tuple[int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]] = [
            (options.flip_left_right * (left_right & 1), np.fliplr),
            (options.flip_up_down * (up_down & 1), np.flipud),
            (options.quarter_turns * turns, functools.partial(np.rot90, k=turns)),
        ]
        for wanted, step in steps:
            if wanted:
                image = step(image)
                label = step(label) if label.ndim else label
        return image, label


def require_fit(options: schema.Augment, spec: ExampleSpec) -> None:
    """Refuse what cannot be done to examples of `spec`. Raises `BadInput`."""
    height, width, _ = spec.image_shape
    if options.quarter_turns and height != width:
        raise BadInput(f"'data.augment.quarter_turns': images are {height} x {width}, expected square ones, or a crop")
    if options.elastic > 0 and max(height, width) > _LONGEST:
        raise BadInput(f"'data.augment.elastic': images are {height} x {width}, expected at most {_LONGEST}, or a crop")


def _knots(height: int, width: int, spacing: float) -> tuple[int, int]:
    """How many knots the coarse grid has along each side."""
    return max(_COARSEST, round(height / spacing) + 1), max(_COARSEST, round(width / spacing) + 1)


def _signed(word: np.uint64) -> float:
    """A number in -1 .. 1 from 64 random bits."""
    return (int(word) >> 11) / (1 << 52) - 1


def _normal(words: npt.NDArray[np.uint64]) -> FloatArray:
    """Numbers [n] of mean 0 and standard deviation 1, nearly normal, from 64 random bits each: a sum of four.

    Unlike NumPy's own normal numbers, these are the same under every version of it.
    """
    parts = [(words >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.float64) for shift in (0, 16, 32, 48)]
    total = (parts[0] + parts[1] + parts[2] + parts[3]) / (1 << 16) - 2
    return (total * 3**0.5).astype(np.float32)


def _warped(
    image: FloatArray, label: npt.NDArray[np.int32], grid: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """Moves each pixel by displacements [rows, columns, 2] in pixels, given on a coarse grid and smooth in between.

    Beyond its edges the image is mirrored. Labels take the value of the nearest pixel.
    """
    # Imported here: only this needs it, and every command would wait for it to load.
    import cv2

    # One thread: the reading threads are enough, and TensorFlow has its own.
    cv2.setNumThreads(0)
    height, width, channels = image.shape
    moves = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    columns = moves[:, :, 0] + np.arange(width, dtype=np.float32)
    rows = moves[:, :, 1] + np.arange(height, dtype=np.float32)[:, np.newaxis]
    edge = cv2.BORDER_REFLECT_101
    warped = cv2.remap(np.ascontiguousarray(image), columns, rows, cv2.INTER_LINEAR, borderMode=edge).reshape(
        height, width, channels
    )
    if label.ndim:
        # OpenCV has no 32-bit integers here; doubles hold them all.
        label = cv2.remap(label.astype(np.float64), columns, rows, cv2.INTER_NEAREST, borderMode=edge).astype(np.int32)
    return warped.reshape(height, width, channels).astype(np.float32, copy=False), label
