"""What reductions of gradients come to, by NumPy: sums in 16 bits, and Adasum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def sum_in(half: Any, parts: Sequence[Array]) -> Array:
    """The sum of what each part is in 16 bits, in the parts' own type and order, rounded once more."""
    rounded = [part.astype(half).astype(part.dtype) for part in parts]
    total = rounded[0]
    for part in rounded[1:]:
        total = total + part
    return total.astype(half).astype(total.dtype)


def adasum(gradients: Sequence[Array]) -> Array:
    """Neighbours by the formula of arXiv 2006.02924, then neighbours of those, in float64."""
    level = [gradient.astype(np.float64) for gradient in gradients]
    while len(level) > 1:
        pairs = [_of_two(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[2 * len(pairs) :]
    return level[0]


def _of_two(one: Array, other: Array) -> Array:
    dot = np.sum(one * other)
    left, right = (dot / (2 * np.sum(each**2)) if each.any() else 0.0 for each in (one, other))
    return (1 - left) * one + (1 - right) * other
