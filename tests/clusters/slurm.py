"""A Slurm cluster of hosts on this machine: Debian's slurmctld, slurmd and munge, as their packages start them."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clusters.hosts import Host, Network, run

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
STARTS = 60.0

# No control groups: who may use a core is not what is tried here.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=controller
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=/var/spool/slurm-state
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=30
SchedulerParameters=batch_sched_delay=1,sched_interval=1
"""


def why_not() -> str | None:
    """What this machine lacks for a Slurm cluster; None where nothing."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{', '.join(missing)} not here (Debian: slurmctld slurmd slurm-client munge)" if missing else None


@dataclass(frozen=True)
class Cluster:
    """A controller, where jobs are submitted, and the nodes."""

    controller: Host
    nodes: list[Host]

    def sinfo(self) -> str:
        return self.controller.run("sinfo", "--noheader", "--format=%D %T", check=False)

    def job(self, number: str) -> dict[str, str]:
        """What the controller says of a job."""
        text = self.controller.run("scontrol", "show", "job", "--oneliner", number)
        return dict(part.partition("=")[::2] for part in text.split())


@contextmanager
def slurm(network: Network, *, nodes: int, cores: int) -> Iterator[Cluster]:
    """A cluster whose nodes are idle."""
    folder = network.folder / "slurm"
    folder.mkdir()
    names = [f"node{number}" for number in range(1, nodes + 1)]
    lines = [f"NodeName={name} CPUs={cores} RealMemory=2000 State=UNKNOWN" for name in names]
    lines.append(f"PartitionName=all Nodes={','.join(names)} Default=YES MaxTime=60 State=UP")
    (folder / "etc").mkdir()
    (folder / "etc" / "slurm.conf").write_text(CONFIGURATION + "\n".join([*lines, ""]))
    (folder / "etc" / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    run("chown", "munge:", key)
    key.chmod(0o400)
    hosts = [network.add(name, prepare=_prepare(folder)) for name in ("controller", *names)]
    for host in hosts:
        host.start()
        host.run("runuser", "-u", "munge", "--", "munged", "--num-threads=1")
    controller, *workers = hosts
    controller.run("slurmctld")
    for worker in workers:
        worker.run("slurmd")
    cluster = Cluster(controller, workers)
    deadline = time.monotonic() + STARTS
    while cluster.sinfo().split() != [str(nodes), "idle"]:
        assert time.monotonic() < deadline, f"the nodes are not idle: {cluster.sinfo()}"
        time.sleep(0.5)
    yield cluster


def _prepare(folder: Path) -> list[str]:
    private = ["/sys/fs/cgroup", "/run", "/var/spool", "/var/log", "/var/lib/munge", "/etc/munge", "/etc/slurm"]
    lines = [f"mkdir -p {' '.join(private[1:])}"]
    lines += [f"mount -t tmpfs -o mode=755 tmpfs {path}" for path in private]
    lines += ["mkdir /run/munge /var/log/munge /var/spool/slurmd /var/spool/slurm-state"]
    lines += [f"cp -p {folder}/munge.key /etc/munge/munge.key", f"cp {folder}/etc/* /etc/slurm/"]
    lines += ["chown munge: /run/munge /var/log/munge /var/lib/munge /etc/munge"]
    return lines
