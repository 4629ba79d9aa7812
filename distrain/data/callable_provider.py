"""Makes a provider of a function `provider(n) -> (x, y)` that gives the next n examples, whichever these are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distrain.data.provider import Example, ExampleSpec, LabelArray
from distrain.data.values import image_values
from distrain.errors import BadInput

CAVEAT = (
    "provider 'callable': which examples are drawn is up to the function, so epochs are not exact, a resumed run does "
    "not go on with the same examples, and each worker calls a function of its own, which must not give the same "
    "examples as the others'"
)


class CallableProvider:
    """`examples` calls for one example make what is counted as an epoch; the index that is asked for means nothing.

    `function(n)` gives x [n, height, width, channels] (or without channels) and y: [n, height, width, classes] or
    [n, classes] with the greatest value at the class, or whole numbers [n, height, width] or [n], of `classes` then.
    It is called by one thread at a time, and once for one example when the provider is made, to learn the form.
    """

    caveats = (CAVEAT,)

    def __init__(self, function: Callable[[int], Any], *, examples: int, classes: int | None, name: str) -> None:
        self._function = function
        self._examples = examples
        self._classes = classes
        self._name = name
        self._lock = threading.Lock()
        first, found = self._drawn(1)
        height, width, channels = first[0].image.shape
        self.spec = ExampleSpec((height, width, channels), first[0].label.shape, found)

    def __len__(self) -> int:
        return self._examples

    def read(self, index: int) -> Example:
        """The next example. Raises `BadInput` where the function gives none."""
        return self.read_batch([index])[0]

    def read_batch(self, indices: Sequence[int]) -> list[Example]:
        """The next examples, as many as indices. Raises `BadInput`."""
        return self._drawn(len(indices))[0]

    def _drawn(self, count: int) -> tuple[list[Example], int]:
        with self._lock:
            pair = self._function(count)
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise BadInput(f"{self._name}({count}) gave {type(pair).__name__}, expected a pair of arrays (x, y)")
        images, labels = np.asarray(pair[0]), np.asarray(pair[1])
        if images.ndim not in (3, 4) or len(images) != count or len(labels) != count:
            raise BadInput(
                f"{self._name}({count}) gave x of shape {list(images.shape)} and y of shape {list(labels.shape)}, "
                f"expected [{count}, height, width, channels] and as many labels"
            )
        pixels = [image_values(self._name, image, normalise="none") for image in images]
        classes, found = self._labels(labels, images.shape[1:3])
        return [Example(image, label) for image, label in zip(pixels, classes, strict=True)], found

    def _labels(self, labels: np.ndarray[Any, Any], size: tuple[int, ...]) -> tuple[list[LabelArray], int]:
        """The labels as classes, and how many classes there are."""
        whole = labels.dtype.kind in "ui" and labels.shape[1:] in ((), size)
        if whole:
            if self._classes is None:
                raise BadInput(f"{self._name}: gives labels of whole numbers, expected 'classes' in the job")
            if labels.size and not (labels.min() >= 0 and labels.max() < self._classes):
                raise BadInput(
                    f"{self._name}: label values {labels.min()} to {labels.max()}, expected 0 to {self._classes - 1}"
                )
            return [np.asarray(label, np.int32) for label in labels], self._classes
        if labels.shape[1:-1] not in ((), size) or labels.ndim < 2 or labels.shape[-1] < 2:
            raise BadInput(
                f"{self._name}: gives y of shape {list(labels.shape)}, expected [n, height, width, classes] or "
                "[n, classes], or whole numbers"
            )
        found = labels.shape[-1]
        if self._classes not in (None, found):
            raise BadInput(f"{self._name}: gives {found} classes, expected {self._classes} as 'classes' in the job")
        return list(labels.argmax(axis=-1).astype(np.int32)), found
