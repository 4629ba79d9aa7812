"""The published attacks on Horovod 0.28.1: as released launcher and workers run an attacker's code, ours do not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.horovod import unpatched
from tests.horovod.attacks import pickled, request, send, signed, status


@contextmanager
def running(program: str, *, released: bool) -> Iterator[tuple[subprocess.Popen[str], int, bytes]]:
    """A program with the port that it listens on, and the key of its job."""
    process = unpatched.start(program, [], released=released)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split(" ")
        yield process, int(line[0]), bytes.fromhex(line[1].strip())
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("released", [True, False], ids=["released", "ours"])
def test_cve_2024_10190_workers_addresses_are_unpickled(tmp_path: Path, released: bool) -> None:
    """Anyone who reaches the port of an elastic job's launcher can have it unpickle what they like."""
    taken = tmp_path / "taken"
    with running("elastic_driver.py", released=released) as (process, port, key):
        answer = send(("127.0.0.1", port), request("PUT", "/worker_addresses/host:0", pickled(taken)))
        assert taken.exists() is released
        if released:
            return
        assert status(answer) == 401
        # The job goes on, and even a worker's own words are not unpickled.
        assert status(send(("127.0.0.1", port), signed(key, "PUT", "/worker_addresses/host:0", pickled(taken)))) == 400
        good = b'{"addresses": {"lo": [["127.0.0.1", 1]]}, "id": "0"}'
        assert status(send(("127.0.0.1", port), signed(key, "PUT", "/worker_addresses/host:0", good))) == 200
        output, errors = process.communicate("", timeout=30)
    assert not taken.exists()
    assert "registered host:0" in output
    assert "refused PUT /worker_addresses/host:0 HTTP/1.1 from 127.0.0.1:" in errors


@pytest.mark.parametrize("released", [True, False], ids=["released", "ours"])
def test_cve_2026_31234_workers_unpickle_what_anyone_has_put_into_the_store(tmp_path: Path, released: bool) -> None:
    """Whoever writes the function of a `horovod.run` job before its workers read it has them run it."""
    taken = tmp_path / "taken"
    with running("function_launcher.py", released=released) as (process, port, key):
        answer = send(("127.0.0.1", port), request("PUT", "/runfunc/func", pickled(taken)))
        worker = subprocess.run(
            [sys.executable, "-m", "horovod.runner.run_task", "127.0.0.1", str(port)],
            env={
                **os.environ,
                "PYTHONPATH": str(unpatched.sources()) if released else "",
                "HOROVOD_RANK": "0",
                "HOROVOD_SIZE": "1",
                "_HOROVOD_JOB_KEY": key.hex(),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert taken.exists() is released
        if released:
            return
        assert status(answer) == 401
        assert worker.returncode == 0, worker.stderr
        output, errors = process.communicate("\n", timeout=30)
    assert output == "the job's own function\n"
    assert "refused PUT /runfunc/func HTTP/1.1 from 127.0.0.1:" in errors
