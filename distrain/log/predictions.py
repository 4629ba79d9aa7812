"""Pictures of what the model makes of a few fixed examples: input, label and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from distrain.data.provider import Example

GAP = 4
Grey = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]
Number = TypeVar("Number", np.uint8, np.int32)


def draw(path: Path, examples: Sequence[Example], predicted: Sequence[Labels], *, classes: int) -> None:
    """Write a PNG with a row for each example. Raises `OSError` where it cannot be written.

    `predicted[i]` is [h, w], the class of each pixel of the central part of image i, or () the class of the image.
    """
    rows = [_row(example, labels, classes) for example, labels in zip(examples, predicted, strict=True)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((GAP, GAP), (GAP, width - row.shape[1] + GAP), (0, 0)), constant_values=255) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("tmp_" + path.name)
    Image.fromarray(np.concatenate(padded)).save(temporary, format="PNG")
    temporary.replace(path)


def _row(example: Example, predicted: Labels, classes: int) -> Grey:
    image = rgb(example.image)
    if predicted.ndim == 0:
        return captioned(image, f"label {int(example.label)}", f"predicted {int(predicted)}")
    height, width = predicted.shape
    parts = [
        _centre(image, height, width),
        class_map(_centre(example.label, height, width), classes),
        class_map(predicted, classes),
    ]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    return np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)


def rgb(image: npt.NDArray[np.float32]) -> Grey:
    """[h, w, c] of any range to [h, w, 3] of 0..255; the first channel alone where there are not three."""
    colours = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
    low, high = float(colours.min()), float(colours.max())
    return ((colours - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)


def class_map(labels: Labels, classes: int) -> Grey:
    """[h, w] classes to greys, black for class 0 and white for the last."""
    return np.repeat((labels * 255 // (classes - 1)).astype(np.uint8)[:, :, None], 3, axis=2)


def captioned(image: Grey, *lines: str) -> Grey:
    """An image [h, w, 3] with lines of text below it."""
    canvas = Image.new("RGB", (max(image.shape[1], 120), image.shape[0] + 14 * len(lines)), "white")
    canvas.paste(Image.fromarray(image), (0, 0))
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((0, image.shape[0] + 14 * number), line, fill="black")
    return np.asarray(canvas)


def _centre(array: npt.NDArray[Number], height: int, width: int) -> npt.NDArray[Number]:
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width]
