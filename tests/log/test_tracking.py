"""Rank 0's side of the tracking services: what must be there, what a dead or silent service costs, and real clients."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distrain.errors import BadInput
from distrain.job.load import resolved
from distrain.job.schema import Log
from distrain.log.folder import RunFolder, write_job
from distrain.log.records import RecordLog
from distrain.log.tracking import Tracking, require
from tests.support import make_job

needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="needs the extra 'mlflow' of distrain"
)
needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="needs the extra 'wandb' of distrain"
)


def _begun(folder: Path, **log: Any) -> RunFolder:
    """A run's folder with a job of these services and three steps."""
    run = RunFolder(folder / "run")
    run.path.mkdir()
    write_job(run, resolved(make_job(name="small", log=log)), {})
    _steps(run, 1, 3)
    return run


def _steps(run: RunFolder, first: int, last: int) -> None:
    log = RecordLog(run.metrics)
    for step in range(first, last + 1):
        log.write_timed("step", step=step, epoch=0, position=8 * step, loss=step / 4)
    log.close()


def _draw(run: RunFolder, epoch: int) -> None:
    run.predictions.mkdir(exist_ok=True)
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save(run.predictions / f"epoch_{epoch:04d}.png")


def _sent(run: RunFolder, service: str) -> dict[str, Any]:
    path = run.tracking / f"{service}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return result


def _wait_until(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def test_a_missing_client_is_bad_input_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for service in ("mlflow", "wandb"):
        with pytest.raises(
            BadInput, match=rf"^job: 'log\.{service}': .*'{service}' is not installed.* extra '{service}'"
        ):
            require(Log.model_validate({service: {}}), {}, source="job", rank=1)
    require(Log(), {}, source="job", rank=0)


def test_mlflow_needs_an_address_on_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    log = Log.model_validate({"mlflow": {}})
    with pytest.raises(BadInput, match=r"'log\.mlflow\.uri' is missing and MLFLOW_TRACKING_URI is not set"):
        require(log, {}, source="job", rank=0)
    require(log, {}, source="job", rank=1)
    require(log, {"MLFLOW_TRACKING_URI": "http://there"}, source="job", rank=0)
    require(Log.model_validate({"mlflow": {"uri": "http://there"}}), {}, source="job", rank=0)


@pytest.mark.parametrize("uri", ["http://me:secret@there:5000", "postgresql://me:secret@there/runs"])
def test_a_job_is_no_place_for_secrets(uri: str) -> None:
    with pytest.raises(BadInput, match=r"'log\.mlflow\.uri': expected an address without name and password") as raised:
        make_job(log={"mlflow": {"uri": uri}})
    assert "secret" not in str(raised.value)


@needs_mlflow
def test_a_server_that_never_answers_costs_what_was_granted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = _begun(tmp_path, mlflow={"uri": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        begun = time.monotonic()
        told = Tracking(run, ("mlflow",))
        assert time.monotonic() - begun < 1
        silent.settimeout(60)
        with silent.accept()[0]:
            begun = time.monotonic()
            assert list(told.heard()) == []
            assert time.monotonic() - begun < 0.1
            (process,) = told._processes.values()
            lines = told.close("finished", 1.5)
            assert 1.4 < time.monotonic() - begun < 3
    assert lines == ["mlflow: not all has been sent in 1.5 s; starting the run again sends the rest"]
    assert process.poll() is not None


@needs_mlflow
def test_a_server_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    run = _begun(tmp_path, mlflow={"uri": f"http://127.0.0.1:{port}"})
    told = Tracking(run, ("mlflow",))
    lines: list[str] = []

    def heard() -> list[str]:
        lines.extend(told.heard())
        return lines

    _wait_until(heard)
    assert lines[0].startswith("mlflow: cannot be told (")
    assert "the run goes on" in lines[0]
    (line,) = told.close("finished", 10)
    assert "not all has been sent" in line
    assert _sent(run, "mlflow") == {}


@needs_mlflow
def test_a_follower_whose_trainer_is_killed_ends_by_itself(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = _begun(tmp_path, mlflow={"uri": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        program = (
            "import sys, time; from pathlib import Path; from distrain.log.folder import RunFolder;"
            "from distrain.log.tracking import Tracking; told = Tracking(RunFolder(Path(sys.argv[1])), ('mlflow',));"
            "print(told._processes['mlflow'].pid, flush=True); time.sleep(600)"
        )
        command = [sys.executable, "-c", program, str(run.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as trainer:
            assert trainer.stdout is not None
            follower = int(trainer.stdout.readline())
            silent.settimeout(60)
            with silent.accept()[0]:
                os.kill(follower, signal.SIGTERM)  # which is for trainers
                trainer.kill()
                since = time.monotonic()
                _wait_until(lambda: not Path(f"/proc/{follower}").exists() or "Z" in _state(follower), 10)
        assert time.monotonic() - since > 1


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


@needs_mlflow
def test_mlflow_has_what_the_run_has_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path}/mlflow"
    run = _begun(tmp_path, mlflow={"uri": uri, "experiment": "trials"})
    _draw(run, 0)
    client = MlflowClient(tracking_uri=uri)
    told = Tracking(run, ("mlflow",))
    _wait_until(lambda: _sent(run, "mlflow").get("pictures"))
    number = _sent(run, "mlflow")["run"]
    assert client.get_run(number).info.status == "RUNNING"
    assert told.close("stopped", 20)[0].startswith(f"mlflow: run {number} of experiment 'trials' at file:")
    stopped = client.get_run(number)
    assert (stopped.info.status, stopped.data.tags["distrain.end"]) == ("KILLED", "stopped")

    # It goes on with other epochs, from a checkpoint before its last step.
    write_job(run, resolved(make_job(name="small", train={"epochs": 3}, log={"mlflow": {"uri": uri}})), {})
    _steps(run, 3, 5)
    told = Tracking(run, ("mlflow",))
    told.close("finished", 60)
    ended = client.get_run(number)
    assert ended.info.status == "FINISHED"
    assert ended.info.run_name == "run"
    assert ended.data.params["train.epochs"] == "null"
    assert ended.data.tags["now.train.epochs"] == "3"
    points = client.get_metric_history(number, "train/loss")
    assert [(point.step, point.value) for point in points] == [(step, step / 4) for step in range(1, 6)]
    assert abs(points[-1].timestamp / 1000 - time.time()) < 600
    assert [one.path for one in client.list_artifacts(number, "predictions")] == ["predictions/epoch_0000.png"]
    assert len(client.search_runs([ended.info.experiment_id])) == 1


@needs_wandb
def test_wandb_has_what_the_run_has_written_down(tmp_path: Path) -> None:
    run = _begun(tmp_path, wandb={"mode": "offline"})
    _draw(run, 0)
    for how, last in (("stopped", 4), ("finished", 5)):
        told = Tracking(run, ("wandb",))
        (line,) = told.close(how, 60)
        assert line.startswith(f"wandb: run {_sent(run, 'wandb')['run']} at ")
        _steps(run, last, last)
    assert _sent(run, "wandb")["position"] == 8 * 4
    stores = sorted((run.tracking / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.stem for path in stores} == {f"run-{_sent(run, 'wandb')['run']}"}
    told_steps, codes, pictures = [], [], 0
    for path in stores:
        for record in _stored(path):
            if record.HasField("history"):
                values = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
                pictures += "predictions" in values
                if "train/loss" in values:
                    told_steps.append((record.history.step.num, float(values["train/loss"])))
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
    assert told_steps == [(step, step / 4) for step in range(1, 5)]
    assert pictures == 1
    assert codes == [75, 0]


def _stored(path: Path) -> list[Any]:
    """The records of a file that `wandb sync` sends: a log of blocks of 32 KiB, as LevelDB has it, behind 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, found, whole = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no room for another head
            at += 32768 - at % 32768
            continue
        length, part = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found
