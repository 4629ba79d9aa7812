"""The script that lists the hosts of an elastic world: run once before anything is started, to see that it does."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from distrain.errors import BadInput

SECONDS = 30


class NoHosts(BadInput):
    """The script works and names no host: perhaps not yet."""


def discovered(script: Path) -> list[str]:
    """The hosts that the script prints, one a line, each with `:WORKERS` behind it or not.

    Raises `BadInput` where it cannot be run or prints something else.
    """
    try:
        done = subprocess.run([str(script)], capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"--discover: {script}: no end after {SECONDS} s, expected a list of hosts") from error
    except OSError as error:
        raise BadInput(f"--discover: {script}: cannot be run ({error.strerror}), expected a program") from error
    if done.returncode != 0:
        raise BadInput(f"--discover: {script}: exit code {done.returncode}, expected 0 and a list of hosts")
    lines = done.stdout.split()
    for line in lines:
        host, colon, count = line.partition(":")
        if not host or (colon and not (count.isdecimal() and int(count) >= 1)):
            raise BadInput(f"--discover: {script}: printed '{line}', expected HOST or HOST:WORKERS")
    if not lines:
        raise NoHosts(f"--discover: {script}: printed nothing, expected a list of hosts")
    return [line.partition(":")[0] for line in lines]


def is_local(host: str) -> bool:
    """True for a name of this machine's loopback interface."""
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False
