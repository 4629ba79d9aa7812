"""Images to predict: which there are, read and scaled as those that the model was trained on; without TensorFlow."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

from distrain.data import images as decoding
from distrain.data.crop import centre_crop
from distrain.data.image_pairs import Page, Pages
from distrain.data.paths import Wanted, files
from distrain.data.provider import Example, ExampleSpec, FloatArray
from distrain.data.values import image_values
from distrain.errors import BadInput
from distrain.job import schema

WANTED = Wanted("predict", "images", decoding.is_image, decoding.ENDINGS)


@dataclass(frozen=True)
class Picture:
    """One image of a file, and the name, without an ending, of what is made of it."""

    page: Page
    name: str


def find_pictures(names: str) -> list[Picture]:
    """The images behind a folder, glob, file or URL, in plain order. Raises `BadInput` where there are none."""
    pages = Pages(files(names, "INPUT", WANTED))
    found = []
    for path, count in zip(pages.files, pages.counts, strict=True):
        stem = os.path.splitext(os.path.basename(path))[0]
        found += [Picture(Page(path, page), stem if count == 1 else f"{stem}_{page:04d}") for page in range(count)]
    name, count = Counter(picture.name for picture in found).most_common(1)[0]
    if count > 1:
        alike = ", ".join(sorted({picture.page.path for picture in found if picture.name == name})[:3])
        raise BadInput(f"INPUT: {alike}: what is made of them would have the same name '{name}'")
    return found


def normalisation(options: schema.ProviderChoice) -> tuple[str, tuple[float, float] | None]:
    """How the job's training images are scaled: `normalise` and `value_range` as `data.values.image_values` has them.

    What a provider of the user's own gives cannot be known; whole numbers are scaled then, as they mostly are.
    """
    if isinstance(options, schema.Arrays | schema.HDF5 | schema.TFRecords):
        return options.normalise, options.value_range
    if isinstance(options, schema.Files):
        return "image", options.value_range
    return ("image" if isinstance(options, schema.Circles) else "auto"), None


def normalisation_in_words(normalise: str, value_range: tuple[float, float] | None) -> str:
    """What is done to the values of an image before a model sees them."""
    clipped = "" if value_range is None else f"clipped to {value_range[0]:g} .. {value_range[1]:g}"
    each = ", ".join(filter(None, ("absolute values", clipped, "less the image's least, divided by its greatest then")))
    as_is = clipped or "as they are"
    return {"image": each, "none": as_is, "auto": f"whole numbers: {each}; others: {as_is}"}[normalise]


def read_picture(picture: Picture, spec: ExampleSpec, options: schema.ProviderChoice) -> FloatArray:
    """The image [height, width, channels] as a model for examples of `spec` was trained on them.

    Raises `BadInput` where it cannot be read, or has other channels. Where a whole image has one class and training
    cuts a window out, this is the window in the middle, as in validation.
    """
    page = picture.page
    normalise, value_range = normalisation(options)
    image = image_values(str(page), decoding.read_page(*page), normalise=normalise, value_range=value_range)
    channels = spec.image_shape[2]
    if image.shape[2] != channels:
        raise BadInput(f"{page}: has {image.shape[2]} channels, expected {channels} as in training")
    if not spec.segmentation and isinstance(options, schema.Files) and options.crop is not None:
        return centre_crop(Example(image, np.zeros((), np.int32)), options.crop).image
    return image
