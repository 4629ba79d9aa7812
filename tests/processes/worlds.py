"""Starting real worlds of workers for the tests: alone, by `distrain launch`, by horovodrun and by mpirun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import yaml

from distrain.cli.inspect import summarise

BIN = Path(sys.prefix) / "bin"
SECONDS = 240

# Small enough for seconds, and odd: 50 examples in batches of 7 end each epoch with a batch of 1, which leaves all but
# one of the workers without a share.
JOB: dict[str, Any] = {
    "name": "small",
    "seed": 7,
    "data": {
        "train": {"provider": "circles", "examples": 50, "size": 60, "radius": [3, 9]},
        "validation": {"provider": "circles", "examples": 5, "size": 60, "radius": [3, 9], "seed": 8},
    },
    "model": {"name": "unet", "layers": 2, "features": 4, "keep_probability": 1.0},
    "train": {"batch_size": 7, "epochs": 4},
    "checkpoint": {"keep": 10},
}

MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

WAYS: dict[str, list[str]] = {
    "alone": [sys.executable, "-m", "distrain"],
    "launch": [sys.executable, "-m", "distrain", "launch", "-n", "2", "--"],
    "launch-mpi": [sys.executable, "-m", "distrain", "launch", "-n", "2", "--controller", "mpi", "--"],
    "horovodrun-mpi": [str(BIN / "horovodrun"), "--mpi", "-np", "2", sys.executable, "-m", "distrain"],
    "mpirun": [str(BIN / "mpirun"), "-q", "--oversubscribe", "-np", "2", sys.executable, "-m", "distrain"],
}


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    output: str
    errors: str


def write_job(folder: Path, **sections: Any) -> Path:
    """The small job with some of its sections' keys set otherwise; a section with a `name` of its own is whole."""
    job = json.loads(json.dumps(JOB))
    for name, value in sections.items():
        before = job.get(name)
        more = isinstance(value, dict) and isinstance(before, dict) and "name" not in value
        job[name] = {**before, **value} if more else value
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job), encoding="utf-8")
    return path


def begin(way: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start `distrain train` with `arguments` in a world made in this way, in a session of its own."""
    return begin_program([*WAYS[way], "train", *map(str, arguments)], cwd=cwd)


def begin_program(
    command: list[str], cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start any command as the tests start theirs, with `environment` beside their own."""
    # As in an activated environment: horovodrun looks for mpirun on the PATH.
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {**os.environ, **MPI_AS_ROOT, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], seconds: float = SECONDS) -> Ended:
    """Wait for a command; on a hang everything it started is killed and the test fails."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        for child in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            child.kill()
        output, errors = process.communicate()
        raise AssertionError(f"no end within {seconds} s\n{output[-2000:]}\n{errors[-2000:]}") from None
    return Ended(process.returncode, output, errors)


def train(way: str, *arguments: str | Path, cwd: Path | None = None) -> Ended:
    """Run `distrain train` to its end."""
    return end(begin(way, *arguments, cwd=cwd))


def trained(way: str, *arguments: str | Path, cwd: Path | None = None) -> None:
    """Run `distrain train` to its end, which must be a good one."""
    ended = train(way, *arguments, cwd=cwd)
    assert ended.code == 0, (ended.code, ended.output[-3000:], ended.errors[-3000:])


def inspect(run: Path) -> dict[str, Any]:
    """What `distrain inspect --json` says of a run, without another process for it."""
    return summarise(run)


def weights(run: Path) -> npt.NDArray[np.float64]:
    """All weights of a run's newest checkpoint, one after the other."""
    import tensorflow as tf

    newest = max((run / "checkpoints").glob("step_*"))
    reader = tf.train.load_checkpoint(str(newest / "state"))
    names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith("weights/"))
    return np.concatenate([reader.get_tensor(name).ravel() for name in names]).astype(np.float64)


def difference(run: Path, other: Path) -> float:
    """By how much a run's weights differ from another's, as a part of these."""
    return float(np.linalg.norm(weights(run) - weights(other)) / np.linalg.norm(weights(other)))


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's log, which may be about to get another line."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def wait_for_record(run: Path, kind: str, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has logged so many records of a kind."""
    deadline = time.monotonic() + SECONDS
    while not (run / "metrics.jsonl").exists() or len(records(run, kind)) < count:
        assert process.poll() is None, f"ended too soon: {end(process)}"
        assert time.monotonic() < deadline, "no such record in time"
        time.sleep(0.05)


def left_over(run: Path) -> list[str]:
    """Command lines of processes that still have to do with a run."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(run) in line and process.info["pid"] != os.getpid():
            found.append(line)
    return found
