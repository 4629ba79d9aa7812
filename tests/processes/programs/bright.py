"""A provider with one image that is much brighter than all others: `tests.processes.programs.bright:circles`."""

from __future__ import annotations

from distrain.data.circles import Circles
from distrain.data.provider import Example


class _Bright(Circles):
    bright = 0
    factor = 1.0

    def read(self, index: int) -> Example:
        example = super().read(index)
        return Example(example.image * self.factor, example.label) if index == self.bright else example


def circles(examples: int, size: int, bright: int, factor: float) -> Circles:
    provider = _Bright(examples=examples, size=size, seed=7, discs=5, radius=(3, 9), border=5, noise=20.0)
    provider.bright, provider.factor = bright, factor
    return provider
