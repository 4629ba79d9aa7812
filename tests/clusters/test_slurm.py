"""The Slurm script under a real Slurm: two nodes, a worker each, put into the queue again and finished."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clusters import hosts, slurm
from tests.clusters.slurm import Cluster
from tests.processes.worlds import inspect, records, write_job

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch" / "slurm.sbatch"
SECONDS = 400.0

pytestmark = pytest.mark.clusters


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = hosts.why_not() or slurm.why_not()
    if reason is not None:
        pytest.skip(reason)
    with hosts.Network(tmp_path_factory.mktemp("network")) as network, slurm.slurm(network, nodes=2, cores=2) as made:
        yield made


def submit(cluster: Cluster, folder: Path, *arguments: str) -> str:
    """Submit the script as README says, for CPUs; returns the job's number."""
    (folder / ".venv").symlink_to(sys.prefix)
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--gres=none", "--mem=1G", "--time=30"]
    command = ["env", "--chdir", str(folder), "sbatch", "--parsable", *options, str(SCRIPT), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return cluster.controller.run(*command, environment=environment).strip()


def wait(reached: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def steps(run: Path) -> int:
    return len(records(run, "step")) if (run / "metrics.jsonl").exists() else 0


def output(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.glob("distrain-*.out"))


def test_a_job_that_is_stopped_goes_into_the_queue_again_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    job = write_job(tmp_path, train={"batch_size": 7, "epochs": None, "steps": 60}, log={"every": 1})
    run = tmp_path / "run"
    number = submit(cluster, tmp_path, str(job), "--run-dir", str(run))
    wait(lambda: steps(run) >= 3, output(tmp_path))
    # What Slurm itself sends before the time limit, by the script's --signal.
    cluster.controller.run("scancel", "--batch", "--signal=USR1", number)
    wait(lambda: cluster.job(number)["Restarts"] == "1", f"{cluster.job(number)} {output(tmp_path)}")
    stopped = inspect(run)
    assert not stopped["finished"]
    assert [checkpoint["valid"] for checkpoint in stopped["checkpoints"]][-1:] == [True]
    wait(lambda: cluster.job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), output(tmp_path))
    assert (cluster.job(number)["JobState"], cluster.job(number)["ExitCode"]) == ("COMPLETED", "0:0"), output(tmp_path)
    done = inspect(run)
    assert (done["finished"], done["step"], done["world_size"]) == (True, 60, 2)
    assert [record["step"] for record in records(run, "step")] == list(range(1, 61))
    assert "start 0: 2 workers on node[1-2]" in output(tmp_path)
    assert "start 1: 2 workers on node[1-2]" in output(tmp_path)


def test_a_job_that_is_wrong_ends_with_its_exit_code(cluster: Cluster, tmp_path: Path) -> None:
    job = write_job(tmp_path, train={"batch_size": 7, "steps": -1})
    number = submit(cluster, tmp_path, str(job))
    wait(lambda: cluster.job(number)["JobState"] in ("COMPLETED", "FAILED"), output(tmp_path))
    assert cluster.job(number)["ExitCode"] == "2:0"
    assert "train.steps" in output(tmp_path)
