"""A data set of image files and label files: each page of an image is an example, the page paired with it its label.

What can be known from names and headers is checked when the data set is made, so that a wrong folder is refused before
training starts; pixels are checked whenever they are read. No file stays open.
"""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

from distrain.data import images as decoding
from distrain.data.formats.files import Array, Shape, words
from distrain.data.parallel import in_order
from distrain.data.paths import Wanted, files
from distrain.data.provider import Example, ExampleSpec
from distrain.data.storage import shown
from distrain.data.values import classified, listed, scaled
from distrain.errors import BadInput

# So many examples, spread evenly over the data set, have their headers read when it is made.
HEADERS_CHECKED = 4096
# Headers are waited for, not computed: a storage far away answers many requests in the time of one.
HEADER_THREADS = 16

_CHANNELS = (1, 3, 4)
_WANTED = Wanted("image_pairs", "images", decoding.is_image, decoding.ENDINGS)


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
        image_files, label_files = files(images, "images", _WANTED), files(labels, "labels", _WANTED)
        if pair_by == "name":
            label_files = _by_name(image_files, label_files)
        self._images, self._labels = Pages(image_files), Pages(label_files)
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
        image = shaped(image_page, decoding.read_page(*image_page))
        image = scaled(str(image_page), image, self._value_range)
        pixels = decoding.read_page(*label_page, indices=True)
        _require_label(label_page, pixels.shape)
        label = classified(str(label_page), pixels, self._classes, self._label_values)
        self._require_form(image_page, image.shape, self._spec.image_shape)
        _require_pair(image_page, image.shape, label_page, label.shape)
        return Example(image, label)

    def _checked_spec(self) -> ExampleSpec:
        """Compares the headers of the examples spread over the data set with each other."""
        count = min(len(self), HEADERS_CHECKED)
        chosen = [place * (len(self) - 1) // max(count - 1, 1) for place in range(count)]
        first = height, width, channels = image_shape(self._images.at(chosen[0]))

        def shape_of_pair(index: int) -> tuple[int, int, int]:
            image_page, label_page = self._images.at(index), self._labels.at(index)
            shape = image_shape(image_page)
            self._require_form(image_page, shape, first)
            _require_pair(image_page, shape, label_page, _label_shape(label_page))
            return shape

        for shape in in_order(shape_of_pair, chosen, threads=HEADER_THREADS):
            height, width = min(height, shape[0]), min(width, shape[1])
        return ExampleSpec(image_shape=(height, width, channels), label_shape=(height, width), classes=self._classes)

    def _require_form(self, page: Page, shape: Shape, first: tuple[int, int, int]) -> None:
        if shape[2] != first[2]:
            raise BadInput(f"{page}: has {_counted(shape[2])}, expected {first[2]} as in {self._images.at(0)}")
        if self._same_size and shape[:2] != first[:2]:
            raise BadInput(
                f"{page}: is {words(shape[:2])}, expected {words(first[:2])} (height x width) as in "
                f"{self._images.at(0)}; a crop would allow different sizes"
            )


class Page(NamedTuple):
    """One page of a file; as a string, what error messages call it."""

    path: str
    page: int

    def __str__(self) -> str:
        return shown(self.path) if decoding.has_one_page(self.path) else f"{shown(self.path)} (page {self.page})"


class Pages:
    """The pages of files one after the other; `counts` of each file."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files
        several = [path for path in files if not decoding.has_one_page(path)]
        counted = in_order(decoding.count_pages, several, threads=HEADER_THREADS)
        pages = dict(zip(several, counted, strict=True))
        self.counts = [pages.get(path, 1) for path in files]
        self._starts = list(itertools.accumulate(self.counts, initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> Page:
        """The page at `index`, counted over all files."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} examples")
        file = bisect.bisect_right(self._starts, index) - 1
        return Page(self.files[file], index - self._starts[file])


# --- arguments and files ---


def _require_values(
    classes: int, label_values: tuple[int, ...] | None, value_range: tuple[float, float] | None
) -> None:
    if classes < 2:
        raise BadInput(f"image_pairs: classes is {classes}, expected at least 2")
    if label_values is not None and len(label_values) != classes:
        raise BadInput(f"image_pairs: label_values has {len(label_values)} values, expected {classes}, one per class")
    if label_values is not None and len(set(label_values)) != classes:
        raise BadInput(f"image_pairs: label_values {listed(label_values)} repeats a value, expected different ones")
    if value_range is not None and not (len(value_range) == 2 and value_range[0] < value_range[1]):
        raise BadInput(f"image_pairs: value_range is {listed(value_range)}, expected two numbers, the lower first")


def _counted(channels: int) -> str:
    return "1 channel" if channels == 1 else f"{channels} channels"


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


def _require_same_pages(images: Pages, labels: Pages) -> None:
    pairs = zip(images.files, images.counts, labels.files, labels.counts, strict=True)
    for image, image_pages, label, label_pages in pairs:
        if image_pages != label_pages:
            raise BadInput(
                f"{shown(image)}: has {image_pages} pages, its label {shown(label)} {label_pages}, expected as many"
            )


# --- form ---


def image_shape(page: Page) -> tuple[int, int, int]:
    """(height, width, channels) of an image, from headers alone. Raises `BadInput`."""
    return _require_image(page, decoding.page_shape(*page))


def shaped(page: Page, pixels: Array) -> Array:
    """An image as (height, width, channels). Raises `BadInput` where it has another number of channels than 1, 3, 4."""
    return pixels.reshape(_require_image(page, pixels.shape))


def _require_image(page: Page, shape: Shape) -> tuple[int, int, int]:
    """(height, width, channels) of an image of a shape as in its file."""
    channels = shape[2] if len(shape) == 3 else 1
    if channels not in _CHANNELS:
        seen = "2 channels, grey and alpha" if channels == 2 else f"{channels} channels"
        raise BadInput(f"{page}: has {seen}, expected 1 (grey), 3 (RGB) or 4 (RGBA)")
    return shape[0], shape[1], channels


def _label_shape(page: Page) -> Shape:
    shape = decoding.page_shape(*page, indices=True)
    _require_label(page, shape)
    return shape


def _require_label(page: Page, shape: Shape) -> None:
    if len(shape) != 2:
        raise BadInput(f"{page}: is a label of {shape[2]} channels, expected 1 channel of class values")


def _require_pair(image_page: Page, image: Shape, label_page: Page, label: Shape) -> None:
    if image[:2] != label[:2]:
        raise BadInput(
            f"{label_page}: is a label of {words(label[:2])}, expected {words(image[:2])} (height x width) "
            f"as its image {image_page}"
        )
