"""Worlds whose workers come and go, on this machine: each host is another name of its loopback interface."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import psutil

from tests.processes.worlds import begin_program, records, wait_for_record

# The last four are other spellings of 127.0.0.1.
HOSTS = ("localhost", "127.0.0.1", "127.1", "127.0.1", "0x7f.1", "0177.1", "2130706433")


class Elastic:
    """A run in a world whose hosts a file lists; at first `size` of them, of 1 to 3."""

    def __init__(self, folder: Path, job: Path, *more: str, size: int = 3) -> None:
        self.run = folder / "run"
        self.listed = folder / "hosts"
        self.unused = list(HOSTS)
        script = folder / "discover.sh"
        script.write_text(f"#!/bin/sh\ncat {self.listed}\n", encoding="utf-8")
        script.chmod(0o755)
        self.announce([self.unused.pop(0) for _ in range(size)])
        command = [sys.executable, "-m", "distrain", "launch", "-n", str(size), "--elastic", "1:3"]
        command += ["--discover", str(script), "--", "train", str(job), "--run-dir", str(self.run), *more]
        self.process = begin_program(command, cwd=folder)

    def announce(self, hosts: list[str]) -> None:
        """Say that there are these hosts; in one move, since the launcher may read at any time."""
        temporary = self.listed.with_suffix(".tmp")
        temporary.write_text("".join(f"{host}:1\n" for host in hosts), encoding="utf-8")
        temporary.replace(self.listed)

    def workers(self) -> dict[str, psutil.Process]:
        """The workers that run, by host."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if child.cmdline()[1:4] == ["-m", "distrain", "train"]:
                    found[child.environ()["HOROVOD_HOSTNAME"]] = child
            except psutil.Error:
                continue  # gone meanwhile
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


def drawn(run: Path) -> list[int]:
    """The indices of all examples that the ranks drew, sorted."""
    lines = [line for path in (run / "examples").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(index for line in lines for index in json.loads(line)["indices"])
