"""From the values that files hold to those that a model is trained on: images of 0 to 1, labels of whole classes."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distrain.data.formats.files import Array
from distrain.data.pool import empty
from distrain.data.provider import FloatArray, LabelArray
from distrain.errors import BadInput

_WHITE = 255  # the foreground of a mask as most programs write it


def listed(values: Sequence[float]) -> str:
    """Numbers as error messages show them."""
    return f"[{', '.join(str(value) for value in values)}]"


def scaled(name: str, pixels: Array, value_range: tuple[float, float] | None) -> FloatArray:
    """An image of any numbers in 0 .. 1, of the same shape: absolute values, clipped to `value_range` where given,
    less their minimum, divided by what is then their maximum unless that is 0. Raises `BadInput`, naming `name`.
    """
    # float32 holds integers of up to 16 bits and smaller floats exactly; what is wider is rounded at the end only.
    wide = pixels.dtype.itemsize > 2 and pixels.dtype != np.float32
    values: npt.NDArray[Any] = pixels.astype(np.float64 if wide else np.float32)
    np.abs(values, out=values)
    if pixels.dtype.kind == "f" and not np.isfinite(values.max()):
        raise _not_finite(name, pixels)
    if value_range is not None:
        limit = float(np.finfo(values.dtype).max)
        np.clip(values, max(value_range[0], -limit), min(value_range[1], limit), out=values)
    values -= values.min()
    peak = values.max()
    if peak > 0:
        values /= peak
    return values.astype(np.float32, copy=False)


def image_values(
    name: str, pixels: Array, *, normalise: str = "auto", value_range: tuple[float, float] | None = None
) -> FloatArray:
    """An image (height, width, channels) of what a file holds, (height, width) or with 1 to 4 channels last.

    `normalise`: "image" scales each image to 0 .. 1 as `scaled`; "none" takes the values as they are; "auto" scales
    whole numbers and takes floats as they are. Raises `BadInput`, naming `name`, where a value is not finite.
    """
    if pixels.dtype.kind not in "buif":
        raise BadInput(f"{name}: is an image of {pixels.dtype} values, expected numbers")
    if pixels.ndim not in (2, 3) or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] > 4):
        raise BadInput(
            f"{name}: is an image of shape {list(pixels.shape)}, expected height x width, or 1 to 4 channels behind"
        )
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if normalise == "image" or (normalise == "auto" and pixels.dtype.kind != "f"):
        return scaled(name, pixels, value_range)
    values = pixels.astype(np.float32, copy=False)
    # A sum is not finite where one of its terms is not; finite terms may overflow it, so then look at each.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(values.sum())
    if suspicious and not np.isfinite(values).all():
        raise _not_finite(name, values)
    if value_range is not None:
        values = np.clip(values, *value_range)
    return values


def classified(name: str, pixels: Array, classes: int, label_values: Sequence[int] | None) -> LabelArray:
    """The class of each value of a label, of the same shape.

    `label_values` gives for each class the value that stands for it. Without it values are classes; with two classes a
    label of pixels may then also hold 0 and 255 for 0 and 1. Raises `BadInput`, naming `name`, for any other value.
    """
    if pixels.dtype.kind not in "bui":
        raise BadInput(f"{name}: is a label of {pixels.dtype} values, expected whole numbers")
    if label_values is not None:
        found = _looked_up(pixels, label_values)
    elif classes == 2 and pixels.size and pixels.max() == _WHITE:
        found = _looked_up(pixels, (0, _WHITE))
    else:
        found = _looked_up(pixels, range(classes))
    if found.size and found.min() < 0:
        raise _unknown_value(name, pixels[found < 0][0], classes, label_values)
    return found


def _unknown_value(name: str, value: Any, classes: int, label_values: Sequence[int] | None) -> BadInput:
    if label_values is not None:
        allowed = f"one of the label_values {listed(label_values)}"
    elif classes == 2:
        allowed = "0 and 1, or 0 and 255, as there are 2 classes"
    else:
        allowed = f"0 to {classes - 1}, as there are {classes} classes"
    lossy = os.path.splitext(name)[1].lower() in (".jpg", ".jpeg")
    hint = " (JPEG does not keep values: use PNG)" if lossy else ""
    return BadInput(f"{name}: has the label value {int(value)}, expected {allowed}{hint}")


def _not_finite(name: str, pixels: Array) -> BadInput:
    unknown, infinite = int(np.isnan(pixels).sum()), int(np.isinf(pixels).sum())
    return BadInput(
        f"{name}: has {unknown} pixels that are not a number (NaN) and {infinite} that are infinite, "
        "expected finite values only"
    )


def _looked_up(pixels: Array, values: Sequence[int]) -> LabelArray:
    """For each pixel the place of its value in `values`, -1 where it has none."""
    bits = 8 * pixels.dtype.itemsize
    if bits <= 16:
        # All values that a pixel can have fit into a table; its dtype is passed over by looking at the bits alone.
        lowest = -(1 << bits - 1) if pixels.dtype.kind == "i" else 0
        table = _table(tuple(values), bits, lowest)
        # Every place is within the table; "clip" only spares the check, and a copy of the result with it.
        return table.take(pixels.view(f"u{pixels.dtype.itemsize}"), out=empty(pixels.shape, np.int32), mode="clip")
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
