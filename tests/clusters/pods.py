"""Pods of an MPIJob on this machine: hosts with the image's file system, made from the manifest as the operator does.

What the operator (v0.8.2) adds to a manifest is in `Job`: names, variables, host file, discovery script and key pair.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.clusters.hosts import Host, Network, run
from tests.clusters.manifests import Resource, resource

IMAGE = os.environ.get("DISTRAIN_IMAGE", "localhost/distrain:cpu")
BUILDAH = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
USER = "1000"
DEVICES = ("null", "zero", "full", "random", "urandom")


def why_not() -> str | None:
    """What this machine lacks to run the image's file system; None where nothing."""
    if shutil.which("buildah") is None or shutil.which("ssh-keygen") is None:
        return "buildah or ssh-keygen is not here"
    command = ["buildah", "inspect", "--type", "image", IMAGE]
    found = subprocess.run(command, env=BUILDAH, capture_output=True, check=False)
    return None if found.returncode == 0 else f"there is no image {IMAGE} (make image)"


@dataclass(frozen=True)
class Image:
    """The image's file system, and what it says of processes."""

    root: Path
    environment: list[str]
    folder: str


@contextmanager
def image() -> Iterator[Image]:
    """The image, mounted."""
    container = _buildah("from", "--pull-never", IMAGE)
    try:
        said = json.loads(_buildah("inspect", "--type", "image", IMAGE))["OCIv1"]["config"]
        yield Image(Path(_buildah("mount", container)), said["Env"], said["WorkingDir"])
    finally:
        _buildah("rm", container)


def _buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], env=BUILDAH, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@dataclass
class Job:
    """An MPIJob of an overlay, with the pods that it has at the time."""

    network: Network
    image: Image
    overlay: str
    volumes: Path
    overrides: Sequence[str] = ()
    pods: dict[str, Host] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.manifest = resource(self.overlay, "MPIJob")
        self.name = str(self.manifest["metadata"]["name"])
        self.spec = self.manifest["spec"]
        self.files = self.volumes / self.name
        for name in ("mpi", "ssh", "job", "data"):
            (self.files / name).mkdir(parents=True)
        self.runs = self.volumes / "runs"
        self.runs.mkdir(exist_ok=True)
        shutil.chown(self.runs, int(USER), int(USER))
        (self.files / "job" / "job.yaml").write_text(resource(self.overlay, "ConfigMap")["data"]["job.yaml"])
        self._make_keys()
        hosts = [f"{self.domain_name(name)} slots={self.spec['slotsPerWorker']}\n" for name in self.workers]
        self._configure("hostfile", "".join(hosts))
        self.discover([])

    @property
    def workers(self) -> list[str]:
        count = self.spec["mpiReplicaSpecs"]["Worker"]["replicas"]
        return [f"{self.name}-worker-{number}" for number in range(count)]

    def domain_name(self, pod: str) -> str:
        return f"{pod}.{self.name}.{self.manifest['metadata']['namespace']}.svc"

    def discover(self, running: Sequence[str]) -> None:
        """Write the script that lists the pods that run."""
        lines = ["#!/bin/sh", *(f"echo {self.domain_name(name)}" for name in sorted(running)), ""]
        self._configure("discover_hosts.sh", "\n".join(lines))

    def start_workers(self, *names: str) -> None:
        """Start worker pods, all or these; the script lists those that run afterwards."""
        for name in names or self.workers:
            self._start(name, "Worker", {"K_MPI_JOB_ROLE": "worker"})
        self.discover([name for name in self.workers if self.running(name)])

    def running(self, name: str) -> bool:
        pod = self.pods.get(name)
        return pod is not None and pod.first is not None and pod.first.poll() is None

    def launch(self) -> Host:
        """Start the launcher's pod, with what the operator puts into its environment."""
        variables = {
            "K_MPI_JOB_ROLE": "launcher",
            "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
            "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
            "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
            "OMPI_MCA_orte_set_default_slots": str(self.spec["slotsPerWorker"]),
            "NVIDIA_VISIBLE_DEVICES": "",
            "NVIDIA_DRIVER_CAPABILITIES": "",
        }
        return self._start(f"{self.name}-launcher", "Launcher", variables)

    def _start(self, name: str, replica: str, variables: dict[str, str]) -> Host:
        (container,) = self.spec["mpiReplicaSpecs"][replica]["template"]["spec"]["containers"]
        host = self.pods.get(name)
        if host is None:
            aliases = [self.domain_name(name)]
            host = self.pods[name] = self.network.add(name, self._mounts(name, container), (), aliases)
        host.join()
        given = {each["name"]: each["value"] for each in container.get("env", [])} | variables | {"HOSTNAME": name}
        host.enter = self._enter(name, given)
        host.start(
            [*container["command"], *container.get("args", []), *(self.overrides if "Launcher" in replica else [])]
        )
        return host

    def _root(self, name: str) -> Path:
        return self.files / "roots" / name

    def _enter(self, name: str, variables: dict[str, str]) -> list[str]:
        """The first words of every program in a pod: an ordinary user who can become no other, in the image."""
        settings = [*self.image.environment, *(f"{key}={value}" for key, value in variables.items())]
        rights = ["--reuid", USER, "--regid", USER, "--groups", USER, "--no-new-privs", "--bounding-set=-all"]
        clean = ["env", "-i", "-C", self.image.folder, *settings]
        return ["chroot", str(self._root(name)), "setpriv", *rights, "--inh-caps=-all", *clean]

    def _mounts(self, name: str, container: Resource) -> list[str]:
        """The file system of a pod: the image, read-only, and the manifest's volumes."""
        root = self._root(name)
        layers = root.with_name(f"{name}-layers")
        for path in (root, layers):
            path.mkdir(parents=True)
        overlay = f"lowerdir={self.image.root},upperdir={layers}/upper,workdir={layers}/work"
        lines = [
            f"mount -t tmpfs tmpfs {layers}",
            f"mkdir {layers}/upper {layers}/work",
            f"mount -t overlay overlay -o {overlay} {root}",
            f"mkdir -p {root}/proc {root}/sys {root}/dev",
            f"mount -t proc proc {root}/proc",
            f"mount -t sysfs -o ro sysfs {root}/sys",
            f"mount -t tmpfs -o mode=755 tmpfs {root}/dev",
            *(f"touch {root}/dev/{each} && mount --bind /dev/{each} {root}/dev/{each}" for each in DEVICES),
            f"mkdir {root}/dev/shm && mount -t tmpfs -o mode=1777,size=64m tmpfs {root}/dev/shm",
            f"ln -s /proc/self/fd {root}/dev/fd",
            f"touch {root}/etc/hosts && mount --bind {self.network.hosts_file} {root}/etc/hosts",
        ]
        sources = {"job": self.files / "job", "runs": self.runs, "data": self.files / "data"}
        mounts = [(each["mountPath"], sources.get(each["name"])) for each in container["volumeMounts"]]
        mounts.append((self.spec["sshAuthMountPath"], self.files / "ssh"))
        if container["name"] == "launcher":
            mounts.append(("/etc/mpi", self.files / "mpi"))
        for path, source in mounts:
            what = f"-t tmpfs -o mode=1777 tmpfs {root}{path}" if source is None else f"--bind {source} {root}{path}"
            lines += [f"mkdir -p {root}{path}", f"mount {what}"]
        return [*lines, f"mount -o remount,ro,bind {root}"]

    def _configure(self, name: str, text: str) -> None:
        """A file of the launcher's configuration; replaced whole, as Kubernetes does."""
        new = self.files / f"{name}.new"
        new.write_text(text)
        new.chmod(0o555 if name.endswith(".sh") else 0o444)
        new.replace(self.files / "mpi" / name)

    def _make_keys(self) -> None:
        """The key pair as it is mounted: root's, and readable."""
        key = self.files / "ssh" / "id_rsa"
        run("ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-C", "", "-f", key)
        shutil.copy(f"{key}.pub", key.with_name("authorized_keys"))
        for path in (self.files / "ssh").iterdir():
            path.chmod(0o644)


def ended(host: Host, seconds: float) -> int:
    """The exit code of a pod's first process."""
    assert host.first is not None
    begin = time.monotonic()
    try:
        return host.first.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"{host.name}: no end in {time.monotonic() - begin:.0f} s: {host.log[-3000:]}") from None
