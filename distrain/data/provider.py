"""What a data set has to offer: a length, the form of its examples, and any example by its index.

A provider knows nothing of ranks, batches, epochs or of the order in which it is read; `data.order` decides that.
`read` may be called from several threads at once, in any order, and gives the same example for the same index each
time, on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int32]


class Example(NamedTuple):
    """One item of a data set.

    `image` has shape (height, width, channels), float32. `label` is int32 with values in 0 .. classes - 1: of shape
    (height, width) where each pixel has a class, of shape () where the whole image has one.
    """

    image: FloatArray
    label: LabelArray


@dataclass(frozen=True)
class ExampleSpec:
    """The form that all examples of a provider share; shapes as in `Example`."""

    image_shape: tuple[int, int, int]
    label_shape: tuple[int, ...]
    classes: int

    @property
    def segmentation(self) -> bool:
        """True where every pixel has a class of its own, False where an image has one."""
        return len(self.label_shape) == 2


class Provider(Protocol):
    """A data set that can be read at any index in 0 .. len - 1."""

    @property
    def spec(self) -> ExampleSpec: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Example:
        """The example at `index`. Raises `errors.BadInput`, naming the file, where it cannot be read."""
        ...
