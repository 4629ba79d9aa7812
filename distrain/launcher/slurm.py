"""What a Slurm job has been given: its nodes, and how many tasks it has on each."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping

from distrain.errors import BadInput

TASKS = re.compile(r"(?P<tasks>\d+)(\(x(?P<nodes>\d+)\))?")


def names_of(nodes: str) -> list[str]:
    """The names in Slurm's short form of them, such as `node[1-3,7]`: Slurm itself knows best."""
    try:
        done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BadInput(f"--slurm: scontrol does not tell the names of {nodes} ({error})") from error
    return done.stdout.split()


def allocated(environment: Mapping[str, str], names: Callable[[str], list[str]] = names_of) -> list[tuple[str, int]]:
    """The nodes of the job with their numbers of tasks. Raises `BadInput` outside of one."""
    nodes, tasks = environment.get("SLURM_JOB_NODELIST"), environment.get("SLURM_TASKS_PER_NODE")
    if nodes is None or tasks is None:
        raise BadInput("--slurm: SLURM_JOB_NODELIST and SLURM_TASKS_PER_NODE are not set, expected a Slurm job")
    found = names(nodes)
    counts = tasks_of(tasks)
    if len(found) != len(counts):
        raise BadInput(f"--slurm: {len(found)} nodes ({nodes}), but tasks for {len(counts)} ({tasks})")
    return list(zip(found, counts, strict=True))


def tasks_of(text: str) -> list[int]:
    """The numbers in Slurm's short form of them: `2(x3),1` is 2, 2, 2, 1."""
    counts: list[int] = []
    for part in text.split(","):
        match = TASKS.fullmatch(part)
        if match is None:
            raise BadInput(f"--slurm: SLURM_TASKS_PER_NODE is '{text}', expected a form such as 2(x3),1")
        counts += [int(match["tasks"])] * int(match["nodes"] or 1)
    return counts
