"""Pictures of predictions, read back pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from distrain.data.provider import Example
from distrain.log.predictions import GAP, draw

Pixels = npt.NDArray[np.uint8]


def _drawn(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


def _part(picture: Pixels, number: int, size: int, row: int = 0) -> Pixels:
    """One of the three pictures of a row; there is a gap before and after each."""
    left, top = GAP + number * (size + GAP), GAP + row * (size + 2 * GAP)
    return picture[top : top + size, left : left + size]


def test_input_label_and_prediction_are_side_by_side(tmp_path: Path) -> None:
    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8, 1)
    label = np.arange(64, dtype=np.int32).reshape(8, 8) % 3
    predicted = np.eye(4, dtype=np.int32) * 2
    draw(tmp_path / "new" / "epoch_0000.png", [Example(image, label)], [predicted], classes=3)
    picture = _drawn(tmp_path / "new" / "epoch_0000.png")
    assert picture.shape == (4 + 2 * GAP, 3 * 4 + 4 * GAP, 3)
    greys = ((image[2:6, 2:6] + 1) * 127.5).astype(np.uint8)
    assert np.array_equal(_part(picture, 0, 4), np.repeat(greys, 3, axis=2))
    assert np.array_equal(_part(picture, 1, 4)[..., 0], np.array([0, 127, 255])[label[2:6, 2:6]])
    assert np.array_equal(_part(picture, 2, 4)[..., 0], np.eye(4) * 255)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["epoch_0000.png"]


def test_each_example_has_a_row(tmp_path: Path) -> None:
    examples = [Example(np.zeros((4, 4, 1), np.float32), np.full((4, 4), number, np.int32)) for number in (0, 1, 1)]
    predicted = [np.full((4, 4), number, np.int32) for number in (1, 0, 1)]
    draw(tmp_path / "a.png", examples, predicted, classes=2)
    picture = _drawn(tmp_path / "a.png")
    seen = [[int(_part(picture, number, 4, row).mean()) for number in (1, 2)] for row in range(3)]
    assert seen == [[0, 255], [255, 0], [255, 255]]


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("value", [0.0, 5.0])
def test_flat_images_of_any_channels_are_drawn(tmp_path: Path, channels: int, value: float) -> None:
    image = np.full((4, 4, channels), value, np.float32)
    labels = np.zeros((4, 4), np.int32)
    draw(tmp_path / "a.png", [Example(image, labels)], [labels], classes=2)
    assert _part(_drawn(tmp_path / "a.png"), 0, 4).max() == 0


def test_colours_stay_colours(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.float32)
    image[..., 1] = 1
    labels = np.zeros((4, 4), np.int32)
    draw(tmp_path / "a.png", [Example(image, labels)], [labels], classes=2)
    assert _part(_drawn(tmp_path / "a.png"), 0, 4)[0, 0].tolist() == [0, 255, 0]


def test_classes_of_whole_images_are_written_below(tmp_path: Path) -> None:
    examples = [Example(np.eye(8, dtype=np.float32)[:, :, None], np.asarray(1, np.int32))]
    for name, predicted in (("a", 1), ("b", 1), ("c", 2)):
        draw(tmp_path / f"{name}.png", examples, [np.asarray(predicted, np.int32)], classes=3)
    one, same, other = (_drawn(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(one[GAP : GAP + 8, GAP : GAP + 8, 0], np.eye(8) * 255)


def test_what_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    labels = np.zeros((4, 4), np.int32)
    with pytest.raises(OSError, match=r"."):
        draw(tmp_path / "file" / "a.png", [Example(np.zeros((4, 4, 1), np.float32), labels)], [labels], classes=2)
