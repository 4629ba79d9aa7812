"""Finding what a launch has started on this machine, asking it to stop, ending it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid

import pytest

from distrain.launcher.processes import MARK, RANKS, main, started

STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
OBLIGING = "trap 'exit 75' TERM; echo ready; while :; do sleep 0.1; done"


def start(mark: str, script: str, *, worker: bool) -> subprocess.Popen[str]:
    environment = {**os.environ, MARK: mark} | ({RANKS[0]: "0"} if worker else {})
    process = subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


def test_workers_are_asked_and_the_others_are_not(mark: str) -> None:
    worker, other = start(mark, OBLIGING, worker=True), start(mark, OBLIGING, worker=False)
    another = start("another" + mark, OBLIGING, worker=True)
    assert {process.pid for process in started(mark)} >= {worker.pid, other.pid}
    assert main(["--stop", "--mark", mark, "--wait", "20"]) == 0
    assert worker.wait(0) == 75
    assert (other.poll(), another.poll()) == (None, None)
    for process in (other, another):
        process.terminate()
        process.wait(10)


def test_what_does_not_end_is_killed(mark: str) -> None:
    worker = start(mark, STUBBORN, worker=True)
    begin = time.monotonic()
    assert main(["--stop", "--mark", mark, "--wait", "0.5"]) == 0
    assert worker.wait(5) == -signal.SIGKILL
    assert time.monotonic() - begin > 0.5
