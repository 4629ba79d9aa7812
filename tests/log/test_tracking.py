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

from distrain.errors import EXIT_FAILED, BadInput
from distrain.job.load import resolved
from distrain.job.schema import Log
from distrain.log.folder import RunFolder, write_job
from distrain.log.records import RecordLog
from distrain.log.tracking import Tracking, require
from tests.support import make_job

ROOT = Path(__file__).parents[2]
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


# What followers may take at most where other tests are busy: they give way to all of them.
PATIENCE = 300.0


def _wait_until(condition: Any, seconds: float = PATIENCE) -> None:
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
def test_a_run_of_mlflow_is_known_to_a_server_and_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    from distrain.log.mlflow_run import MLflowRun

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@there")
    assert MLflowRun.where(make_job(name="small", log={"mlflow": {}})) == "http://there small"
    named = {"uri": "http://elsewhere", "experiment": "trials"}
    assert MLflowRun.where(make_job(name="small", log={"mlflow": named})) == "http://elsewhere trials"


@needs_wandb
def test_a_run_of_weights_and_biases_is_known_to_a_server_an_entity_and_a_project() -> None:
    from distrain.log.wandb_run import WandbRun

    server, entity, project = WandbRun.where(make_job(name="small", log={"wandb": {}})).split()
    assert server.startswith("https://")
    assert project == "small"
    named = {"entity": f"not-{entity}", "project": "circles"}
    assert WandbRun.where(make_job(name="small", log={"wandb": named})) == f"{server} not-{entity} circles"


@needs_mlflow
def test_a_server_that_never_answers_costs_what_was_granted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run = _begun(tmp_path, mlflow={"uri": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        told = Tracking(run, ("mlflow",))
        silent.settimeout(PATIENCE)
        with silent.accept()[0]:
            assert list(told.heard()) == []
            (process,) = told._processes.values()
            begun = time.monotonic()
            lines = told.close("finished", 1.5)
            assert 1.4 < time.monotonic() - begun < 60
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
    (line,) = told.close("finished", PATIENCE)
    assert "not all has been sent (" in line
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
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as trainer:
            assert trainer.stdout is not None
            follower = int(trainer.stdout.readline())
            silent.settimeout(PATIENCE)
            with silent.accept()[0]:
                os.kill(follower, signal.SIGTERM)  # which is for trainers
                trainer.kill()
                since = time.monotonic()
                _wait_until(lambda: not Path(f"/proc/{follower}").exists() or "Z" in _state(follower))
        assert time.monotonic() - since > 1


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_follower_does_not_stay_for_what_a_rank_0_had_granted_that_is_gone() -> None:
    program = (
        "import time; from distrain.log import follow; follow.ORPHANED_SECONDS = 0.1; ending = follow.Ending();"
        "ending.wait(600); print(ending.how, flush=True); time.sleep(600)"
    )
    follower = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert follower.stdin is not None
    assert follower.stdout is not None
    try:
        follower.stdin.write("finished 300\n")
        follower.stdin.flush()
        assert follower.stdout.readline() == "finished\n"
        with pytest.raises(subprocess.TimeoutExpired):
            follower.wait(1)
        follower.stdin.close()
        assert follower.wait(60) == EXIT_FAILED
    finally:
        follower.kill()
        follower.wait()


def _following(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run's folder whose followers are this program."""
    script = folder / "follower"
    script.write_text(f"#!{sys.executable}\n{program}", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    run = RunFolder(folder / "run")
    run.path.mkdir()
    return run


def test_a_follower_sees_until_it_has_ended_that_rank_0_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import select, sys
word = sys.stdin.readline().split()[0]
print(word, "alone" if select.select([sys.stdin], [], [], 1.0)[0] else "accompanied")
"""
    told = Tracking(_following(program, tmp_path, monkeypatch), ("mlflow",))
    assert told.close("stopped", PATIENCE) == ["stopped accompanied"]


@pytest.mark.parametrize("how", ["finished", "moved"])
def test_what_is_lost_with_a_follower_that_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run = _following("import time; time.sleep(600)", tmp_path, monkeypatch)
    late = "not all has been sent in 0.2 s;"
    held = f"`wandb sync --include-online {run.tracking}/wandb/*run-*` sends what its client holds"
    expected = {
        "finished": [
            f"mlflow: {late} starting the run again sends the rest",
            f"wandb: {late} {held}, starting the run again sends the rest",
        ],
        # The process that follows the run then has all but what the client had.
        "moved": [f"wandb: {late} {held}, the run, which goes on, sends the rest"],
    }
    assert Tracking(run, ("mlflow", "wandb")).close(how, 0.2) == expected[how]


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
    assert told.close("stopped", PATIENCE)[0].startswith(f"mlflow: run {number} of experiment 'trials' at file:")
    stopped = client.get_run(number)
    assert (stopped.info.status, stopped.data.tags["distrain.end"]) == ("KILLED", "stopped")

    # It goes on with other epochs, from a checkpoint before its last step.
    log = {"mlflow": {"uri": uri, "experiment": "trials"}}
    write_job(run, resolved(make_job(name="small", train={"epochs": 3}, log=log)), {})
    _steps(run, 3, 5)
    told = Tracking(run, ("mlflow",))
    told.close("finished", PATIENCE)
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
        (line,) = told.close(how, PATIENCE)
        assert line.startswith(f"wandb: run {_sent(run, 'wandb')['run']} at ")
        _steps(run, last, last)
    assert _sent(run, "wandb")["position"] == 8 * 4
    stores = sorted((run.tracking / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.stem for path in stores} == {f"run-{_sent(run, 'wandb')['run']}"}
    told_steps, codes, pictures, axes = [], [], [], set()
    for path in stores:
        for record in _stored(path):
            if record.HasField("history"):
                values = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
                if "predictions" in values:
                    pictures.append(int(values["step"]))
                if "train/loss" in values:
                    told_steps.append((int(values["step"]), float(values["train/loss"])))
            if record.HasField("metric") and record.metric.glob_name:
                axes.add((record.metric.glob_name, record.metric.step_metric))
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
    assert told_steps == [(step, step / 4) for step in range(1, 5)]
    assert pictures == [3]
    # As it drops what comes late by its own.
    assert axes == {("*", "step")}
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
