"""Gradient statistics of real worlds: the same for the same groups, at no collective more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.processes.worlds import begin_program, end, write_job

pytestmark = pytest.mark.processes

KEYS = ["step", "epoch", "variable"]


def _table(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "gradients" / "variables").sort_values(["step", "variable"]).reset_index(drop=True)


@pytest.mark.parametrize("worlds", [(1, 2), pytest.param((2, 4), marks=pytest.mark.soak)])
def test_the_same_groups_tell_the_same_in_worlds_of_1_2_and_4(tmp_path: Path, worlds: tuple[int, int]) -> None:
    """Four groups of two examples each: micro-batches of one worker, of two, or four workers."""
    tables = []
    for workers in worlds:
        train = {"batch_size": 8, "epochs": None, "steps": 6, "precision": "float64", "accumulate": 4 // workers}
        folder = tmp_path / str(workers)
        folder.mkdir()
        job = write_job(folder, data={"train": {"provider": "circles", "examples": 48, "size": 60}}, train=train)
        command = [sys.executable, "-m", "distrain"]
        command += [] if workers == 1 else ["launch", "-n", str(workers), "--"]
        ended = end(begin_program([*command, "train", str(job), "--run-dir", str(folder / "run")]))
        assert ended.code == 0, ended.errors[-2000:]
        tables.append(_table(folder / "run"))
    one = tables[0]
    assert len(one) == 6 * 17
    assert np.isfinite(one.loc[one["step"] > 1].drop(columns=[*KEYS, "noise_scale", "snr"])).all(axis=None)
    for other in tables[1:]:
        pd.testing.assert_frame_equal(one, other, check_exact=False, rtol=1e-8, atol=1e-300)


def _collectives(timeline: Path) -> int:
    """The reductions that Horovod has made, from its timeline of rank 0; it may lack its end."""
    text = timeline.read_text(encoding="utf-8").rstrip().rstrip(",").rstrip("]")
    return sum(event.get("name") in ("GLOO_ALLREDUCE", "MPI_ALLREDUCE") for event in json.loads(text + "]"))


def test_statistics_take_no_collective_more(tmp_path: Path) -> None:
    counts = {}
    for name, section in {"off": False, "on": {"every": 1}}.items():
        folder = tmp_path / name
        folder.mkdir()
        job = write_job(
            folder, gradients=section, data={"validation": None}, train={"batch_size": 8, "epochs": None, "steps": 10}
        )
        command = [sys.executable, "-m", "distrain", "launch", "-n", "2", "--", "train", str(job)]
        environment = {"HOROVOD_TIMELINE": str(folder / "timeline.json")}
        ended = end(begin_program([*command, "--run-dir", str(folder / "run")], environment=environment))
        assert ended.code == 0, ended.errors[-2000:]
        counts[name] = _collectives(folder / "timeline.json")
    # Gradients and vector go as one; what else there is at start and end is the same.
    assert counts["on"] == counts["off"] >= 10
