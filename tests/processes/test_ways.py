"""Two workers give the weights that one gives; in the soak all ways of starting them, over Gloo and over MPI."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes.worlds import difference, inspect, trained, write_job

# On one worker, which starts the runs that all are compared with once.
pytestmark = pytest.mark.processes

# Each is compared with a run that `distrain launch` has started over the same controller.
TWO_WORKERS = {"launch": "launch", "horovodrun-mpi": "launch-mpi", "mpirun": "launch-mpi"}


def run_way(folder: Path, way: str, precision: str) -> Path:
    job = write_job(folder, train={"batch_size": 7, "epochs": None, "steps": 30, "precision": precision})
    trained(way, job, "--run-dir", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return functools.cache(lambda precision: run_way(tmp_path_factory.mktemp(precision), "alone", precision))


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return functools.cache(lambda way: run_way(tmp_path_factory.mktemp(way), way, "float64"))


@pytest.mark.parametrize("way", ["launch", pytest.param("launch-mpi", marks=pytest.mark.soak)])
def test_two_workers_are_close_in_float32(way: str, alone: Callable[[str], Path], tmp_path: Path) -> None:
    assert difference(run_way(tmp_path, way, "float32"), alone("float32")) < 1e-3


# Every day these three are seen by others: worlds of 1, 2 and 3 come to the same in float64 (test_data.py), the
# documentation's commands start six worlds that come to the same bits (tests/documentation), and a run alone that was
# killed comes to those of one that was not (tests/faults).


@pytest.mark.soak
@pytest.mark.parametrize("way", ["launch", "launch-mpi"])
def test_two_workers_are_as_one(way: str, alone: Callable[[str], Path], launched: Callable[[str], Path]) -> None:
    run = launched(way)
    found = inspect(run)
    assert (found["world_size"], found["step"]) == (2, 30)
    assert difference(run, alone("float64")) < 1e-10


@pytest.mark.soak
@pytest.mark.parametrize("way", TWO_WORKERS)
def test_all_ways_of_starting_two_workers_give_the_same_bits(
    way: str, launched: Callable[[str], Path], tmp_path: Path
) -> None:
    first, second = inspect(run_way(tmp_path, way, "float64")), inspect(launched(TWO_WORKERS[way]))
    assert first["world_size"] == second["world_size"] == 2
    for name in ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256"):
        assert first[name] == second[name]


@pytest.mark.soak
def test_alone_twice_is_bitwise_equal(alone: Callable[[str], Path], tmp_path: Path) -> None:
    again = run_way(tmp_path, "alone", "float32")
    assert inspect(again)["weights_sha256"] == inspect(alone("float32"))["weights_sha256"]
