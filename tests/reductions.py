"""What reductions of gradients come to, by NumPy: sums in 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


def sum_in(half: Any, parts: Sequence[Array]) -> Array:
    """The sum of what each part is in 16 bits, in the parts' own type and order, rounded once more."""
    rounded = [part.astype(half).astype(part.dtype) for part in parts]
    total = rounded[0]
    for part in rounded[1:]:
        total = total + part
    return total.astype(half).astype(total.dtype)
