"""When something goes wrong on one rank, all ranks learn of it, end alike, and keep the last good state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.processes.worlds import Ended, inspect, left_over, records, train, write_job

pytestmark = pytest.mark.processes

# None of two workers may wait for the other; alone there is none.
HARDER = [pytest.param("alone", marks=pytest.mark.soak), "launch"]

# A provider some of whose examples are what `kind` says.
PROVIDER = """
import numpy as np
from distrain.data.circles import Circles
from distrain.data.provider import Example


class Spoilt(Circles):
    def __init__(self, kind, bad):
        super().__init__(examples=50, size=60, seed=1, discs=3, radius=(3, 9), border=5, noise=20.0)
        self.kind, self.bad = kind, bad

    def read(self, index):
        example = super().read(index)
        if index not in self.bad:
            return example
        if self.kind == "raises":
            raise RuntimeError("the roof is on fire")
        if self.kind == "class 5":
            return Example(example.image, example.label + 5)
        return Example(np.full_like(example.image, np.nan), example.label)


def provider(kind, bad):
    return Spoilt(kind, bad)
"""


def spoilt(folder: Path, way: str, kind: str, bad: list[int], *more: str) -> tuple[Ended, Path]:
    """Train on examples of which those in `bad` are spoilt."""
    (folder / "spoilt.py").write_text(PROVIDER, encoding="utf-8")
    data = {"train": {"provider": "spoilt:provider", "kind": kind, "bad": bad}, "validation": None}
    job = write_job(folder, train={"batch_size": 7, "epochs": 2}, data=data)
    return train(way, job, "--run-dir", folder / "run", *more, cwd=folder), folder / "run"


@pytest.mark.parametrize("way", ["launch", "launch-mpi"])
def test_an_exception_on_one_rank_ends_all(way: str, tmp_path: Path) -> None:
    ended, run = spoilt(tmp_path, way, "raises", [17])
    assert ended.code == 1, ended
    assert "RuntimeError: the roof is on fire" in ended.errors
    assert "after step" in ended.errors
    assert left_over(run) == []


@pytest.mark.parametrize("way", HARDER)
def test_a_bad_example_in_mid_run_saves_the_state(way: str, tmp_path: Path) -> None:
    ended, run = spoilt(tmp_path, way, "class 5", [17])
    assert ended.code == 2, ended
    assert len(ended.errors.splitlines()) == 1
    assert "example 17: label values 5 to" in ended.errors
    assert inspect(run)["step"] == len(records(run, "step"))
    assert left_over(run) == []


@pytest.mark.parametrize("way", HARDER)
def test_a_step_that_is_not_finite_is_skipped_by_all(way: str, tmp_path: Path) -> None:
    ended, run = spoilt(tmp_path, way, "nan", [17])
    assert ended.code == 0, ended
    summary = inspect(run)
    assert (summary["step"], summary["skipped_steps"], summary["position"]) == (14, 2, 100)
    assert [event["event"] for event in records(run, "event")].count("skipped") == 2
    assert all(np.isfinite(record["loss"]) for record in records(run, "step"))


@pytest.mark.parametrize("way", HARDER)
def test_too_many_of_them_end_the_run(way: str, tmp_path: Path) -> None:
    ended, run = spoilt(tmp_path, way, "nan", list(range(50)))
    assert ended.code == 3, ended
    assert len(ended.errors.splitlines()) == 1
    assert "3 times in a row after step 0" in ended.errors
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / "step_00000000" / "state"))
    assert all(np.isfinite(reader.get_tensor(name)).all() for name in reader.get_variable_to_shape_map())
    assert left_over(run) == []
