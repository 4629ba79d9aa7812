"""Cuts a window out of an example: at a random place to train, from the middle to validate."""

from __future__ import annotations

import numpy as np

from distrain.data.provider import Example
from distrain.errors import BadInput

# Fills the last word of the generator's counter, so that no other part that draws with the same key repeats the crops.
_PURPOSE = 0x63726F70


def random_crop(example: Example, size: tuple[int, int], *, seed: int, epoch: int, index: int) -> Example:
    """The window of `size` (height, width) at a place that follows from (seed, epoch, index) alone.

    Image and label are cut alike; the label of a whole image, of shape (), stays as it is. Each place at which the
    window fits is equally likely. Raises `BadInput` where the image is smaller than the window.
    """
    assert min(seed, epoch, index) >= 0, (seed, epoch, index)
    rows, columns = _room(example, size)
    generator = np.random.Philox(
        key=np.array([seed, epoch], np.uint64), counter=np.array([0, 0, index, _PURPOSE], np.uint64)
    )
    down, right = generator.random_raw(2).tolist()
    # Taking the high bits of the product rather than a remainder spreads the 64 random bits evenly over the places.
    return _cut(example, size, down * (rows + 1) >> 64, right * (columns + 1) >> 64)


def centre_crop(example: Example, size: tuple[int, int]) -> Example:
    """The window of `size` (height, width) in the middle, half a pixel up and left of it where the room is odd.

    Treats labels and raises as `random_crop`.
    """
    rows, columns = _room(example, size)
    return _cut(example, size, rows // 2, columns // 2)


def _room(example: Example, size: tuple[int, int]) -> tuple[int, int]:
    """By how many pixels the image is taller and wider than the window."""
    height, width = example.image.shape[:2]
    if size[0] < 1 or size[1] < 1:
        raise BadInput(f"a crop of {size[0]} x {size[1]} (height x width) is empty, expected at least 1 x 1")
    if height < size[0] or width < size[1]:
        raise BadInput(
            f"an image of {height} x {width} is smaller than the crop of {size[0]} x {size[1]} (height x width)"
        )
    return height - size[0], width - size[1]


def _cut(example: Example, size: tuple[int, int], top: int, left: int) -> Example:
    """Copies, because a view would keep the whole image in memory."""
    window = np.s_[top : top + size[0], left : left + size[1]]
    label = example.label if example.label.ndim == 0 else example.label[window].copy()
    return Example(example.image[window].copy(), label)
