"""Looking at a job that runs: its processes, what they listen on, its key."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import psutil

T = TypeVar("T")
SECONDS = 120.0
KEY = "_HOROVOD_JOB_KEY"


@dataclass(frozen=True)
class Listening:
    """A socket that anyone who reaches its address may connect to."""

    process: str
    host: str
    port: int


def until(look: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"no {what} within {seconds} s")


def processes(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kind(process: psutil.Process) -> str:
    """What a process of a job is."""
    arguments = process.cmdline()
    # The worker is what the others end with, so that these are looked for first.
    for name in ("horovodrun", "mpirun", "orterun"):
        if any(argument.rsplit("/", 1)[-1] == name for argument in arguments[:2]):
            return "mpirun" if name == "orterun" else name
    if "launch" in arguments:
        return "distrain launch"
    return "worker" if "train" in arguments else "other"


def listening(pid: int) -> list[Listening]:
    """All TCP and UDP sockets that wait for strangers, of a process and all that it started."""
    found = []
    for process in processes(pid):
        try:
            found += [
                Listening(kind(process), connection.laddr.ip, connection.laddr.port)
                for connection in process.net_connections("inet")
                if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE)
            ]
        except psutil.Error:
            continue  # gone meanwhile
    return found


def store_of(pid: int) -> tuple[str, int]:
    """The address of the HTTP store of the launcher among these processes, as soon as it listens."""
    found = until(
        lambda: [(each.host, each.port) for each in listening(pid) if each.process == "horovodrun"], "launcher's store"
    )
    return found[0]


def key_of(pid: int) -> bytes:
    """The key of the job, from the environment of one of its workers: this user may see it, nobody else."""

    def look() -> str | None:
        for process in processes(pid):
            try:
                if process.environ().get(KEY):
                    return process.environ()[KEY]
            except (psutil.Error, OSError):
                continue  # gone meanwhile
        return None

    return bytes.fromhex(until(look, "worker with a key"))


def command_lines() -> list[str]:
    """Those of all processes on this machine, as everyone on it can see them."""
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # gone meanwhile
    return lines
