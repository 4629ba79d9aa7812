"""The command line that starts a world: horovodrun over Gloo, or mpirun. Pure functions of what was asked."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import BadInput

GRACE_SECONDS = "25"
# A host whose worker has died is taken again after so long, twice as long each time.
COOLDOWN_SECONDS = ("10", "600")
LOCAL = ("localhost", "127.0.0.1")

# Carried to every worker: where programs and libraries are, and settings that users make in their own shell.
CARRIED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
CARRIED_PREFIXES = ("HOROVOD_", "NCCL_", "TF_", "DISTRAIN_")


@dataclass(frozen=True)
class World:
    """What `distrain launch` was asked for: `count` workers on these hosts, or on this one.

    With `elastic`, the least and the most workers that there may be, the script `discover` lists the hosts that there
    are at any time; `local` then says whether all of them were this machine at first.
    """

    count: int
    hosts: str | None = None
    hostfile: Path | None = None
    controller: str = "gloo"
    elastic: tuple[int, int] | None = None
    discover: Path | None = None
    discovered_local: bool = False

    @property
    def local(self) -> bool:
        """True where all workers are on this machine."""
        if self.hostfile is not None:
            return False
        if self.elastic is not None:
            return self.discovered_local
        return self.hosts is None or all(part.split(":")[0] in LOCAL for part in self.hosts.split(","))


@dataclass(frozen=True)
class Command:
    """A program with its arguments, and what its environment needs beside the present one."""

    arguments: list[str]
    environment: dict[str, str]


def parse_elastic(text: str) -> tuple[int, int]:
    """The least and the most workers of `MIN:MAX`. Raises `BadInput` where it is not of this form."""
    least, _, most = text.partition(":")
    if not (least.isdecimal() and most.isdecimal() and 1 <= int(least) <= int(most)):
        raise BadInput(f"--elastic: '{text}': expected MIN:MAX with 1 <= MIN <= MAX, such as 1:4")
    return int(least), int(most)


def parse_hosts(text: str) -> int:
    """The number of slots in `h1:2,h2:2`. Raises `BadInput` where it is not of this form."""
    slots = 0
    for part in text.split(","):
        host, _, count = part.partition(":")
        if not host or not (count or "1").isdecimal() or int(count or 1) < 1:
            raise BadInput(f"--hosts: '{part}': expected HOST:WORKERS, such as h1:2,h2:2")
        slots += int(count or 1)
    return slots


def start_command(world: World, worker: list[str], environment: dict[str, str]) -> Command:
    """The command that starts `worker` (arguments of `distrain`) in this world."""
    return start_program(world, [sys.executable, "-m", "distrain", *worker], environment)


def start_program(world: World, program: list[str], environment: dict[str, str]) -> Command:
    """The command that starts any program in this world, as horovodrun or mpirun want it."""
    return _horovodrun(world, program) if world.controller == "gloo" else _mpirun(world, program, environment)


def _horovodrun(world: World, program: list[str]) -> Command:
    arguments = [_beside_python("horovodrun"), "--gloo", "-np", str(world.count)]
    arguments += _hosts(world, hostfile="-hostfile", hosts="-H")
    if world.elastic is not None:
        least, most = world.elastic
        arguments += ["--min-np", str(least), "--max-np", str(most), "--host-discovery-script", str(world.discover)]
        arguments += ["--slots-per-host", "1", "--blacklist-cooldown-range", *COOLDOWN_SECONDS]
    if world.local:
        # All traffic stays on the loopback interface, and no time is spent on finding a common one.
        arguments += ["--network-interfaces", "lo"]
    # Horovod's launcher imports TensorFlow and ends its workers hard after this time.
    settings = {"TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_TERMINATION_GRACE_SECONDS": GRACE_SECONDS}
    return Command(arguments + program, settings)


def _mpirun(world: World, program: list[str], environment: dict[str, str]) -> Command:
    arguments = [_beside_python("mpirun"), "-np", str(world.count)]
    if os.geteuid() == 0:
        arguments.append("--allow-run-as-root")
    arguments += _hosts(world, hostfile="--hostfile", hosts="-H")
    if world.hosts is None and world.hostfile is None:
        arguments.append("--oversubscribe")
    # On one machine messages go through its memory; without TCP no worker listens to the network.
    unused = "^openib,tcp" if world.local else "^openib"
    arguments += ["--bind-to", "none", "--map-by", "slot", "--mca", "pml", "ob1", "--mca", "btl", unused]
    for name in sorted(environment):
        if name in CARRIED or name.startswith(CARRIED_PREFIXES):
            arguments += ["-x", name]
    return Command(arguments + program, {})


def _hosts(world: World, *, hostfile: str, hosts: str) -> list[str]:
    if world.hostfile is not None:
        return [hostfile, str(world.hostfile)]
    if world.hosts is not None:
        return [hosts, world.hosts]
    return []


def _beside_python(name: str) -> str:
    """The environment's own program where it has one, else the one that PATH finds."""
    path = Path(sys.prefix) / "bin" / name
    return str(path) if path.exists() else name
