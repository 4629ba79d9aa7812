"""A data set that needs no files: grey discs on a dark ground under noise, and their mask as the label.

Each example follows from (seed, index) alone. Only integer arithmetic, IEEE additions, multiplications and divisions
and the raw words of a counter-based generator are used, so that an example has the same bits on every machine and
under every version of NumPy (whose own distributions may change from one version to the next).
"""

from __future__ import annotations

import functools
import math
import statistics

import numpy as np
import numpy.typing as npt

from distrain.data.provider import Example, ExampleSpec, FloatArray
from distrain.errors import BadInput

_WORD = 1 << 64
_LEVELS = 1 << 16  # of the Gaussian table: one for each value of the 16 bits that a pixel draws
_WORDS_PER_DISC = 4  # row, column, radius, grey
_BRIGHTEST = 255


class Circles:
    """`examples` images of `size` x `size` pixels with `discs` discs each; later discs cover earlier ones.

    A disc has its centre at least `border` pixels from each edge, a radius in `radius[0] .. radius[1]` (both
    included) and a grey value in 1 .. 255; the ground is 0. Gaussian noise with the standard deviation `noise`, in the
    same grey levels, is added, and the image is then stretched to 0 .. 1. The label is 1 on a disc and 0 elsewhere.

    Raises `BadInput`, naming the argument, where an argument makes no sense.
    """

    def __init__(
        self, *, examples: int, size: int, seed: int, discs: int, radius: tuple[int, int], border: int, noise: float
    ) -> None:
        _require(examples >= 1, f"circles: examples is {examples}, expected at least 1")
        _require(size >= 1, f"circles: size is {size}, expected at least 1")
        _require(0 <= seed < _WORD, f"circles: seed is {seed}, expected 0 to 2**64 - 1")
        _require(discs >= 0, f"circles: discs is {discs}, expected at least 0")
        _require(len(radius) == 2, f"circles: radius is {radius}, expected two numbers: the least and the greatest")
        _require(1 <= radius[0] <= radius[1], f"circles: radius is {radius}, expected 1 <= least <= greatest")
        _require(border >= 0, f"circles: border is {border}, expected at least 0")
        _require(
            2 * border < size,
            f"circles: a border of {border} leaves no place for a disc in a size of {size}, "
            f"expected a size of at least {2 * border + 1}",
        )
        _require(math.isfinite(noise) and noise >= 0, f"circles: noise is {noise}, expected a number of at least 0")
        self._examples = examples
        self._size = size
        self._seed = seed
        self._discs = discs
        self._radius = radius
        self._border = border
        self._noise = _gaussian() * np.float32(noise)

    @property
    def spec(self) -> ExampleSpec:
        """Images (size, size, 1), labels (size, size), two classes."""
        return ExampleSpec(image_shape=(self._size, self._size, 1), label_shape=(self._size, self._size), classes=2)

    def __len__(self) -> int:
        return self._examples

    def read(self, index: int) -> Example:
        """The example at `index`: image (size, size, 1) float32 in 0 .. 1, label (size, size) int32 of 0 and 1."""
        if not 0 <= index < self._examples:
            raise IndexError(f"index {index} of a data set of {self._examples} examples")
        disc_words, pixel_words = self._draw(index)
        image = np.zeros((self._size, self._size), np.float32)
        for start in range(0, len(disc_words), _WORDS_PER_DISC):
            self._paint(image, disc_words[start : start + _WORDS_PER_DISC])
        # No disc is as dark as the ground.
        label = (image > 0).astype(np.int32)
        # No word is beyond the table: "clip" spares the look for one that is.
        image += self._noise.take(pixel_words, mode="clip").reshape(image.shape)
        _stretch(image)
        return Example(image[:, :, np.newaxis], label)

    def _draw(self, index: int) -> tuple[list[int], npt.NDArray[np.uint16]]:
        """The random numbers of the example: 64 bits for each property of a disc, 16 for each pixel."""
        pixels = self._size * self._size
        discs = _WORDS_PER_DISC * self._discs
        generator = np.random.Philox(key=np.array([self._seed, index], np.uint64))
        words: npt.NDArray[np.uint64] = generator.random_raw(discs + -(-pixels // 4))
        # The byte order is spelled out because the words are cut into pieces here.
        return words[:discs].tolist(), words[discs:].astype("<u8", copy=False).view("<u2")[:pixels]

    def _paint(self, image: FloatArray, words: list[int]) -> None:
        """Draws one disc, touching only the square around it."""
        row = _between(words[0], self._border, self._size - 1 - self._border)
        column = _between(words[1], self._border, self._size - 1 - self._border)
        radius = _between(words[2], *self._radius)
        top, left = max(row - radius, 0), max(column - radius, 0)
        box = image[top : row + radius + 1, left : column + radius + 1]
        height, width = box.shape
        down, right = top - row + radius, left - column + radius
        disc = _disc(radius)[down : down + height, right : right + width]
        np.copyto(box, np.float32(_between(words[3], 1, _BRIGHTEST)), where=disc)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BadInput(message)


def _between(word: int, least: int, greatest: int) -> int:
    """A number in `least .. greatest`, both included, from 64 random bits; uneven by less than 2**-40."""
    return least + (word * (greatest - least + 1) >> 64)


def _stretch(image: FloatArray) -> None:
    """Maps the values to 0 .. 1 in place; an image of one value only becomes 0."""
    image -= image.min()
    peak = image.max()
    if peak > 0:
        image /= peak


@functools.lru_cache(maxsize=128)
def _disc(radius: int) -> npt.NDArray[np.bool_]:
    """The pixels within `radius` of the middle of a square of 2 * radius + 1 pixels."""
    squares = np.arange(-radius, radius + 1) ** 2
    disc: npt.NDArray[np.bool_] = squares[:, np.newaxis] + squares <= radius * radius
    disc.setflags(write=False)
    return disc


@functools.cache
def _gaussian() -> FloatArray:
    """The quantiles of the standard normal distribution: a random index into them gives a normal number.

    Looking up is several times faster than NumPy's `standard_normal`. The values are rounded to multiples of 2**-12,
    which hides the last digits, in which the logarithms of two machines may differ.
    """
    quantile = statistics.NormalDist().inv_cdf
    upper = [round(quantile((level + 0.5) / _LEVELS) * 4096) for level in range(_LEVELS // 2, _LEVELS)]
    whole = np.array([-value for value in reversed(upper)] + upper, np.float32) / np.float32(4096)
    whole.setflags(write=False)
    return whole
