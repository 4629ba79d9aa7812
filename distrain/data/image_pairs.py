"""A data set of image files and label files: each page of an image is an example, the page paired with it its label.

What can be known from names and headers is checked when the data set is made, so that a wrong folder is refused before
training starts; pixels are checked whenever they are read. No file stays open.
"""

from __future__ import annotations

import bisect
import functools
import glob
import itertools
import os
import stat
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from distrain.data import images as decoding
from distrain.data.formats.files import Array, Shape, shown, words
from distrain.data.provider import Example, ExampleSpec, FloatArray, LabelArray
from distrain.errors import BadInput

# So many examples, spread evenly over the data set, have their headers read when it is made.
HEADERS_CHECKED = 4096

_CHANNELS = (1, 3, 4)
_WHITE = 255  # the foreground of a mask as most programs write it


class ImagePairs:
    """Pairs of images and labels from files that `distrain.data.images` reads, one example for each page.

    `images` and `labels` each name a folder, a glob (`**` goes through folders), a file, or several of these. The files
    of a folder or a glob are taken in the plain order of their paths as strings, so that `10.png` comes before `2.png`;
    several are taken in the order given. Hidden files and files of unknown endings in a folder or glob are left out.

    `pair_by="order"` pairs the first page with the first, and so on, across files; `"name"` pairs the files of the
    same stem, whatever their folders and endings, in the order of the images, and page by page within them.

    An image is normalised on its own: absolute values, clipped to `value_range` where one is given, less their minimum,
    divided by what is then their maximum unless that is 0.

    `label_values` gives for each class the value that stands for it in the files. Without it values are classes; with
    two classes a label may then also hold 0 and 255 for 0 and 1.

    All images must have the same number of channels (1, 3 or 4), and the same size too unless `same_size` is false;
    then `spec` gives the least height and the least width seen in the headers, which is what a crop can count on.

    Raises `BadInput` where files are missing, cannot be paired, or differ in form.
    """

    def __init__(
        self,
        *,
        images: str | tuple[str, ...],
        labels: str | tuple[str, ...],
        pair_by: Literal["order", "name"] = "order",
        classes: int,
        label_values: tuple[int, ...] | None,
        value_range: tuple[float, float] | None,
        same_size: bool = True,
    ) -> None:
        _require_values(classes, label_values, value_range)
        if pair_by not in ("order", "name"):
            raise BadInput(f"image_pairs: pair_by is {pair_by!r}, expected 'order' or 'name'")
        self._classes = classes
        self._label_values = label_values
        self._value_range = value_range
        self._same_size = same_size
        image_files, label_files = _files(images, "images"), _files(labels, "labels")
        if pair_by == "name":
            label_files = _by_name(image_files, label_files)
        self._images, self._labels = _Pages(image_files), _Pages(label_files)
        if pair_by == "name":
            _require_same_pages(self._images, self._labels)
        if len(self._images) != len(self._labels):
            raise BadInput(
                f"images and labels do not pair: {len(self._images)} images in {len(image_files)} files, "
                f"{len(self._labels)} labels in {len(label_files)} files, expected as many labels as images"
            )
        self._spec = self._checked_spec()

    @property
    def spec(self) -> ExampleSpec:
        """Images (height, width, channels), labels (height, width); see `same_size` above."""
        return self._spec

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Example:
        """The example at `index`: image float32 in 0 .. 1, label int32 of the same height and width.

        Raises `BadInput`, naming the file, where one of the two cannot be read or does not fit.
        """
        image_page, label_page = self._images.at(index), self._labels.at(index)
        image = _normalised(image_page, decoding.read_page(*image_page), self._value_range)
        label = self._classified(label_page, decoding.read_page(*label_page, indices=True))
        self._require_form(image_page, image.shape, self._spec.image_shape)
        _require_pair(image_page, image.shape, label_page, label.shape)
        return Example(image, label)

    def _checked_spec(self) -> ExampleSpec:
        """Compares the headers of the examples spread over the data set with each other."""
        count = min(len(self), HEADERS_CHECKED)
        chosen = [place * (len(self) - 1) // max(count - 1, 1) for place in range(count)]
        first = height, width, channels = _image_shape(self._images.at(chosen[0]))
        for index in chosen:
            image_page, label_page = self._images.at(index), self._labels.at(index)
            shape = _image_shape(image_page)
            self._require_form(image_page, shape, first)
            _require_pair(image_page, shape, label_page, _label_shape(label_page))
            height, width = min(height, shape[0]), min(width, shape[1])
        return ExampleSpec(image_shape=(height, width, channels), label_shape=(height, width), classes=self._classes)

    def _require_form(self, page: _Page, shape: Shape, first: tuple[int, int, int]) -> None:
        if shape[2] != first[2]:
            raise BadInput(f"{page}: has {_counted(shape[2])}, expected {first[2]} as in {self._images.at(0)}")
        if self._same_size and shape[:2] != first[:2]:
            raise BadInput(
                f"{page}: is {words(shape[:2])}, expected {words(first[:2])} (height x width) as in "
                f"{self._images.at(0)}; a crop would allow different sizes"
            )

    def _classified(self, page: _Page, pixels: Array) -> LabelArray:
        """The classes of a label's pixels."""
        _require_label(page, pixels.shape)
        if pixels.dtype.kind not in "bui":
            raise BadInput(f"{page}: is a label of {pixels.dtype} values, expected whole numbers")
        if self._label_values is not None:
            classes = _looked_up(pixels, self._label_values)
        elif self._classes == 2 and pixels.max() == _WHITE:
            classes = _looked_up(pixels, (0, _WHITE))
        else:
            classes = _looked_up(pixels, range(self._classes))
        if classes.min() < 0:
            raise self._unknown_value(page, pixels[classes < 0][0])
        return classes

    def _unknown_value(self, page: _Page, value: Any) -> BadInput:
        if self._label_values is not None:
            allowed = f"one of the label_values {_listed(self._label_values)}"
        elif self._classes == 2:
            allowed = "0 and 1, or 0 and 255, as there are 2 classes"
        else:
            allowed = f"0 to {self._classes - 1}, as there are {self._classes} classes"
        lossy = os.path.splitext(page.path)[1].lower() in (".jpg", ".jpeg")
        hint = " (JPEG does not keep values: use PNG)" if lossy else ""
        return BadInput(f"{page}: has the label value {int(value)}, expected {allowed}{hint}")


class _Page(NamedTuple):
    """One page of a file; as a string, what error messages call it."""

    path: str
    page: int

    def __str__(self) -> str:
        return shown(self.path) if decoding.has_one_page(self.path) else f"{shown(self.path)} (page {self.page})"


class _Pages:
    """The pages of files one after the other."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        self.counts = [1 if decoding.has_one_page(path) else decoding.count_pages(path) for path in files]
        self._starts = list(itertools.accumulate(self.counts, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> _Page:
        """The page at `index`, counted over all files."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} examples")
        file = bisect.bisect_right(self._starts, index) - 1
        return _Page(self.files[file], index - self._starts[file])


# --- arguments and files ---


def _require_values(
    classes: int, label_values: tuple[int, ...] | None, value_range: tuple[float, float] | None
) -> None:
    if classes < 2:
        raise BadInput(f"image_pairs: classes is {classes}, expected at least 2")
    if label_values is not None and len(label_values) != classes:
        raise BadInput(f"image_pairs: label_values has {len(label_values)} values, expected {classes}, one per class")
    if label_values is not None and len(set(label_values)) != classes:
        raise BadInput(f"image_pairs: label_values {_listed(label_values)} repeats a value, expected different ones")
    if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
        raise BadInput(f"image_pairs: value_range is {_listed(value_range)}, expected two numbers, the lower first")


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(str(value) for value in values)}]"


def _counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


def _files(names: str | tuple[str, ...], key: str) -> list[str]:
    """The files behind the names given for `key`. None at all is an error."""
    if not names:
        raise BadInput(f"image_pairs: {key} is empty, expected a folder, a glob or a file")
    return [file for name in ((names,) if isinstance(names, str) else names) for file in _expanded(name, key)]


def _expanded(name: str, key: str) -> list[str]:
    """The files of one folder or glob, or the one file; a path that exists is not taken for a glob."""
    path = os.path.expanduser(name)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if glob.has_magic(path):
            found = sorted(file for file in glob.iglob(path, recursive=True) if not os.path.isdir(file))
            return _usable(found, key, f"the glob {shown(name)} matches")
        raise BadInput(f"{key}: {shown(name)}: no such file or folder, expected images to read") from None
    except (OSError, ValueError) as error:
        raise _unreadable(name, key, error) from error
    return _folder(path, name, key) if stat.S_ISDIR(mode) else [path]


def _folder(path: str, name: str, key: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            # A dangling link counts as a file: leaving it out would pair the files after it wrongly.
            files = sorted(entry.path for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except OSError as error:
        raise _unreadable(name, key, error) from error
    return _usable(files, key, f"the folder {shown(name)}, its subfolders aside, holds")


def _usable(files: list[str], key: str, what: str) -> list[str]:
    usable = [file for file in files if decoding.is_image(file)]
    if not usable:
        seen = f"{len(files)} files, none of them an image" if files else "no files"
        raise BadInput(f"{key}: {what} {seen}, expected files that end in {', '.join(decoding.ENDINGS)}")
    return usable


def _unreadable(name: str, key: str, error: Exception) -> BadInput:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return BadInput(f"{key}: {shown(name)}: cannot be read ({reason}), expected a readable file or folder")


def _by_name(image_files: list[str], label_files: list[str]) -> list[str]:
    """The label files in the order of the image files that have the same stems."""
    of_image, of_label = _by_stem(image_files, "images"), _by_stem(label_files, "labels")
    for stem, path in of_image.items():
        if stem not in of_label:
            raise BadInput(f"{shown(path)}: no label of this name, expected a label file with the stem {stem!r}")
    for stem, path in of_label.items():
        if stem not in of_image:
            raise BadInput(f"{shown(path)}: no image of this name, expected an image file with the stem {stem!r}")
    return [of_label[stem] for stem in of_image]


def _by_stem(files: list[str], key: str) -> dict[str, str]:
    stems: dict[str, str] = {}
    for path in files:
        stem = os.path.splitext(os.path.basename(path))[0]
        if stem in stems:
            raise BadInput(f"{key}: {shown(stems[stem])} and {shown(path)} have the same name, expected one of each")
        stems[stem] = path
    return stems


def _require_same_pages(images: _Pages, labels: _Pages) -> None:
    pairs = zip(images.files, images.counts, labels.files, labels.counts, strict=True)
    for image, image_pages, label, label_pages in pairs:
        if image_pages != label_pages:
            raise BadInput(
                f"{shown(image)}: has {image_pages} pages, its label {shown(label)} {label_pages}, expected as many"
            )


# --- form ---


def _image_shape(page: _Page) -> tuple[int, int, int]:
    return _require_image(page, decoding.page_shape(*page))


def _require_image(page: _Page, shape: Shape) -> tuple[int, int, int]:
    """(height, width, channels) of an image of a shape as in its file."""
    channels = shape[2] if len(shape) == 3 else 1
    if channels not in _CHANNELS:
        seen = "2 channels, grey and alpha" if channels == 2 else f"{channels} channels"
        raise BadInput(f"{page}: has {seen}, expected 1 (grey), 3 (RGB) or 4 (RGBA)")
    return shape[0], shape[1], channels


def _label_shape(page: _Page) -> Shape:
    shape = decoding.page_shape(*page, indices=True)
    _require_label(page, shape)
    return shape


def _require_label(page: _Page, shape: Shape) -> None:
    if len(shape) != 2:
        raise BadInput(f"{page}: is a label of {shape[2]} channels, expected 1 channel of class values")


def _require_pair(image_page: _Page, image: Shape, label_page: _Page, label: Shape) -> None:
    if image[:2] != label[:2]:
        raise BadInput(
            f"{label_page}: is a label of {words(label[:2])}, expected {words(image[:2])} (height x width) "
            f"as its image {image_page}"
        )


# --- values ---


def _normalised(page: _Page, pixels: Array, value_range: tuple[float, float] | None) -> FloatArray:
    """The image in 0 .. 1, of shape (height, width, channels)."""
    shape = _require_image(page, pixels.shape)
    # float32 holds integers of up to 16 bits and smaller floats exactly; what is wider is rounded at the end only.
    wide = pixels.dtype.itemsize > 2 and pixels.dtype != np.float32
    values: npt.NDArray[Any] = pixels.astype(np.float64 if wide else np.float32).reshape(shape)
    np.abs(values, out=values)
    if pixels.dtype.kind == "f" and not np.isfinite(values.max()):
        raise BadInput(f"{page}: has {_not_finite(pixels)}, expected finite values only")
    if value_range is not None:
        limit = float(np.finfo(values.dtype).max)
        np.clip(values, max(value_range[0], -limit), min(value_range[1], limit), out=values)
    values -= values.min()
    peak = values.max()
    if peak > 0:
        values /= peak
    return values.astype(np.float32, copy=False)


def _not_finite(pixels: Array) -> str:
    unknown, infinite = int(np.isnan(pixels).sum()), int(np.isinf(pixels).sum())
    return f"{unknown} pixels that are not a number (NaN) and {infinite} that are infinite"


def _looked_up(pixels: Array, values: Sequence[int]) -> LabelArray:
    """For each pixel the place of its value in `values`, -1 where it has none."""
    bits = 8 * pixels.dtype.itemsize
    if bits <= 16:
        # All values that a pixel can have fit into a table; its dtype is passed over by looking at the bits alone.
        lowest = -(1 << bits - 1) if pixels.dtype.kind == "i" else 0
        return _table(tuple(values), bits, lowest).take(pixels.view(f"u{pixels.dtype.itemsize}"))
    distinct, inverse = np.unique(pixels, return_inverse=True)
    place_of = {value: place for place, value in enumerate(values)}
    places = np.array([place_of.get(value, -1) for value in distinct.tolist()], np.int32)
    return places[inverse.reshape(pixels.shape)]


@functools.lru_cache(maxsize=16)
def _table(values: tuple[int, ...], bits: int, lowest: int) -> npt.NDArray[np.int32]:
    """For each pattern of `bits` bits the place of the number that it stands for in `values`, -1 where it has none."""
    table = np.full(1 << bits, -1, np.int32)
    for place, value in enumerate(values):
        if lowest <= value < lowest + len(table):
            table[value % len(table)] = place
    table.setflags(write=False)
    return table
