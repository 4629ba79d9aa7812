"""Real runs that MLflow and Weights & Biases are told of, and one whose service never answers."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.processes.worlds import SECONDS, begin, end, left_over, records, train, trained, wait_for_record, write_job

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("mlflow", "wandb")),
        reason="needs the extras 'mlflow' and 'wandb' of distrain",
    ),
]


# The end waits no longer for a service than half of that.
HASTY = {"parallel": {"stall_timeout": "6 seconds"}}


def _wait_until_told(run: Path, process: subprocess.Popen[str]) -> None:
    """Have the workers stand still until both services have been told of the first steps.

    The followers give way to all else: on a busy machine a run may be over before they have begun.
    """
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if child.cmdline()[1:4] == ["-m", "distrain", "train"]]
    assert len(workers) == 2
    files = [run / "tracking" / f"{service}.json" for service in ("mlflow", "wandb")]
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + SECONDS
    while not all(path.exists() and json.loads(path.read_text())["position"] > 0 for path in files):
        assert time.monotonic() < deadline, f"not told in time: {[path for path in files if not path.exists()]}"
        time.sleep(0.05)
    for worker in workers:
        worker.send_signal(signal.SIGCONT)


def test_a_run_that_was_stopped_goes_on_in_the_same_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path}/mlflow"
    log = {"mlflow": {"uri": uri}, "wandb": {"mode": "offline"}, "tensorboard": False}
    job, run = write_job(tmp_path, log=log, checkpoint={"every": 3, "keep": 10}), tmp_path / "run"
    process = begin("launch", job, "--run-dir", run)
    wait_for_record(run, "step", 10, process)
    _wait_until_told(run, process)
    process.send_signal(signal.SIGTERM)
    stopped = end(process, 90)
    assert stopped.code == 75, stopped
    client = MlflowClient(tracking_uri=uri)
    number = json.loads((run / "tracking" / "mlflow.json").read_text())["run"]
    assert client.get_run(number).info.status == "KILLED"
    assert f"mlflow: run {number} of experiment 'small'" in stopped.output

    finished = train("launch", job, "--run-dir", run)
    assert finished.code == 0, finished
    if "not all has been sent" in finished.output:
        # A run waits ten seconds; one that had been finished before waits as long as it takes on a busy machine.
        trained("launch", job, "--run-dir", run)
    ended = client.get_run(number)
    assert ended.info.status == "FINISHED"
    assert (ended.data.params["train.batch_size"], ended.data.params["model.features"]) == ("7", "4")
    for kind, name in (("step", "train"), ("epoch", "epoch"), ("validation", "validation")):
        told = [(point.step, point.value) for point in client.get_metric_history(number, f"{name}/loss")]
        assert told == [(record["step"], record["loss"]) for record in records(run, kind)]
    pictures = [one.path for one in client.list_artifacts(number, "predictions")]
    assert pictures == [f"predictions/epoch_{epoch:04d}.png" for epoch in range(4)]
    kept = json.loads((run / "tracking" / "wandb.json").read_text())
    assert (kept["position"], len(kept["pictures"])) == (200, 4)
    stores = list((run / "tracking" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(stores) > 1
    assert {path.name for path in stores} == {f"run-{kept['run']}.wandb"}
    assert left_over(run) == []


def test_a_service_that_never_answers_is_no_matter_to_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        log = {"mlflow": {"uri": address}, "wandb": {"mode": "online"}, "tensorboard": False}
        job, run = write_job(tmp_path, log=log, train={"batch_size": 7, "epochs": 1}, **HASTY), tmp_path / "run"
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        ended = train("alone", job, "--run-dir", run)
    assert (ended.code, ended.errors) == (0, "")
    for service in ("mlflow", "wandb"):
        # The last one: there may be one before that it cannot be told.
        line = [line for line in ended.output.splitlines() if line.startswith(f"{service}: ")][-1]
        assert line.endswith("starting the run again sends the rest")
    assert left_over(run) == []
