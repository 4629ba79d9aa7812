"""All ways of starting a world give the same weights: 1 worker or 2, Gloo or MPI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.processes.worlds import inspect, trained, write_job

# On one worker, which starts the runs that all are compared with once.
pytestmark = pytest.mark.processes

# Each is compared with a run that `distrain launch` has started over the same controller.
TWO_WORKERS = {"launch": "launch", "horovodrun-mpi": "launch-mpi", "mpirun": "launch-mpi"}


def run_way(folder: Path, way: str, precision: str) -> Path:
    job = write_job(folder, train={"batch_size": 7, "epochs": None, "steps": 30, "precision": precision})
    trained(way, job, "--run-dir", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        precision: run_way(tmp_path_factory.mktemp(precision), "alone", precision)
        for precision in ("float64", "float32")
    }


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {way: run_way(tmp_path_factory.mktemp(way), way, "float64") for way in set(TWO_WORKERS.values())}


def weights(run: Path) -> np.ndarray:
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / "step_00000030" / "state"))
    names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith("weights/"))
    return np.concatenate([reader.get_tensor(name).ravel() for name in names]).astype(np.float64)


def difference(run: Path, other: Path) -> float:
    return float(np.linalg.norm(weights(run) - weights(other)) / np.linalg.norm(weights(other)))


def test_alone_twice_is_bitwise_equal(alone: dict[str, Path], tmp_path: Path) -> None:
    again = run_way(tmp_path, "alone", "float32")
    assert inspect(again)["weights_sha256"] == inspect(alone["float32"])["weights_sha256"]


@pytest.mark.parametrize("way", TWO_WORKERS)
def test_two_workers_are_as_one(way: str, alone: dict[str, Path], launched: dict[str, Path], tmp_path: Path) -> None:
    run, other = run_way(tmp_path, way, "float64"), launched[TWO_WORKERS[way]]
    first, second = inspect(run), inspect(other)
    assert first["world_size"] == second["world_size"] == 2
    assert first["step"] == 30
    for name in ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256"):
        assert first[name] == second[name]
    for each in (run, other):
        assert difference(each, alone["float64"]) < 1e-10


@pytest.mark.parametrize("way", ["launch", pytest.param("launch-mpi", marks=pytest.mark.soak)])
def test_two_workers_are_close_in_float32(way: str, alone: dict[str, Path], tmp_path: Path) -> None:
    assert difference(run_way(tmp_path, way, "float32"), alone["float32"]) < 1e-3
