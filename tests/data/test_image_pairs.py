"""Pairs of image and label files: which files are taken and paired, what values they give, and what is refused."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from distrain.data import image_pairs, images
from distrain.data.formats.files import Shape
from distrain.data.image_pairs import ImagePairs
from distrain.data.provider import Provider
from distrain.errors import BadInput

Array = npt.NDArray[Any]

_MEMBRANE = Path(os.environ.get("DISTRAIN_MEMBRANE") or Path(__file__).parents[3] / "shared" / "data" / "membrane")


def _pairs(images: Any, labels: Any, **changes: Any) -> ImagePairs:
    def texts(paths: Any) -> Any:
        return tuple(map(str, paths)) if isinstance(paths, tuple) else str(paths)

    options: dict[str, Any] = {"classes": 2, "label_values": None, "value_range": None} | changes
    return ImagePairs(images=texts(images), labels=texts(labels), **options)


def _save(path: Path, pixels: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        Image.fromarray(pixels).save(path)
    return path


def _image(value: int, height: int = 4, width: int = 5) -> Array:
    """An image that tells `value` after normalisation: its second pixel is value / 255."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[0, 1], pixels[-1, -1] = value, 255
    return pixels


def _label(value: int, height: int = 4, width: int = 5) -> Array:
    """A label that tells `value` by the place of its only 1."""
    pixels = np.zeros((height, width), np.uint8)
    pixels.flat[value] = 1
    return pixels


def _folder(folder: Path, names: Iterable[str], pixels: Any) -> Path:
    """One file for each name; the n-th is made of n."""
    for number, name in enumerate(names):
        _save(folder / name, pixels(number))
    return folder


def _contents(provider: Provider) -> list[tuple[int, int]]:
    """What `_image` and `_label` were made of, for each example."""
    examples = [provider.read(index) for index in range(len(provider))]
    return [(round(float(image[0, 1, 0]) * 255), int(label.argmax())) for image, label in examples]


def _one(tmp_path: Path, image: Array, label: Array, ending: str = ".npy", **changes: Any) -> ImagePairs:
    """A data set of one pair of files."""
    return _pairs(_save(tmp_path / f"i{ending}", image), _save(tmp_path / f"l{ending}", label), **changes)


# --- files ---


def test_a_folder_is_read_in_plain_order(tmp_path: Path) -> None:
    images = _folder(tmp_path / "i", ["b.png", "10.png", "a.tif", "2.npy"], _image)
    labels = _folder(tmp_path / "l", ["0.png", "1.png", "2.png", "3.png"], _label)
    provider: Provider = _pairs(images, labels)
    assert _contents(provider) == [(1, 0), (3, 1), (2, 2), (0, 3)]
    spec = provider.spec
    assert (len(provider), spec.image_shape, spec.label_shape, spec.classes) == (4, (4, 5, 1), (4, 5), 2)


def test_hidden_files_folders_and_unknown_endings_are_left_out(tmp_path: Path) -> None:
    images = _folder(tmp_path / "i", ["a.png", ".b.png", "c.PNG"], _image)
    (images / "README.md").write_text("not an image")
    (images / "d.png").mkdir()
    labels = _folder(tmp_path / "l", ["0.png", "1.png"], _label)
    assert _contents(_pairs(images, labels)) == [(0, 0), (2, 1)]
    assert _contents(_pairs(images / "*", labels)) == [(0, 0), (2, 1)]


def test_globs_files_and_lists(tmp_path: Path) -> None:
    _folder(tmp_path / "i" / "z", ["a.png", "b.png"], _image)
    _folder(tmp_path / "i" / "y", ["0.png", "1.png", "2.png"], _image)
    labels = _folder(tmp_path / "l", ["0.png", "1.png", "2.png", "3.png", "4.png"], _label)
    images = tmp_path / "i"
    expected = [(0, 0), (1, 1), (0, 2), (1, 3), (2, 4)]
    assert _contents(_pairs((images / "z", images / "y"), labels)) == expected
    assert _contents(_pairs((images / "z" / "?.png", images / "y" / "[012].png"), labels)) == expected
    several = (images / "y" / "2.png", images / "z" / "*.png")
    assert _contents(_pairs(several, labels / "[0-2].png")) == [(2, 0), (0, 1), (1, 2)]
    _save(images / "y" / "deep" / "er.png", _image(9))
    _save(labels / "5.png", _label(5))
    assert _contents(_pairs(images / "**" / "*.png", labels)) == [(0, 0), (1, 1), (2, 2), (9, 3), (0, 4), (1, 5)]


def test_a_file_may_have_the_name_of_a_glob(tmp_path: Path) -> None:
    image = _save(tmp_path / "i [1].png", _image(7))
    assert _contents(_pairs(image, _save(tmp_path / "l.png", _label(3)))) == [(7, 3)]


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _save(tmp_path / "i.png", _image(7))
    _save(tmp_path / "l.png", _label(3))
    assert _contents(_pairs("~/i.png", "~/l*.png")) == [(7, 3)]


def test_pages_of_several_files_are_counted_through(tmp_path: Path) -> None:
    images = _save(tmp_path / "a.tif", np.stack([_image(n) for n in range(3)])).parent
    _save(tmp_path / "b.png", _image(3))
    _save(tmp_path / "c.npy", np.stack([_image(n) for n in range(4, 6)]))
    labels = _folder(tmp_path / "l", [f"{n}.png" for n in range(6)], _label)
    provider = _pairs(images, labels)
    assert _contents(provider) == [(n, n) for n in range(6)]
    for index in (-1, 6):
        with pytest.raises(IndexError, match="6 examples"):
            provider.read(index)


def test_pairs_by_name(tmp_path: Path) -> None:
    images = _folder(tmp_path / "i", ["a.png", "c.png", "b.png"], _image)
    labels = _folder(tmp_path / "l", ["c.tif", "a.tif"], _label)
    _save(tmp_path / "more" / "b.npy", _label(9))
    provider = _pairs(images, (labels, tmp_path / "more"), pair_by="name")
    assert _contents(provider) == [(0, 1), (2, 9), (1, 0)]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (["a.png", "b.png"], ["a.png"], "i/b.png: no label of this name, expected a label file with the stem 'b'"),
        (["a.png"], ["a.png", "z.png", "c.png"], "l/c.png: no image of this name, expected an image file"),
        (["a.png", "a.tif"], ["a.png"], "images: .*i/a.png and .*i/a.tif have the same name"),
        (["a.png"], ["a.png", "a.tif"], "labels: .*l/a.png and .*l/a.tif have the same name"),
    ],
)
def test_names_that_do_not_pair_are_refused(tmp_path: Path, images: list[str], labels: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _pairs(_folder(tmp_path / "i", images, _image), _folder(tmp_path / "l", labels, _label), pair_by="name")


def test_numbers_of_pages_must_match(tmp_path: Path) -> None:
    stack = np.stack([_image(n) for n in range(3)])
    images, labels = _save(tmp_path / "i" / "a.tif", stack), _save(tmp_path / "l" / "a.tif", stack[:2])
    _save(tmp_path / "l" / "b.png", _label(0))
    with pytest.raises(BadInput, match=r"3 images in 1 files, 2 labels in 1 files"):
        _pairs(images, labels)
    with pytest.raises(BadInput, match=r"i/a.tif: has 3 pages, its label .*l/a.tif 2, expected as many"):
        _pairs(images, labels, pair_by="name")


def test_pages_must_match_file_by_file_where_names_pair(tmp_path: Path) -> None:
    """The totals agree, so that without this check pages of one file would pair with those of another."""
    for folder, counts in (("i", (1, 2)), ("l", (2, 1))):
        for name, count in zip("ab", counts, strict=True):
            _save(tmp_path / folder / f"{name}.tif", np.stack([_label(0)] * count))
    with pytest.raises(BadInput, match=r"i/a.tif: has 1 pages, its label .*l/a.tif 2"):
        _pairs(tmp_path / "i", tmp_path / "l", pair_by="name")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere", "images: .*nowhere: no such file or folder"),
        ("nowhere/*.png", r"images: the glob .*nowhere/\*.png matches no files, expected files that end in .png, .jpg"),
        ("text/*", r"images: the glob .*text/\* matches 1 files, none of them an image"),
        ("text", "images: the folder .*text, its subfolders aside, holds 1 files, none of them an image"),
        ("empty", "images: the folder .*empty, its subfolders aside, holds no files"),
        ("text/a.txt", "a.txt: has the ending '.txt', expected one of"),
        ("a\0b", r"images: .*a\\x00b'?: cannot be read \(embedded null byte\)"),
        ("a" * 300, r"cannot be read \(File name too long\)"),
    ],
)
def test_places_without_images_are_refused(tmp_path: Path, images: str, message: str) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("text")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    label = _save(tmp_path / "l.png", _label(0))
    with pytest.raises(BadInput, match=message) as caught:
        _pairs(f"{tmp_path}/{images}", label)
    assert "\n" not in str(caught.value)


def test_no_names_at_all_are_refused(tmp_path: Path) -> None:
    for labels in ((), ""):
        with pytest.raises(BadInput, match="labels is empty, expected a folder, a glob or a file"):
            _pairs(_save(tmp_path / "i.png", _image(0)), labels)


def test_an_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    images = _folder(tmp_path / "i", ["a.png"], _image)
    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(BadInput, match=rf"images: {images}: cannot be read \(Permission denied\)"):
        _pairs(images, images)


def test_a_link_to_nowhere_is_refused_instead_of_left_out(tmp_path: Path) -> None:
    """Left out, it would shift the pairs behind it."""
    images = _folder(tmp_path / "i", ["b.png", "c.png"], _image)
    (images / "a.png").symlink_to("nowhere.png")
    labels = _folder(tmp_path / "l", ["a.png", "b.png", "c.png"], _label)
    for names in (images, images / "*.png"):
        with pytest.raises(BadInput, match=r"i/a\.png: no such file"):
            _pairs(names, labels)


# --- images ---


def _normalised(pixels: Array, low: float = -np.inf, high: float = np.inf) -> Array:
    """The origin's formula in float64."""
    values: Array = np.clip(np.abs(pixels.astype(np.float64)), low, high)
    values -= values.min()
    return values / values.max() if values.max() else values


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("value_range", [None, (20.0, 90.5), (-1e300, float("inf"))])
def test_images_are_normalised_as_the_origin_does(
    tmp_path: Path, dtype: str, value_range: tuple[float, float] | None
) -> None:
    generator = np.random.default_rng(5)
    signed = generator.standard_normal((6, 7)) * 60 + 20
    pixels = (np.abs(signed) if dtype.startswith("u") else signed).astype(dtype)
    image = _one(tmp_path, pixels, _label(0, 6, 7), value_range=value_range).read(0).image
    assert image.dtype == np.float32
    assert image.shape == (6, 7, 1)
    assert (image.min(), image.max()) == (0, 1)
    np.testing.assert_allclose(image[:, :, 0], _normalised(pixels, *(value_range or ())), atol=2e-7)


def test_the_least_integer_has_an_absolute_value(tmp_path: Path) -> None:
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        pixels = np.array([[np.iinfo(dtype).min, 0]], dtype)
        assert _one(tmp_path, pixels, np.zeros((1, 2), np.uint8)).read(0).image.ravel().tolist() == [1, 0]


def test_large_values_keep_their_differences(tmp_path: Path) -> None:
    """In float32 the three would be one."""
    pixels = np.array([[2**30, 2**30 + 1, 2**30 + 2]], np.int32)
    assert _one(tmp_path, pixels, np.zeros((1, 3), np.uint8)).read(0).image.ravel().tolist() == [0, 0.5, 1]


def test_an_image_of_one_value_is_zero(tmp_path: Path) -> None:
    image = _one(tmp_path, np.full((3, 4), 77, np.uint8), _label(0, 3, 4)).read(0).image
    assert not image.any()


@pytest.mark.parametrize("channels", [3, 4])
def test_channels_are_as_in_the_file(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 6, channels), dtype=np.uint8)
    provider = _one(tmp_path, pixels, _label(0, 5, 6), ".npy")
    assert provider.spec.image_shape == (5, 6, channels)
    np.testing.assert_allclose(provider.read(0).image, _normalised(pixels), atol=2e-7)


def test_palette_images_are_colours_as_images_and_classes_as_labels(tmp_path: Path) -> None:
    pixels = Image.fromarray(_label(3)).convert("P")
    pixels.putpalette([0, 0, 0, 255, 10, 20] + [0] * 762)
    pixels.save(tmp_path / "a.png")
    image, label = _pairs(tmp_path / "a.png", tmp_path / "a.png").read(0)
    assert image.shape == (4, 5, 3)
    assert np.allclose(image[0, 3] * 255, [255, 10, 20])
    assert np.array_equal(label, _label(3))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((4, 5, 2), "has 2 channels, grey and alpha, expected 1"), ((4, 5, 5), "has 5 channels, expected 1")],
)
def test_other_numbers_of_channels_are_refused(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    pixels = np.zeros((1, *shape), np.uint8)
    with pytest.raises(BadInput, match=rf"i.npy \(page 0\): {message} \(grey\), 3 \(RGB\) or 4 \(RGBA\)"):
        _one(tmp_path, pixels, _label(0))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: str) -> None:
    pixels = np.ones((3, 4, 5), dtype)
    pixels[1, 2, 2] = value
    labels = _save(tmp_path / "l.npy", np.zeros((3, 4, 5), np.uint8))
    provider = _pairs(_save(tmp_path / "i.npy", pixels), labels, value_range=(0.0, 1.0))
    provider.read(0)
    counts = "1 pixels that are not a number (NaN) and 0" if np.isnan(value) else "0 pixels .* and 1"
    with pytest.raises(BadInput, match=rf"i.npy \(page 1\): has {counts}".replace("(NaN)", r"\(NaN\)")):
        provider.read(1)


# --- labels ---


def _classes(tmp_path: Path, label: Array, ending: str = ".npy", **changes: Any) -> list[int]:
    read = _one(tmp_path, np.zeros(label.shape[:2], np.uint8), label, ending, **changes).read(0).label
    assert read.dtype == np.int32
    assert read.shape == label.shape[:2]
    values: list[int] = read.ravel().tolist()
    return values


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_values_are_classes(tmp_path: Path, dtype: str) -> None:
    assert _classes(tmp_path, np.array([[0, 2, 1, 2]], dtype), classes=3) == [0, 2, 1, 2]
    assert _classes(tmp_path, np.array([[0, 1, 1]], dtype), classes=2) == [0, 1, 1]


def test_masks_may_be_bools_or_black_and_white(tmp_path: Path) -> None:
    assert _classes(tmp_path, np.array([[False, True]])) == [0, 1]
    assert _classes(tmp_path, np.array([[False, True]]), ".png") == [0, 1]
    for dtype in ("u1", "u2", "i4"):
        assert _classes(tmp_path, np.array([[0, 255, 255]], dtype)) == [0, 1, 1]
        assert _classes(tmp_path, np.array([[255]], dtype)) == [1]


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i1", "i8"])
def test_label_values_stand_for_classes(tmp_path: Path, dtype: str) -> None:
    label = np.array([[7, 0, 100, 7]], dtype)
    assert _classes(tmp_path, label, classes=3, label_values=(100, 7, 0)) == [1, 2, 0, 1]
    # Values that the dtype cannot hold do not occur; they must not wrap around to ones that do.
    assert _classes(tmp_path, label, classes=4, label_values=(100, 7, 0, 100 - 2**64)) == [1, 2, 0, 1]


def test_negative_label_values(tmp_path: Path) -> None:
    for dtype in ("i1", "i2", "i4"):
        assert _classes(tmp_path, np.array([[-1, 5]], dtype), classes=2, label_values=(5, -1)) == [1, 0]


@pytest.mark.parametrize(
    ("label", "changes", "message"),
    [
        ([[0, 3]], {"classes": 3}, "label value 3, expected 0 to 2, as there are 3 classes"),
        ([[0, 255]], {"classes": 3}, "label value 255, expected 0 to 2"),
        ([[0, 2]], {}, "label value 2, expected 0 and 1, or 0 and 255, as there are 2 classes"),
        ([[0, 128, 255]], {}, "label value 128, expected 0 and 1, or 0 and 255"),
        ([[0, 1, 255]], {}, "label value 1, expected 0 and 1, or 0 and 255"),
        ([[0, 5]], {"label_values": (5, 6)}, r"label value 0, expected one of the label_values \[5, 6\]"),
        ([[0, 255]], {"label_values": (0, 1)}, r"label value 255, expected one of the label_values \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4"])
def test_other_label_values_are_refused(
    tmp_path: Path, label: list[list[int]], changes: dict[str, Any], message: str, dtype: str
) -> None:
    with pytest.raises(BadInput, match=rf"l.npy \(page 0\): has the {message}"):
        _classes(tmp_path, np.array(label, dtype), **changes)


def test_a_negative_value_is_no_class(tmp_path: Path) -> None:
    for dtype in ("i1", "i2", "i8"):
        with pytest.raises(BadInput, match="label value -1, expected 0 and 1"):
            _classes(tmp_path, np.array([[0, -1]], dtype))


def test_a_jpeg_label_gets_a_hint(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 2, (16, 16), dtype=np.uint8) * 255
    with pytest.raises(BadInput, match=r"\(JPEG does not keep values: use PNG\)"):
        _classes(tmp_path, label, ".jpg")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros((4, 5, 3), np.uint8), "is a label of 3 channels, expected 1 channel of class values"),
        (np.zeros((4, 5), np.float32), "is a label of float32 values, expected whole numbers"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, label: Array, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _classes(tmp_path, label)


# --- sizes ---


def test_image_and_label_of_different_size_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"l.png: is a label of 5 x 4, expected 4 x 5 .* as its image .*i.png"):
        _one(tmp_path, _image(0, 4, 5), _label(0, 5, 4), ".png")


def _sizes(tmp_path: Path, *sizes: tuple[int, int], **changes: Any) -> ImagePairs:
    for number, (height, width) in enumerate(sizes):
        _save(tmp_path / "i" / f"{number}.png", _image(0, height, width))
        _save(tmp_path / "l" / f"{number}.png", _label(0, height, width))
    return _pairs(tmp_path / "i", tmp_path / "l", **changes)


def test_images_of_different_size_are_refused_unless_allowed(tmp_path: Path) -> None:
    sizes = (6, 7), (5, 9), (8, 6)
    with pytest.raises(BadInput, match=r"i/1.png: is 5 x 9, expected 6 x 7 \(height x width\) as in .*i/0.png; a crop"):
        _sizes(tmp_path, *sizes)
    provider = _sizes(tmp_path, *sizes, same_size=False)
    assert [provider.read(index).image.shape[:2] for index in range(3)] == list(sizes)
    assert [provider.read(index).label.shape for index in range(3)] == list(sizes)
    assert (provider.spec.image_shape, provider.spec.label_shape) == ((5, 6, 1), (5, 6))


def test_images_of_different_channels_are_always_refused(tmp_path: Path) -> None:
    _save(tmp_path / "i" / "0.png", _image(0))
    _save(tmp_path / "i" / "1.png", np.zeros((4, 5, 3), np.uint8))
    labels = _folder(tmp_path / "l", ["0.png", "1.png"], _label)
    with pytest.raises(BadInput, match=r"i/1.png: has 3 channels, expected 1 as in .*i/0.png"):
        _pairs(tmp_path / "i", labels, same_size=False)


def test_headers_are_checked_for_a_bounded_number_spread_over_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 3 of 7 checked the first, the middle and the last are; the others show when they are read."""
    monkeypatch.setattr(image_pairs, "HEADERS_CHECKED", 3)
    for odd, refused in ((6, True), (3, True), (2, False)):
        sizes = [(9, 9) if number == odd else (6, 7) for number in range(7)]
        if refused:
            with pytest.raises(BadInput, match=rf"i/{odd}.png: is 9 x 9"):
                _sizes(tmp_path, *sizes)
        else:
            provider = _sizes(tmp_path, *sizes)
            provider.read(0)
            with pytest.raises(BadInput, match=rf"i/{odd}.png: is 9 x 9"):
                provider.read(odd)


def test_headers_are_read_many_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage far away takes a tenth of a second for each; the run would be ended as standing still."""
    under_way, most = 0, 0
    page_shape = images.page_shape

    def slow(path: str, page: int, *, indices: bool = False) -> Shape:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.01)
        under_way -= 1
        return page_shape(path, page, indices=indices)

    monkeypatch.setattr(images, "page_shape", slow)
    _sizes(tmp_path, *[(6, 7)] * 20)
    assert most > 8


def test_what_changes_after_the_check_is_found_on_reading(tmp_path: Path) -> None:
    provider = _sizes(tmp_path, (6, 7), (6, 7))
    _save(tmp_path / "l" / "1.png", _label(0, 5, 7))
    with pytest.raises(BadInput, match=r"l/1.png: is a label of 5 x 7, expected 6 x 7"):
        provider.read(1)
    (tmp_path / "i" / "0.png").unlink()
    with pytest.raises(BadInput, match=r"i/0.png: no such file"):
        provider.read(0)


def test_a_damaged_file_is_named_on_reading(tmp_path: Path) -> None:
    provider = _sizes(tmp_path, (60, 70))
    path = tmp_path / "i" / "0.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"i/0.png: cannot be decoded \(it is cut short"):
        provider.read(0)


# --- arguments ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes is 1, expected at least 2"),
        ({"label_values": (0, 1, 2)}, "label_values has 3 values, expected 2, one per class"),
        ({"label_values": (5, 5)}, r"label_values \[5, 5\] repeats a value"),
        ({"value_range": (3.0, 3.0)}, r"value_range is \[3.0, 3.0\], expected two numbers, the lower first"),
        ({"value_range": (0.0, float("nan"))}, r"value_range is \[0.0, nan\]"),
        ({"value_range": (0.0,)}, r"value_range is \[0.0\]"),
        ({"pair_by": "magic"}, "pair_by is 'magic', expected 'order' or 'name'"),
    ],
)
def test_senseless_arguments_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        _one(tmp_path, _image(0), _label(0), **changes)


# --- use ---


def test_threads_read_the_same_and_leave_no_file_open(tmp_path: Path) -> None:
    _save(tmp_path / "i.tif", np.stack([_image(n) for n in range(20)]))
    _save(tmp_path / "l.npy", np.stack([_label(n) for n in range(20)]))
    provider = _pairs(tmp_path / "i.tif", tmp_path / "l.npy")
    found: list[list[tuple[int, int]]] = [[] for _ in range(4)]

    def work(place: int) -> None:
        found[place] = _contents(provider)

    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert found == [[(n, n) for n in range(20)]] * 4
    assert after == before


@pytest.mark.skipif(
    not (_MEMBRANE / "image").is_dir(),
    reason="no sample images: set DISTRAIN_MEMBRANE to a folder with the folders image and label of the membrane set",
)
def test_membrane() -> None:
    for pair_by in ("order", "name"):
        provider = _pairs(_MEMBRANE / "image", _MEMBRANE / "label", pair_by=pair_by)
        assert (len(provider), provider.spec.image_shape, provider.spec.classes) == (25, (512, 512, 1), 2)
        image, label = provider.read(20)
        stored = np.asarray(Image.open(_MEMBRANE / "image" / "20.png"))
        assert np.allclose(image[:, :, 0], _normalised(stored), atol=2e-7)
        assert np.array_equal(label, np.asarray(Image.open(_MEMBRANE / "label" / "20.png")) == 255)
        # Cells are the light part, membranes the dark one, about a fifth.
        assert 0.7 < label.mean() < 0.9
        assert image[label == 1].mean() > image[label == 0].mean()
