"""A provider whose labels belong to other images, on one rank alone: `tests.processes.programs.noisy_rank:circles`."""

from __future__ import annotations

import os

from distrain.data.circles import Circles
from distrain.data.provider import Example
from distrain.world.start import announced_rank


class _Shuffled(Circles):
    def read(self, index: int) -> Example:
        return Example(super().read(index).image, super().read((index + 1) % len(self)).label)


def circles(examples: int, size: int, noisy: int) -> Circles:
    kind = _Shuffled if announced_rank(os.environ) == noisy else Circles
    return kind(examples=examples, size=size, seed=7, discs=5, radius=(3, 9), border=5, noise=20.0)
