"""Where predictions and exported models cannot go, and windows that are too small: refused before a model is built."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrain.errors import BadInput
from distrain.job.schema import UNet
from distrain.model.tiling import unet_tiling
from distrain.use.export import export
from distrain.use.pictures import find_pictures
from distrain.use.predict import Wish, _check_folder, _check_window

# Nothing is asked of it before the target is found good.
SAVED: Any = None


def test_a_folder_that_holds_an_image_to_predict_is_none_for_the_output(tmp_path: Path) -> None:
    """Another name of the folder, too."""
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / "a.png")
    (tmp_path / "other").symlink_to("in")
    pictures = find_pictures(str(tmp_path / "in"))
    with pytest.raises(BadInput, match=r"other: holds the image .*in/a\.png, expected another folder for the output"):
        _check_folder(Wish(str(tmp_path / "in"), tmp_path / "other", 1024), pictures)
    _check_folder(Wish(str(tmp_path / "in"), tmp_path / "in" / "out", 1024), pictures)
    assert (tmp_path / "in" / "out").is_dir()


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_folder_for_the_output_that_cannot_be_made(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=rf"{place}: cannot be made \(.*\), expected a folder for the output"):
        _check_folder(Wish("in", tmp_path / place, 1024), [])


def test_a_window_in_which_no_pixel_sees_all_that_it_needs() -> None:
    tiling = unet_tiling(UNet(layers=2))
    with pytest.raises(BadInput, match="--window is 9, expected at least 20 for this model"):
        _check_window(9, tiling)
    _check_window(20, tiling)
    _check_window(9, None)


def test_an_export_takes_no_name_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("folder", "link"):
        with pytest.raises(BadInput, match=f"{name}: is there already, expected a new name"):
            export(SAVED, tmp_path / name, logits=False)
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def test_an_export_into_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/model: cannot be written \(.*\), expected a name in a folder"):
        export(SAVED, tmp_path / "file" / "model", logits=False)
    assert os.listdir(tmp_path) == ["file"]
