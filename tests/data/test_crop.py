"""Crops: where they lie, what they leave alone, and when they are refused."""

from __future__ import annotations

import collections
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrain.data.crop import centre_crop, random_crop
from distrain.data.provider import Example
from distrain.errors import BadInput


def _example(height: int, width: int, channels: int = 2) -> Example:
    """Each pixel of image and label tells its own place."""
    places = np.arange(height * width, dtype=np.int32).reshape(height, width)
    image = np.repeat(places[:, :, np.newaxis], channels, axis=2).astype(np.float32)
    return Example(image, places)


def _offset(crop: Example, width: int) -> tuple[int, int]:
    return divmod(int(crop.label[0, 0]), width)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**40))
@settings(max_examples=150, deadline=None)
def test_image_and_label_are_cut_alike(height: int, width: int, rows: int, columns: int, index: int) -> None:
    example = _example(height + rows, width + columns)
    for crop in (
        random_crop(example, (height, width), seed=1, epoch=2, index=index),
        centre_crop(example, (height, width)),
    ):
        assert crop.image.shape == (height, width, 2)
        top, left = _offset(crop, width + columns)
        assert np.array_equal(crop.label, example.label[top : top + height, left : left + width])
        assert np.array_equal(crop.image, example.image[top : top + height, left : left + width])
        assert crop.image.dtype == np.float32
        assert crop.label.dtype == np.int32


def test_every_place_is_equally_likely() -> None:
    example = _example(12, 13)
    counts = collections.Counter(
        _offset(random_crop(example, (10, 9), seed=3, epoch=epoch, index=index), 13)
        for epoch in range(10)
        for index in range(300)
    )
    assert set(counts) == {(top, left) for top in range(3) for left in range(5)}
    assert min(counts.values()) > 150  # 200 on average, deviation 14
    assert max(counts.values()) < 250


def test_the_place_follows_from_seed_epoch_and_index() -> None:
    example = _example(1000, 1000)

    def place(seed: int, epoch: int, index: int) -> tuple[int, int]:
        return _offset(random_crop(example, (1, 1), seed=seed, epoch=epoch, index=index), 1000)

    assert place(7, 0, 0) == (307, 302)
    assert place(7, 3, 2**33) == (81, 262)
    assert place(2**64 - 1, 2**40, 5) == (306, 967)
    numbers = [(seed, epoch, index) for seed in range(4) for epoch in range(4) for index in range(4)]
    assert len({place(*each) for each in numbers}) == 64


def test_the_centre_is_in_the_middle() -> None:
    assert _offset(centre_crop(_example(11, 20), (5, 7)), 20) == (3, 6)
    assert _offset(centre_crop(_example(5, 7), (5, 7)), 7) == (0, 0)


def test_a_label_of_the_whole_image_is_untouched() -> None:
    whole = Example(_example(9, 9).image, np.array(4, np.int32))
    for crop in (random_crop(whole, (3, 3), seed=1, epoch=1, index=1), centre_crop(whole, (3, 3))):
        assert crop.image.shape == (3, 3, 2)
        assert crop.label.shape == ()
        assert crop.label == 4


def test_a_crop_does_not_keep_the_whole_image() -> None:
    crop = centre_crop(_example(300, 300), (2, 2))
    assert crop.image.base is None
    assert crop.label.base is None
    assert sys.getsizeof(crop.image) < 1000


@pytest.mark.parametrize("size", [(10, 4), (4, 10), (10, 10)])
def test_an_image_smaller_than_the_crop_is_refused(size: tuple[int, int]) -> None:
    message = rf"image of 9 x 8 is smaller than the crop of {size[0]} x {size[1]}"
    with pytest.raises(BadInput, match=message):
        random_crop(_example(9, 8), size, seed=1, epoch=1, index=1)
    with pytest.raises(BadInput, match=message):
        centre_crop(_example(9, 8), size)


def test_an_empty_crop_is_refused() -> None:
    with pytest.raises(BadInput, match="a crop of 0 x 4"):
        centre_crop(_example(9, 8), (0, 4))
