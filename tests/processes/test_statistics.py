"""Gradient statistics of real worlds: the same for the same groups, at no collective more."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.processes.worlds import begin_program, end, write_job

pytestmark = pytest.mark.processes

STEPS = 10
KEYS = ["step", "epoch", "variable"]


def _table(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "gradients" / "variables").sort_values(["step", "variable"]).reset_index(drop=True)


def _trained(folder: Path, workers: int, gradients: Any) -> Path:
    """The folder of a run of four groups of two examples each: micro-batches of one worker, of two, or four workers."""
    train = {"batch_size": 8, "epochs": None, "steps": STEPS, "precision": "float64", "accumulate": 4 // workers}
    data = {"train": {"provider": "circles", "examples": 48, "size": 60}, "validation": None}
    job = write_job(folder, data=data, train=train, gradients=gradients)
    command = [sys.executable, "-m", "distrain"]
    command += [] if workers == 1 else ["launch", "-n", str(workers), "--"]
    environment = {"HOROVOD_TIMELINE": str(folder / "timeline.json")}
    command += ["train", str(job), "--run-dir", str(folder / "run")]
    ended = end(begin_program(command, environment=environment))
    assert ended.code == 0, ended.errors[-2000:]
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of a run of so many workers that measures at every step."""
    return functools.cache(lambda workers: _trained(tmp_path_factory.mktemp(f"of_{workers}"), workers, {"every": 1}))


@pytest.mark.parametrize("worlds", [(1, 2), pytest.param((2, 4), marks=pytest.mark.soak)])
def test_the_same_groups_tell_the_same_in_worlds_of_1_2_and_4(
    worlds: tuple[int, int], measured: Callable[[int], Path]
) -> None:
    one, other = (_table(measured(workers) / "run") for workers in worlds)
    assert len(one) == STEPS * 17
    assert np.isfinite(one.loc[one["step"] > 1].drop(columns=[*KEYS, "noise_scale", "snr"])).all(axis=None)
    pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-8, atol=1e-300)


def _collectives(timeline: Path) -> int:
    """The reductions that Horovod has made, from its timeline of rank 0; it may lack its end."""
    text = timeline.read_text(encoding="utf-8").rstrip().rstrip(",").rstrip("]")
    return sum(event.get("name") in ("GLOO_ALLREDUCE", "MPI_ALLREDUCE") for event in json.loads(text + "]"))


def test_statistics_take_no_collective_more(measured: Callable[[int], Path], tmp_path: Path) -> None:
    with_them, without = (
        _collectives(folder / "timeline.json") for folder in (measured(2), _trained(tmp_path, 2, False))
    )
    assert not (tmp_path / "run" / "gradients").exists()
    # Gradients and vector go as one; what else there is at start and end is the same.
    assert with_them == without >= STEPS
