"""Other hosts: which there are, whether they answer by ssh, by which network, and telling their workers to stop."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psutil

from distrain.errors import BadInput
from distrain.launcher.command import LOCAL

# A host that is known by another key is refused, one that is not known yet is not.
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "StrictHostKeyChecking=accept-new")
PAUSE_SECONDS = 1.0
TELL_SECONDS = 10.0
# A host that is cut off is not waited for much longer than its workers would have had.
END_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """What a host said: its network interfaces, or why there was no answer."""

    interfaces: tuple[str, ...] = ()
    problem: str = ""


def ask(host: str) -> Answer:
    """See whether a host can be reached by ssh."""
    if host in LOCAL:
        return Answer(tuple(psutil.net_if_addrs()))
    try:
        done = _run(host, "ls /sys/class/net", TELL_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(problem=" ".join(str(error).split()))
    if done.returncode == 0:
        return Answer(tuple(done.stdout.split()))
    said = done.stderr.strip().splitlines()
    return Answer(problem=said[-1] if said else f"ssh ended with exit code {done.returncode}")


def wait_for(
    hosts: Callable[[], Sequence[str]],
    seconds: float,
    *,
    least: int | None = None,
    asked: Callable[[str], Answer] = ask,
    pause: Callable[[float], object] = time.sleep,
) -> dict[str, Answer]:
    """Wait until all hosts answer, or `least` of them where given; returns what those said.

    `hosts` is called anew each time, for it may change. Raises `BadInput` after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        # In order, each once: a host may be named on several lines.
        names = list(dict.fromkeys(hosts()))
        with ThreadPoolExecutor(max(1, min(32, len(names)))) as pool:
            answers = dict(zip(names, pool.map(asked, names), strict=True))
        good = {name: answer for name, answer in answers.items() if not answer.problem}
        if len(good) >= (len(names) if least is None else least) and good:
            return good
        if time.monotonic() > deadline:
            raise BadInput(_no_answer(answers, least, seconds))
        pause(PAUSE_SECONDS)


def _no_answer(answers: Mapping[str, Answer], least: int | None, seconds: float) -> str:
    silent = {name: answer.problem for name, answer in answers.items() if answer.problem}
    wanted = f"all {len(answers)}" if least is None else f"at least {least}"
    first = next((f"; {name}: {problem}" for name, problem in silent.items()), "")
    return (
        f"{len(answers) - len(silent)} of {len(answers)} hosts answer by ssh after {seconds:g} s, expected {wanted}"
        f" (--wait is how long they have){first}"
    )


def interface_towards(host: str) -> str | None:
    """The network interface by which this machine reaches a host; None where none is found."""
    try:
        address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(address[0], socket.SOCK_DGRAM) as sender:
            sender.connect(address[4])  # sends nothing
            own = sender.getsockname()[0]
    except OSError:
        return None
    known = psutil.net_if_addrs().items()
    return next((name for name, addresses in known if any(each.address == own for each in addresses)), None)


def common_interface(
    answers: Mapping[str, Answer], towards: Callable[[str], str | None] = interface_towards
) -> str | None:
    """The interface by which all other hosts are reached, where it is one and each of them has one of that name."""
    found = {towards(host) for host in answers if host not in LOCAL} - {"lo"}
    name = found.pop() if len(found) == 1 else None
    return name if name is not None and all(name in answer.interfaces for answer in answers.values()) else None


@dataclass(frozen=True)
class Elsewhere:
    """The workers of a launch on other hosts, which no signal from here reaches."""

    hosts: Callable[[], Sequence[str]]

    def stop(self, mark: str) -> None:
        """Ask them to stop; returns when all hosts that can be reached have."""
        self._tell(["--stop", "--mark", mark], TELL_SECONDS)

    def end(self, mark: str, seconds: float) -> None:
        """Wait for them to end, for so long, then kill them."""
        self._tell(["--wait", f"{seconds:g}", "--mark", mark], seconds + END_SECONDS)

    def _tell(self, arguments: list[str], seconds: float) -> None:
        command = shlex.join([sys.executable, "-m", "distrain.launcher.processes", *arguments])
        others = [host for host in dict.fromkeys(self.hosts()) if host not in LOCAL]

        def tell(host: str) -> None:
            try:
                _run(host, command, seconds)
            except (OSError, subprocess.TimeoutExpired):
                return  # cut off: its workers end by themselves, having lost the others

        with ThreadPoolExecutor(max(1, min(32, len(others)))) as pool:
            list(pool.map(tell, others))


def _run(host: str, command: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SSH, host, command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
