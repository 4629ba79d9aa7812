"""Reads every example of a source once, to find the bad ones and to count the classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distrain.data.parallel import in_order
from distrain.data.source import Source
from distrain.errors import BadInput


@dataclass(frozen=True)
class Examined:
    """`counts` [classes]: pixels of each class, or examples where a whole image has one; `bad` ones are left out."""

    examples: int
    bad: int
    counts: npt.NDArray[np.int64]


def examine(
    source: Source, *, threads: int, found_bad: Callable[[int, BadInput], None], one_done: Callable[[], object]
) -> Examined:
    """Read all examples, telling of each bad one, with its index, and of each one done, in order."""
    counts = np.zeros(source.spec.classes, np.int64)

    def read(index: int) -> BadInput | npt.NDArray[np.int64]:
        (example,) = source.read_batch([index], 0)
        if isinstance(example, BadInput):
            return example
        return np.bincount(example.label.reshape(-1), minlength=len(counts)).astype(np.int64)

    bad = 0
    for index, seen in enumerate(in_order(read, range(len(source)), threads=threads)):
        if isinstance(seen, BadInput):
            found_bad(index, seen)
            bad += 1
        else:
            counts += seen
        one_done()
    return Examined(len(source), bad, counts)
