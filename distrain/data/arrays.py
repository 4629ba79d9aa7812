"""Data sets whose images and labels are the rows of arrays: NPY and NPZ files, HDF5 datasets."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from distrain.data.formats import npy, npz
from distrain.data.formats.files import MAX_SAMPLES, Array, Shape
from distrain.data.paths import Wanted, files
from distrain.data.provider import Example, ExampleSpec, Sharding
from distrain.data.sequential import Blocks
from distrain.data.storage import shown
from distrain.data.values import classified, image_values
from distrain.errors import BadInput


class Rows(Protocol):
    """An array in a file, read by its rows: the entries along its first axis."""

    @property
    def path(self) -> str: ...

    @property
    def shape(self) -> Shape: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def rows(self, start: int, count: int) -> Array:
        """Rows `start` to `start + count - 1`, [count, ...]. Raises `BadInput`."""
        ...


class Arrays:
    """Row i of the images with row i of the labels, over several pairs of arrays one behind the other.

    Images are [n, height, width] or [n, height, width, channels] of 1 to 4 channels, labels [n] or [n, height, width]
    of whole numbers. With `block` the rows are read that many at a time, and drawn pair by pair (`Sharding`).

    Raises `BadInput` where the arrays do not fit each other.
    """

    def __init__(
        self,
        images: Sequence[Rows],
        labels: Sequence[Rows],
        *,
        classes: int,
        label_values: tuple[int, ...] | None,
        normalise: str,
        value_range: tuple[float, float] | None,
        block: int | None = None,
        lanes: int = 1,
    ) -> None:
        if len(images) != len(labels):
            raise BadInput(f"images and labels do not pair: {len(images)} arrays of images, {len(labels)} of labels")
        self._images, self._labels = images, labels
        self._label_values = label_values
        self._normalise = normalise
        self._value_range = value_range
        self._spec = _common_spec(images, labels, classes)
        counts = tuple(array.shape[0] for array in images)
        self._starts = list(itertools.accumulate(counts, initial=0))
        self.sharding = None if block is None else Sharding(counts, block, lanes)
        self._blocks = None if block is None else Blocks(self._fetch, counts, block, kept=2 * lanes)

    @property
    def spec(self) -> ExampleSpec:
        """Images (height, width, channels), labels () or (height, width)."""
        return self._spec

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Example:
        """The example at `index`. Raises `BadInput`, naming file and row, where it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} examples")
        pair = bisect.bisect_right(self._starts, index) - 1
        row = index - self._starts[pair]
        pixels, label = self._fetch(pair, row, 1)[0] if self._blocks is None else self._blocks.get(pair, row)
        image = image_values(
            _named(self._images[pair], row), pixels, normalise=self._normalise, value_range=self._value_range
        )
        classes = classified(_named(self._labels[pair], row), label, self._spec.classes, self._label_values)
        return Example(image, classes)

    def _fetch(self, pair: int, first: int, count: int) -> list[tuple[Array, Array]]:
        images, labels = (arrays[pair].rows(first, count) for arrays in (self._images, self._labels))
        return [(images[number], np.asarray(labels[number])) for number in range(count)]


def npy_arrays(images: str | tuple[str, ...], labels: str | tuple[str, ...], **options: Any) -> Arrays:
    """The data set of NPY files, those of `images` paired with those of `labels` in order. Raises `BadInput`."""
    wanted = Wanted("arrays", "NPY files", _ends(".npy"), (".npy",))
    image_files, label_files = files(images, "images", wanted), files(labels, "labels", wanted)
    return Arrays([npy.stored(path) for path in image_files], [npy.stored(path) for path in label_files], **options)


def npz_arrays(names: str | tuple[str, ...], image_array: str, label_array: str, **options: Any) -> Arrays:
    """The data set of NPZ files, each of which has both arrays, and is read and kept whole. Raises `BadInput`."""
    paths = files(names, "files", Wanted("arrays", "NPZ files", _ends(".npz"), (".npz",)))
    images, labels = ([npz.member(path, name) for path in paths] for name in (image_array, label_array))
    rows = max((member.shape[0] for member in images if member.shape), default=1)
    return Arrays(images, labels, block=max(rows, 1), lanes=1, **options)


def hdf5_arrays(
    names: str | tuple[str, ...], image_array: str, label_array: str, *, shuffle: int, **options: Any
) -> Arrays:
    """The data set of HDF5 files, each of which has both datasets. Raises `BadInput`.

    Where a chunk holds several examples, blocks of whole chunks are read, of at least `shuffle` examples.
    """
    # Imported here: what reads HDF5 takes as long to load as all the other formats together.
    from distrain.data.formats import hdf5

    endings = (".h5", ".hdf5", ".hdf", ".he5")
    paths = files(names, "files", Wanted("hdf5", "HDF5 files", _ends(*endings), endings))
    images, labels = ([hdf5.dataset(path, name) for path in paths] for name in (image_array, label_array))
    chunk = max(array.chunk_rows if isinstance(array, hdf5.Chunked) else 1 for array in images)
    block = None if chunk == 1 else -(-shuffle // chunk) * chunk
    return Arrays(images, labels, block=block, lanes=1, **options)


def _ends(*endings: str) -> Any:
    return lambda path: path.lower().endswith(endings)


def _named(array: Rows, row: int) -> str:
    return f"{shown(array.path)} (row {row})"


def _common_spec(images: Sequence[Rows], labels: Sequence[Rows], classes: int) -> ExampleSpec:
    """The form that all pairs of arrays share. Raises `BadInput`, naming the first array that has another."""
    forms = [_form(image, label) for image, label in zip(images, labels, strict=True)]
    for (shape, label_shape), image in zip(forms, images, strict=True):
        if (shape, label_shape) != forms[0]:
            raise BadInput(
                f"{shown(image.path)}: has images of {list(shape)} and labels of {list(label_shape)}, expected "
                f"{list(forms[0][0])} and {list(forms[0][1])} as in {shown(images[0].path)}"
            )
    return ExampleSpec(*forms[0], classes)


def _form(images: Rows, labels: Rows) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    shape = images.shape if len(images.shape) == 4 else (*images.shape, 1)
    if len(shape) != 4 or min(shape) < 1 or shape[3] > 4 or shape[1] * shape[2] * shape[3] > MAX_SAMPLES:
        raise BadInput(
            f"{shown(images.path)}: has images of shape {list(images.shape)}, expected [n, height, width], or 1 to 4 "
            "channels behind"
        )
    expected = [[shape[0]], list(shape[:3])]
    if list(labels.shape) not in expected:
        raise BadInput(
            f"{shown(labels.path)}: has labels of shape {list(labels.shape)}, expected {expected[0]} or {expected[1]} "
            f"as its images in {shown(images.path)}"
        )
    if labels.dtype.kind not in "bui":
        raise BadInput(f"{shown(labels.path)}: has labels of {labels.dtype}, expected whole numbers")
    return (shape[1], shape[2], shape[3]), labels.shape[1:]
