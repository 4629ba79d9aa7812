"""Hosts on this machine: each with a network, host name, mounts and processes of its own, on a switch they share.

Needs root, and `ip`, `unshare` and `nsenter`. All traffic stays inside the namespaces made here: the switch is in one,
too, and nothing connects it to this machine's network.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

SUBNET = "10.77.0"
PR_SET_PDEATHSIG = 1
PROGRAMS = ("ip", "unshare", "nsenter", "mount", "chroot")


def why_not() -> str | None:
    """What this machine lacks to make hosts; None where it can."""
    if os.geteuid() != 0:
        return "hosts are made by root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"hosts are made with {', '.join(missing)}, not here"
    made = subprocess.run(["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"], check=False)
    return None if made.returncode == 0 else "no namespaces can be made here"


def run(*command: str | Path) -> str:
    """Run a command that must succeed; returns what it prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@dataclass
class Host:
    """One host: `prepare` are shell lines run as root in its mounts, before anything else; `enter` begins each program.

    Its first process is `main`, or one that waits; all of its processes end with that one.
    """

    network: Network
    name: str
    address: str
    prepare: Sequence[str] = ()
    enter: Sequence[str] = ()
    aliases: Sequence[str] = ()
    first: subprocess.Popen[str] | None = None
    connected: bool = True

    @property
    def namespace(self) -> str:
        return f"{self.network.prefix}-{self.address.rpartition('.')[2]}"

    def start(
        self, main: Sequence[str] = ("sleep", "infinity"), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Boot the host: its first process is this one, as a container's is."""
        lines = [
            "set -e",
            "mount --make-rprivate /",
            "ip link set lo up",
            f"hostname {self.name}",
            f"mount --bind {shlex.quote(str(self.network.hosts_file))} /etc/hosts",
            *self.prepare,
            f"exec {shlex.join([*self.enter, *main])}",
        ]
        inside = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        log = (self.network.folder / f"{self.name}.log").open("w")
        self.first = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *inside, "sh", "-c", "\n".join(lines)],
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_end_with_this_process,  # noqa: PLW1509 - no threads run here
        )
        log.close()
        return self.first

    @property
    def log(self) -> str:
        """What the first process has printed."""
        return (self.network.folder / f"{self.name}.log").read_text()

    def pid(self, seconds: float = 20.0) -> int:
        """The first process, seen from outside, once it is what it was started for."""
        assert self.first is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.first.poll() is None, f"{self.name} ended: {self.log}"
            for child in psutil.Process(self.first.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.cmdline()[:1] not in (["sh"], ["unshare"]) or "set -e" not in child.cmdline()[-1]:
                        return child.pid
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not start: {self.log}")

    def popen(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a program in the host, beside its first process."""
        inside = ["nsenter", "--target", str(self.pid()), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        return subprocess.Popen(
            [*inside, *self.enter, *command],
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, environment: Mapping[str, str] | None = None, check: bool = True) -> str:
        """Run a program in the host to its end; returns what it prints."""
        process = self.popen(command, environment)
        output, errors = process.communicate(timeout=120)
        assert not check or process.returncode == 0, (command, process.returncode, output, errors)
        return output

    def terminate(self) -> None:
        """SIGTERM to the first process, as a container's end begins."""
        os.kill(self.pid(), signal.SIGTERM)

    def kill(self) -> None:
        """End the host at once: all of its processes, and nothing more said to anybody."""
        self.cut()
        if self.first is not None and self.first.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.first.pid).children():
                    child.kill()
            self.first.wait(timeout=20)

    def cut(self) -> None:
        """Take the host off the switch."""
        if self.connected:
            self._link("down")
            self.connected = False

    def join(self) -> None:
        """Put the host on the switch again."""
        if not self.connected:
            self._link("up")
            self.connected = True

    def _link(self, state: str) -> None:
        # On the switch's side: the host itself sees nothing but silence.
        run("ip", "-n", self.network.switch, "link", "set", f"p{self.address.rpartition('.')[2]}", state)


@dataclass
class Network:
    """A switch with hosts on it; all is gone at its end."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"dt{os.getpid()}")

    @property
    def switch(self) -> str:
        return f"{self.prefix}-switch"

    @property
    def hosts_file(self) -> Path:
        return self.folder / "hosts"

    def __enter__(self) -> Network:
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_left_over()
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "bridge", "up")
        self._write_hosts()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts:
            host.kill()
        for host in self.hosts:
            run("ip", "netns", "delete", host.namespace)
        run("ip", "netns", "delete", self.switch)

    def add(
        self, name: str, prepare: Sequence[str] = (), enter: Sequence[str] = (), aliases: Sequence[str] = ()
    ) -> Host:
        """A new host, on the switch and not started."""
        number = len(self.hosts) + 1
        host = Host(self, name, f"{SUBNET}.{number}", prepare, enter, aliases)
        run("ip", "netns", "add", host.namespace)
        self.hosts.append(host)
        # Made where they belong: no moment in this machine's own network.
        near = ["ip", "-n", host.namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"p{number}"]
        run(*near, "netns", self.switch)
        run("ip", "-n", self.switch, "link", "set", f"p{number}", "master", "bridge", "up")
        run("ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        run("ip", "-n", host.namespace, "link", "set", "eth0", "up")
        self._write_hosts()
        return host

    def _write_hosts(self) -> None:
        lines = ["127.0.0.1 localhost"]
        lines += [f"{host.address} {' '.join([host.name, *host.aliases])}" for host in self.hosts]
        # In place: hosts that run have this very file mounted.
        self.hosts_file.write_text("\n".join([*lines, ""]))


@contextlib.contextmanager
def network(folder: Path) -> Iterator[Network]:
    """A network for a test."""
    with Network(folder) as made:
        yield made


def _end_with_this_process() -> None:
    """Have a host end where the tests are killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _remove_left_over() -> None:
    """Take away the networks of tests that were killed."""
    for line in run("ip", "netns", "list").splitlines():
        match = re.match(r"dt(\d+)-", line)
        if match is not None and not psutil.pid_exists(int(match[1])):
            run("ip", "netns", "delete", line.split()[0])


def _environment(environment: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if environment is None else dict(environment)
