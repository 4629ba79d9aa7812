"""How many cores there are for the processes of this host: fewer than the machine has, where something limits them."""

from __future__ import annotations

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores(bound: int | None = None, quota: float | None = None) -> int:
    """Cores that this process and those beside it may use, at least 1: what it is bound to, within its quota.

    A container's limit is a quota of time, which no affinity shows.
    """
    bound = len(os.sched_getaffinity(0)) if bound is None else bound
    quota = cpu_quota() if quota is None else quota
    return bound if quota is None else max(1, min(bound, round(quota)))


def cpu_quota(groups: Path = CGROUPS) -> float | None:
    """The limit of this container in cores, None where there is none that it can see."""
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us"):
        words = _read(groups / name).split()
        period = words[1] if len(words) == 2 else _read(groups / "cpu/cpu.cfs_period_us").strip()
        if words and words[0].isdecimal() and period.isdecimal() and int(period) > 0:
            return int(words[0]) / int(period)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
