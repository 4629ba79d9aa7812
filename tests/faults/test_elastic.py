"""A world whose workers leave and join while the run goes on, against the run that nothing befell."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.processes.worlds import begin_program, end, inspect, left_over, records, trained, wait_for_record, write_job

pytestmark = pytest.mark.soak

# Names of this machine's loopback interface, each of which stands for a host with one worker.
HOSTS = ("localhost", "127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0177.1", "2130706433")
SECONDS_TO_GO_ON = 20


class Elastic:
    """A run in a world whose hosts a file lists."""

    def __init__(self, folder: Path, job: Path, *more: str) -> None:
        self.run = folder / "run"
        self.listed = folder / "hosts"
        self.unused = list(HOSTS)
        script = folder / "discover.sh"
        script.write_text(f"#!/bin/sh\ncat {self.listed}\n", encoding="utf-8")
        script.chmod(0o755)
        self.announce([self.unused.pop() for _ in range(3)])
        command = [sys.executable, "-m", "distrain", "launch", "-n", "3", "--elastic", "1:3", "--discover", str(script)]
        self.process = begin_program([*command, "--", "train", str(job), "--run-dir", str(self.run), *more])

    def announce(self, hosts: list[str]) -> None:
        """Say that there are these hosts; in one move, since the launcher may read at any time."""
        temporary = self.listed.with_suffix(".tmp")
        temporary.write_text("".join(f"{host}:1\n" for host in hosts), encoding="utf-8")
        temporary.replace(self.listed)

    def workers(self) -> dict[str, psutil.Process]:
        """The workers that run, by host."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            if child.cmdline()[1:4] == ["-m", "distrain", "train"]:
                found[child.environ()["HOROVOD_HOSTNAME"]] = child
        return found

    def pids(self) -> list[int]:
        """The processes of the world as it was last, by rank."""
        events = [event for event in records(self.run, "event") if event["event"] in ("started", "resized")]
        return [worker["pid"] for worker in events[-1]["workers"]]

    def kill(self, rank: int) -> float:
        """Kill a rank, and return the seconds until the next step that the others make."""
        worlds, since = self.worlds(), time.time()
        psutil.Process(self.pids()[rank]).kill()
        self.wait_for_world(len(worlds) + 1)
        resized = [event for event in records(self.run, "event") if event["event"] == "resized"][-1]
        wait_for_record(self.run, "step", resized["step"] + 1, self.process)
        return float(records(self.run, "step")[resized["step"]]["time"]) - since

    def worlds(self) -> list[int]:
        """The sizes of all worlds that there have been."""
        events = [event for event in records(self.run, "event") if event["event"] in ("started", "resized")]
        return [event["world_size"] for event in events]

    def wait_for_world(self, count: int) -> None:
        deadline = time.monotonic() + 90
        while len(self.worlds()) < count:
            assert self.process.poll() is None, "ended too soon"
            assert time.monotonic() < deadline, self.worlds()
            time.sleep(0.05)

    def steps(self, more: int) -> None:
        """Let the run make so many steps more."""
        wait_for_record(self.run, "step", len(records(self.run, "step")) + more, self.process)


def weights(run: Path, step: int) -> np.ndarray:
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"step_{step:08d}" / "state"))
    names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith("weights/"))
    return np.concatenate([reader.get_tensor(name).ravel() for name in names])


def drawn(run: Path) -> list[int]:
    lines = [line for path in (run / "examples").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(index for line in lines for index in json.loads(line)["indices"])


def test_workers_leave_and_join_and_nothing_is_lost(tmp_path: Path) -> None:
    epochs = 60
    log = {"examples": True, "predictions": 0, "tensorboard": False}
    train = {"epochs": epochs, "precision": "float64"}
    job = write_job(tmp_path, train=train, checkpoint={"every": 20, "keep": 2}, log=log)
    trained("alone", job, "--run-dir", tmp_path / "whole")

    elastic = Elastic(tmp_path, job)
    try:
        wait_for_record(elastic.run, "step", 10, elastic.process)
        seconds = [elastic.kill(2), elastic.kill(0)]
        assert elastic.worlds() == [3, 2, 1]
        (left,) = elastic.workers()
        for hosts, count in ((2, 4), (0, 5), (2, 6)):
            elastic.steps(10)
            elastic.announce([left, *(elastic.unused.pop() for _ in range(hosts))])
            elastic.wait_for_world(count)
        ended = end(elastic.process)
    except BaseException:
        subprocess.run(["kill", str(elastic.process.pid)], check=False)
        raise
    assert ended.code == 0, ended
    assert elastic.worlds() == [3, 2, 1, 3, 1, 3]
    print(f"seconds from a kill to the next step: {seconds}")
    assert max(seconds) < SECONDS_TO_GO_ON
    summary, whole = inspect(elastic.run), inspect(tmp_path / "whole")
    steps = 8 * epochs
    assert (summary["step"], summary["position"], summary["finished"]) == (steps, 50 * epochs, True)
    assert [record["step"] for record in records(elastic.run, "step")] == list(range(1, steps + 1))
    for kind in ("epoch", "validation"):
        own, other = records(elastic.run, kind), records(tmp_path / "whole", kind)
        assert [record["epoch"] for record in own] == list(range(epochs))
        assert [record["loss"] for record in own] == pytest.approx([record["loss"] for record in other], rel=1e-9)
    assert drawn(elastic.run) == sorted(list(range(50)) * epochs)
    expected = weights(tmp_path / "whole", whole["step"])
    difference = np.linalg.norm(weights(elastic.run, steps) - expected) / np.linalg.norm(expected)
    print(f"relative difference of the weights: {difference}")
    assert difference < 1e-10
    assert left_over(elastic.run) == []
