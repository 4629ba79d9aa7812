"""What a data set has to offer: a length, the form of its examples, and any example by its index.

A provider knows nothing of ranks, batches, epochs or of the order in which it is read; `data.order` decides that.
`read` may be called from several threads at once, in any order, and gives the same example for the same index each
time, on every machine. That is all a provider needs. It may also have

- `read_batch(indices)`: the examples at several indices, in their order, where that is faster than one by one;
- `sharding`: a `Sharding`, where reading at random is slow and examples should be drawn shard by shard;
- `caveats`: sentences for the user, on what this provider cannot promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

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


@dataclass(frozen=True)
class Sharding:
    """How the examples of a provider lie in shards, each of which is best read from its start to its end.

    `counts` are the examples of each shard, in the order of their indices. An epoch takes the shards in a random order,
    `lanes` of them side by side; within a shard, each `block` of consecutive examples is shuffled, and read at once.
    """

    counts: tuple[int, ...]
    block: int
    lanes: int


class Provider(Protocol):
    """A data set that can be read at any index in 0 .. len - 1."""

    @property
    def spec(self) -> ExampleSpec: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Example:
        """The example at `index`. Raises `errors.BadInput`, naming the file, where it cannot be read."""
        ...


@runtime_checkable
class BatchReader(Protocol):
    """What a provider has beside the rest where it reads several examples faster together."""

    def read_batch(self, indices: Sequence[int]) -> Sequence[Example]:
        """The examples at `indices`, in their order. Raises as `Provider.read`."""
        ...
