"""A contact sheet: examples with their labels, as a model sees them, in a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from distrain.data.provider import Example
from distrain.log.predictions import GAP, Grey, captioned, class_map, rgb

_WIDEST = 2400  # pixels of a sheet, where one example does not need more


def draw_sheet(path: Path, examples: Sequence[tuple[str, Example]], *, classes: int) -> None:
    """Write a PNG of examples with captions, images beside their label maps. Raises `OSError` where it cannot be."""
    cells = [_cell(caption, example, classes) for caption, example in examples]
    height, width = (max(cell.shape[axis] for cell in cells) + 2 * GAP for axis in (0, 1))
    columns = max(1, min(math.ceil(math.sqrt(len(cells) * height / width)), _WIDEST // width))
    sheet = np.full((-(-len(cells) // columns) * height, columns * width, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * height + GAP, number % columns * width + GAP
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("tmp_" + path.name)
    Image.fromarray(sheet).save(temporary, format="PNG")
    temporary.replace(path)


def _cell(caption: str, example: Example, classes: int) -> Grey:
    image = rgb(example.image)
    if example.label.ndim == 0:
        return captioned(image, f"{caption}: class {int(example.label)}")
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    return captioned(np.concatenate([image, gap, class_map(example.label, classes)], axis=1), caption)
