"""The command line that starts a world: horovodrun over Gloo, or mpirun. Pure functions of what was asked."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import BadInput
from distrain.world.cores import cores
from distrain.world.start import EXPECTED_SIZE, YIELD

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
    are at any time, each with `slots_per_host` workers where it does not say; `discovered_local` says whether all of
    them were this machine at first. `interface` is what hosts reach each other by, where that is known. With `slurm`,
    mpirun gets its hosts from the Slurm job that it runs in, and starts its part on them by srun.
    """

    count: int
    hosts: str | None = None
    controller: str = "gloo"
    elastic: tuple[int, int] | None = None
    discover: Path | None = None
    discovered_local: bool = False
    slots_per_host: int = 1
    interface: str | None = None
    slurm: bool = False

    @property
    def local(self) -> bool:
        """True where all workers are on this machine."""
        if self.slurm:
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


def parse_hosts(text: str, source: str = "--hosts") -> list[tuple[str, int]]:
    """The hosts of `h1:2,h2:2` with their numbers of workers. Raises `BadInput` where it is not of this form."""
    found = []
    for part in text.split(","):
        host, _, count = part.partition(":")
        if not host or not (count or "1").isdecimal() or int(count or 1) < 1:
            raise BadInput(f"{source}: '{part}': expected HOST:WORKERS, such as h1:2,h2:2")
        found.append((host, int(count or 1)))
    return found


def hosts_of_file(path: Path) -> str:
    """A host file as `--hosts` has it: `HOST slots=N` or `HOST:N` a line. Raises `BadInput` where it is not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--hostfile: {path}: cannot be read ({error.strerror}), expected a file of hosts") from error
    lines = [line for line in (line.partition("#")[0].strip() for line in text.splitlines()) if line]
    found = [re.sub(r"\s+slots\s*=\s*", ":", line) for line in lines]
    for part, line in zip(found, lines, strict=True):
        if "," in part or " " in part:
            raise BadInput(f"--hostfile: {path}: '{line}': expected HOST slots=WORKERS")
        parse_hosts(part, f"--hostfile: {path}")
    if not found:
        raise BadInput(f"--hostfile: {path}: names no host, expected HOST slots=WORKERS a line")
    return ",".join(found)


def start_command(world: World, worker: list[str], environment: dict[str, str]) -> Command:
    """The command that starts `worker` (arguments of `distrain`) in this world."""
    return start_program(world, [sys.executable, "-m", "distrain", *worker], environment)


def start_program(world: World, program: list[str], environment: dict[str, str]) -> Command:
    """The command that starts any program in this world, as horovodrun or mpirun want it."""
    return _horovodrun(world, program) if world.controller == "gloo" else _mpirun(world, program, environment)


def choices(world: World, environment: dict[str, str]) -> list[str]:
    """What was chosen for this world, by what, and how to have it otherwise; a sentence each."""
    said = [f"workers: {world.count}" + (f", {world.elastic[0]} to {world.elastic[1]} later" if world.elastic else "")]
    if world.local:
        said.append("interface: lo, since all workers are on this machine (--interface)")
    elif world.slurm:
        said.append("interface: Open MPI's choice among those of the nodes (--interface)")
    elif world.interface is None:
        said.append("interface: found by the launcher, since hosts are reached by several or none (--interface)")
    else:
        said.append(f"interface: {world.interface}, by which the hosts are reached (--interface)")
    if world.local:
        share = max(1, cores() // world.count)
        said.append(f"threads: {share} for each of {world.count} workers on {cores()} cores (-o parallel.threads=N)")
    else:
        said.append("threads: each host's cores, shared among its workers (-o parallel.threads=N)")
    if world.controller == "mpi":
        who = "as it is in the environment" if YIELD in environment else _who_yields(world)
        said.append(f"Open MPI's polling: {who} ({YIELD}=0 or 1)")
    return said


def _who_yields(world: World) -> str:
    if not world.local:
        return "yields where a host has no more cores than workers"
    comparison = "no more" if _yields(world, {}) else "more"
    return f"{'yields' if _yields(world, {}) else 'does not yield'}, {comparison} cores than workers"


def _yields(world: World, environment: dict[str, str]) -> bool:
    """Whether Open MPI is to give its core away while it waits; on other hosts, each worker finds out for itself."""
    return world.local and world.count >= cores() and YIELD not in environment


def _horovodrun(world: World, program: list[str]) -> Command:
    arguments = [_beside_python("horovodrun"), "--gloo", "-np", str(world.count)]
    arguments += _hosts(world)
    settings = {"TF_CPP_MIN_LOG_LEVEL": "3"}  # Horovod's launcher imports TensorFlow
    if world.elastic is not None:
        least, most = world.elastic
        arguments += ["--min-np", str(least), "--max-np", str(most), "--host-discovery-script", str(world.discover)]
        arguments += ["--slots-per-host", str(world.slots_per_host), "--blacklist-cooldown-range", *COOLDOWN_SECONDS]
    else:
        settings[EXPECTED_SIZE] = str(world.count)
    interface = "lo" if world.local and world.interface is None else world.interface
    if interface is not None:
        # No time is spent on finding a common one; an elastic launcher would wait for a second host to compare with.
        arguments += ["--network-interfaces", interface]
    # Horovod's launcher ends its workers hard after this time.
    settings["HOROVOD_TERMINATION_GRACE_SECONDS"] = GRACE_SECONDS
    return Command(arguments + program, settings)


def _mpirun(world: World, program: list[str], environment: dict[str, str]) -> Command:
    arguments = [_beside_python("mpirun"), "-np", str(world.count)]
    if os.geteuid() == 0:
        arguments.append("--allow-run-as-root")
    arguments += _hosts(world)
    if world.hosts is None and not world.slurm:
        arguments.append("--oversubscribe")
    # On one machine messages go through its memory; without TCP no worker listens to the network.
    unused = "^openib,tcp" if world.local else "^openib"
    arguments += ["--bind-to", "none", "--map-by", "slot", "--mca", "pml", "ob1", "--mca", "btl", unused]
    if _yields(world, environment):
        arguments += ["--mca", YIELD.removeprefix("OMPI_MCA_"), "1"]
    if not world.local:
        arguments += _KEEP_ALIVE
    if world.interface is not None:
        for part in ("btl", "oob"):
            arguments += ["--mca", f"{part}_tcp_if_include", world.interface]
    for name in sorted(environment):
        if name in CARRIED or name.startswith(CARRIED_PREFIXES):
            arguments += ["-x", name]
    arguments += ["-x", f"{EXPECTED_SIZE}={world.count}"]
    if world.interface is not None and "NCCL_SOCKET_IFNAME" not in environment:
        arguments += ["-x", f"NCCL_SOCKET_IFNAME={world.interface}"]
    return Command(arguments + program, {})


# A host that is cut off is noticed after half a minute, by both sides: each ends its processes.
_KEEP_ALIVE = ["--mca", "oob_tcp_keepalive_time", "10", "--mca", "oob_tcp_keepalive_intvl", "5"]
_KEEP_ALIVE += ["--mca", "oob_tcp_keepalive_probes", "3"]


def _hosts(world: World) -> list[str]:
    return [] if world.hosts is None else ["-H", world.hosts]


def _beside_python(name: str) -> str:
    """The environment's own program where it has one, else the one that PATH finds."""
    path = Path(sys.prefix) / "bin" / name
    return str(path) if path.exists() else name
