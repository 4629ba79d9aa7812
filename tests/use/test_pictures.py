"""Images to predict are found, named, and scaled as those that the model was trained on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from distrain.data.provider import ExampleSpec
from distrain.data.select import select
from distrain.errors import BadInput
from distrain.use.pictures import find_pictures, normalisation, normalisation_in_words, read_picture
from tests.data import datasets

PIXELS = ExampleSpec((6, 6, 1), (6, 6), 3)
Maker = Callable[..., dict[str, Any]]


def _png(path: Path, *shape: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, np.uint8)).save(path)
    return path


def test_files_are_taken_in_plain_order_and_pages_are_numbered(tmp_path: Path) -> None:
    _png(tmp_path / "b.png", 4, 4)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((3, 4, 4), np.uint8), photometric="minisblack")
    found = find_pictures(str(tmp_path))
    assert [picture.name for picture in found] == ["a_0000", "a_0001", "a_0002", "b"]
    assert [picture.page.page for picture in found] == [0, 1, 2, 0]


def test_two_images_whose_outputs_would_be_one_are_refused(tmp_path: Path) -> None:
    _png(tmp_path / "a.png", 4, 4)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(BadInput, match=r"a.png, .*a.tif: what is made of them would have the same name 'a'"):
        find_pictures(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"INPUT: .* holds no files"):
        find_pictures(str(tmp_path))


@pytest.mark.parametrize("value_range", [None, [20, 200]])
def test_values_are_those_that_training_saw(value_range: list[int] | None, tmp_path: Path) -> None:
    """The same file through the provider and to be predicted."""
    images, labels = datasets.pixels(3, 6)
    options = {**datasets.image_pairs(tmp_path, images, labels), "value_range": value_range}
    job_options = datasets.options_of(options)
    source = select(job_options, key="data.train", seed=1, training=False)
    for number, picture in enumerate(find_pictures(str(tmp_path / "image"))):
        np.testing.assert_array_equal(read_picture(picture, PIXELS, job_options), source.read(number, 0).image)


def test_a_window_in_the_middle_where_an_image_has_one_class(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        _png(tmp_path / name / "a.png", 9, 8)
    options = datasets.options_of({"provider": "class_folders", "folder": str(tmp_path), "crop": [6, 6]})
    source = select(options, key="data.validation", seed=1, training=False)
    picture = find_pictures(str(tmp_path / "two"))[0]
    np.testing.assert_array_equal(read_picture(picture, source.spec, options), source.read(1, 0).image)


def test_other_channels_are_refused(tmp_path: Path) -> None:
    picture = find_pictures(str(_png(tmp_path / "a.png", 6, 6, 3)))[0]
    with pytest.raises(BadInput, match=r"a.png: has 3 channels, expected 1 as in training"):
        read_picture(picture, PIXELS, datasets.options_of({"provider": "circles"}))


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ({"provider": "circles"}, ("image", None), "absolute values, less the image's least, divided"),
        (
            {"provider": "image_pairs", "images": "a", "labels": "b", "value_range": [0, 9.5]},
            ("image", (0, 9.5)),
            "absolute values, clipped to 0 .. 9.5, less",
        ),
        ({"provider": "hdf5", "files": "a", "normalise": "none"}, ("none", None), "as they are"),
        ({"provider": "arrays", "files": "a"}, ("auto", None), "whole numbers: absolute .*; others: as they are"),
        ({"provider": "my.own:provider"}, ("auto", None), "whole numbers"),
    ],
)
def test_how_values_are_scaled_follows_the_job(options: dict[str, Any], expected: Any, words: str) -> None:
    found = normalisation(datasets.options_of(options))
    assert found == expected
    assert re.match(words, normalisation_in_words(*found))
