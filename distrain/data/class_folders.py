"""A data set of image files in one folder for each class: the folder's name is the label."""

from __future__ import annotations

import os

import numpy as np

from distrain.data import images as pictures
from distrain.data.image_pairs import HEADERS_CHECKED, Pages, image_shape, shaped
from distrain.data.paths import Wanted, files
from distrain.data.provider import Example, ExampleSpec
from distrain.data.storage import is_url, one_line, shown
from distrain.data.values import scaled
from distrain.errors import BadInput

_WANTED = Wanted("class_folders", "images", pictures.is_image, pictures.ENDINGS)


class ClassFolders:
    """The pages of all image files in `folder`/CLASS, each with its class as the label.

    Without `class_names` each subfolder that is not hidden is a class, in plain order of the names. All images must
    have the same number of channels (1, 3 or 4), and the same size too unless `same_size` is false; then `spec` gives
    the least height and width seen in the headers. Images are scaled to 0 .. 1 one by one.

    Raises `BadInput` where folders are missing or empty, or images differ in form.
    """

    def __init__(
        self,
        *,
        folder: str,
        class_names: tuple[str, ...] | None,
        value_range: tuple[float, float] | None,
        same_size: bool = True,
    ) -> None:
        self.class_names = class_names or _subfolders(folder)
        self._value_range = value_range
        self._same_size = same_size
        paths, counts = [], []
        for name in self.class_names:
            found = files(f"{folder.rstrip('/')}/{name}", "folder", _WANTED)
            paths += found
            counts.append(len(found))
        self._pages = Pages(paths)
        of_file = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self._classes = np.repeat(of_file, self._pages.counts)
        self._spec = self._checked_spec()

    @property
    def spec(self) -> ExampleSpec:
        """Images (height, width, channels), labels ()."""
        return self._spec

    def __len__(self) -> int:
        return len(self._pages)

    def read(self, index: int) -> Example:
        """The example at `index`. Raises `BadInput`, naming the file, where it cannot be read."""
        page = self._pages.at(index)
        image = shaped(page, pictures.read_page(*page))
        self._require_form(str(page), image.shape)
        return Example(scaled(str(page), image, self._value_range), np.asarray(self._classes[index], np.int32))

    def _checked_spec(self) -> ExampleSpec:
        count = min(len(self), HEADERS_CHECKED)
        chosen = [place * (len(self) - 1) // max(count - 1, 1) for place in range(count)]
        self._spec = ExampleSpec(image_shape(self._pages.at(chosen[0])), (), len(self.class_names))
        height, width, channels = self._spec.image_shape
        for index in chosen:
            page = self._pages.at(index)
            shape = image_shape(page)
            self._require_form(str(page), shape)
            height, width = min(height, shape[0]), min(width, shape[1])
        return ExampleSpec((height, width, channels), (), len(self.class_names))

    def _require_form(self, name: str, shape: tuple[int, ...]) -> None:
        expected = self._spec.image_shape
        if shape[2] != expected[2] or (self._same_size and shape[:2] != expected[:2]):
            raise BadInput(
                f"{name}: is {' x '.join(map(str, shape))} (height x width x channels), expected "
                f"{' x '.join(map(str, expected))} as in {self._pages.at(0)}"
                + ("; a crop would allow different sizes" if shape[2] == expected[2] else "")
            )


def _subfolders(folder: str) -> tuple[str, ...]:
    if is_url(folder):
        raise BadInput(f"{shown(folder)}: classes cannot be listed behind a URL, expected 'class_names' in the job")
    try:
        with os.scandir(os.path.expanduser(folder)) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise BadInput(f"{shown(folder)}: cannot be read ({one_line(error)}), expected a folder of classes") from error
    if len(names) < 2:
        raise BadInput(f"{shown(folder)}: has {len(names)} subfolders, expected one for each of at least 2 classes")
    return tuple(names)
