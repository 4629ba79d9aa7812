"""A worker whose gradients are not averaged: what must not go unnoticed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from distrain.errors import RunEnds
from distrain.job.load import load_job
from distrain.train import run
from distrain.train.opening import Request
from distrain.train.stop import StopRequest
from distrain.world.collectives import HorovodCollectives
from distrain.world.start import start


class Broken(HorovodCollectives):
    """Each rank its own gradients, twice, as if the other's were the same."""

    def sum_group(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return [tensor * 2 for tensor in tensors]


run.HorovodCollectives = Broken  # type: ignore[attr-defined]  # broken on purpose
started = start(os.environ)
try:
    sys.exit(run.run(Request(load_job(Path(sys.argv[1])), Path(sys.argv[2])), started, StopRequest()))
except RunEnds as ending:
    if started.world.rank == 0:
        print(f"distrain: {ending}", file=sys.stderr)
    started.close()
    sys.exit(ending.exit_code)
