"""A run that was stopped or killed and started again ends as if nothing had happened."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from tests.processes.worlds import begin, end, inspect, left_over, records, train, trained, wait_for_record, write_job

# On one worker, which starts the runs that all are compared with once.
pytestmark = pytest.mark.processes

STATE = ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256", "step", "position")
EPOCHS = 6
STEPS = 8 * EPOCHS
WITH_DROPOUT = {
    "model": {"keep_probability": 0.75},
    "train": {"epochs": EPOCHS},
    "checkpoint": {"every": 3, "keep": 10},
    "log": {"examples": True},
}


def losses(run: Path) -> list[Any]:
    kinds = ("step", "epoch", "validation")
    return [[{**record, "time": 0} for record in records(run, kind)] for kind in kinds]


def exact(run: Path) -> list[Any]:
    """The logged records without what is a matter of time."""
    timed = ("time", "examples_per_second", "data_wait_seconds")
    return [
        [{name: value for name, value in record.items() if name not in timed} for record in part]
        for part in losses(run)
    ]


@pytest.fixture(scope="module", params=[pytest.param("alone", marks=pytest.mark.soak), "launch"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(f"whole-{request.param}")
    trained(request.param, write_job(folder, **WITH_DROPOUT), "--run-dir", folder / "run")
    return request.param, folder / "run"


def same(run: Path, other: Path) -> None:
    first, second = inspect(run), inspect(other)
    assert {name: first[name] for name in STATE} == {name: second[name] for name in STATE}
    assert first["finished"]
    assert second["finished"]
    assert exact(run) == exact(other)
    tables = sorted(path.name for path in (other / "gradients").iterdir())
    assert tables == (["ranks", "variables"] if second["world_size"] > 1 else ["variables"])
    for table in tables:
        rows = [pd.read_parquet(folder / "gradients" / table) for folder in (run, other)]
        assert set(rows[0].step) == set(range(1, STEPS + 1))
        pd.testing.assert_frame_equal(*rows)


@pytest.mark.soak
def test_more_epochs_go_on_from_the_end_of_fewer(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    way, whole = uninterrupted
    job = write_job(tmp_path, **WITH_DROPOUT)
    trained(way, job, "--run-dir", tmp_path / "run", "-o", "train.epochs=2")
    assert inspect(tmp_path / "run")["step"] == 16
    trained(way, job, "--run-dir", tmp_path / "run")
    same(tmp_path / "run", whole)


def test_stopped_by_a_signal_and_then_killed_without_warning(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    way, whole = uninterrupted
    job, run = write_job(tmp_path, **WITH_DROPOUT), tmp_path / "run"
    process = begin(way, job, "--run-dir", run)
    wait_for_record(run, "step", 7, process)
    # SIGTERM is what others send, SIGINT what a page has its reader press.
    process.send_signal(signal.SIGUSR1)
    stopped = end(process, 60)
    assert stopped.code == 75, stopped
    summary = inspect(run)
    assert not summary["finished"]
    assert summary["step"] == len(records(run, "step"))
    assert left_over(run) == []

    process = begin(way, job, "--run-dir", run)
    wait_for_record(run, "step", summary["step"] + 5, process)
    workers = [
        child
        for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if child.cmdline()[1:4] == ["-m", "distrain", "train"]
    ]
    workers[-1].kill()
    killed = end(process, 60)
    assert killed.code not in (0, 2, 3, 75), killed
    assert left_over(run) == []
    assert not inspect(run)["finished"]

    trained(way, job, "--run-dir", run)
    same(run, whole)
    drawn = sorted(
        index
        for path in (run / "examples").glob("rank_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
        for index in json.loads(line)["indices"]
    )
    assert drawn == sorted(list(range(50)) * EPOCHS)


def test_a_finished_run_stays_as_it_is(uninterrupted: tuple[str, Path]) -> None:
    way, whole = uninterrupted
    before = inspect(whole)
    again = train(way, whole.parent / "job.yaml", "--run-dir", whole)
    assert again.code == 0
    assert f"finished after step {STEPS} of {STEPS}" in again.output
    assert inspect(whole) == before
