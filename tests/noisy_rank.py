"""Circles that are broken on one rank alone, as a disk of one machine may be."""

from __future__ import annotations

import os

import numpy as np

from distrain.data.circles import Circles
from distrain.data.provider import Example


class NoisyRank(Circles):
    """On rank 1 the pixels of each label are in a random order."""

    def read(self, index: int) -> Example:
        image, label = super().read(index)
        if os.environ.get("HOROVOD_RANK") == "1":
            label = np.random.default_rng(index).permutation(label.reshape(-1)).reshape(label.shape)
        return Example(image, label)


def make() -> NoisyRank:
    return NoisyRank(examples=400, size=60, seed=3, discs=10, radius=(3, 9), border=9, noise=20.0)
