"""The command line that `horovodrun --mpi` writes for Open MPI 4 and 5; and both, where they are installed."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from tests.horovod.worlds import PROGRAMS
from tests.processes.worlds import BIN

# A stand-in for mpirun that says a version and keeps its arguments.
MPIRUN = """#!/bin/sh
if [ "$1" = --version ]; then echo "mpirun (Open MPI) {version}"; exit 0; fi
printf '%s\\n' "$@" > {folder}/arguments
"""
# Where an environment with this project's Horovod and the package of Open MPI 5 is, to try the real one.
OPEN_MPI_5 = os.environ.get("DISTRAIN_OPEN_MPI_5")


def horovodrun(folder: Path, *options: str) -> list[str]:
    """The arguments that mpirun gets."""
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / "horovodrun"), "--mpi", *options, "-np", "2", "-H", "localhost:2", "the-program"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    return (folder / "arguments").read_text().splitlines()


@pytest.mark.parametrize("version", ["4.1.8", "5.0.11"])
def test_options_are_those_that_both_versions_understand(tmp_path: Path, version: str) -> None:
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(MPIRUN.format(version=version, folder=tmp_path), encoding="utf-8")
    mpirun.chmod(0o755)
    arguments = horovodrun(tmp_path, "--ssh-port", "2222", "--disable-cache")
    assert arguments[-1] == "the-program"
    options = set(itertools.pairwise(arguments))
    assert {("--bind-to", "none"), ("--map-by", "slot"), ("-np", "2"), ("-H", "localhost:2")} <= options
    # Version 5 knows the second name only, version 4 the first.
    assert {("plm_rsh_args", "-p 2222"), ("plm_ssh_args", "-p 2222")} <= options
    # Of the options with one dash, version 5 takes those of more letters apart, but for these.
    long_ones = {word for word in arguments if word.startswith("-") and not word.startswith("--") and len(word) > 2}
    assert long_ones <= {"-np", "-mca", "-p 2222"}, long_ones


@pytest.mark.soak
@pytest.mark.skipif(OPEN_MPI_5 is None, reason="DISTRAIN_OPEN_MPI_5 names no environment")
def test_a_world_under_open_mpi_5() -> None:
    assert OPEN_MPI_5 is not None
    python = Path(OPEN_MPI_5) / "bin" / "python"
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    version = subprocess.run(["mpirun", "--version"], env=environment, check=True, capture_output=True, text=True)
    assert "5." in version.stdout
    command = [str(python.parent / "horovodrun"), "--mpi", "-np", "2", "-H", "localhost:2", str(python)]
    command.append(str(PROGRAMS / "operations.py"))
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "1 of 2: " in ended.stdout
