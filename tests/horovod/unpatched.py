"""Horovod's launcher as it was released, for what is to be seen to work against it; and the same programs against ours.

The launcher is pure Python, so the source archive is all that it takes.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import build
import tools

PROGRAMS = Path(__file__).parent / "programs"


def sources() -> Path:
    """The folder that holds the released `horovod` package, unpacked once for each version of it."""
    folder = tools.make_folder(tools.cache_folder() / "horovod" / "sdist")
    unpacked = folder / f"unpatched-{build.SDIST_SHA256[:12]}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            with tempfile.TemporaryDirectory(dir=folder) as work:
                # An environment made by uv has no pip to download with.
                python = Path(str(getattr(sys, "_base_executable", sys.executable)))
                archive = build._sdist(python, Path(work) / "log")
                build._unpack(archive, Path(work)).rename(unpacked)
    return unpacked


def start(program: str, arguments: Sequence[str | Path], *, released: bool) -> subprocess.Popen[str]:
    """Start one of the programs beside this file with Horovod as released, or with the installed one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    environment["PYTHONPATH"] = str(sources()) if released else ""
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / program), *map(str, arguments)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
