"""Starting the programs beside this file in worlds made by Horovod's own launcher and by mpirun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.processes.elastic import HOSTS
from tests.processes.worlds import BIN, Ended, begin_program, end

PROGRAMS = Path(__file__).parent / "programs"

LAUNCHERS: dict[str, list[str]] = {
    "gloo": [str(BIN / "horovodrun"), "--gloo", "--network-interface", "lo"],
    "mpi": [str(BIN / "horovodrun"), "--mpi"],
    "mpirun": [str(BIN / "mpirun"), "-q", "--oversubscribe"],
}
# Open MPI counts the machine's cores, where nobody says how many processes it may have.
SLOTS = {"mpi": ["-H", "localhost:4"]}


def run_program(
    launcher: str, size: int, program: str, *arguments: object, environment: dict[str, str] | None = None
) -> Ended:
    """Run a program in a world of `size` ranks to its end."""
    command = [*LAUNCHERS[launcher], "-np", str(size), *SLOTS.get(launcher, []), sys.executable]
    command += [str(PROGRAMS / program), *map(str, arguments)]
    return end(begin_program(command, environment=environment))


def run_elastic(folder: Path, size: int, program: str, *arguments: object) -> Ended:
    """The same where the world may shrink to one; each rank has a host of its own, since a failure takes the host."""
    script = folder / "discover.sh"
    script.write_text("#!/bin/sh\n" + "".join(f"echo {host}:1\n" for host in HOSTS[:size]), encoding="utf-8")
    script.chmod(0o755)
    command = [*LAUNCHERS["gloo"], "-np", str(size), "--min-np", "1", "--max-np", str(size)]
    command += ["--host-discovery-script", str(script), sys.executable, str(PROGRAMS / program)]
    return end(begin_program([*command, *map(str, arguments)], cwd=folder))


def told(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What the workers of an elastic world wrote, by host."""
    return {file.name: [json.loads(line) for line in file.read_text().splitlines()] for file in folder.iterdir()}
