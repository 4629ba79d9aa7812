"""Running a launcher: its workers' output passed on as theirs, signals passed down, its exit code passed up."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, BinaryIO

from distrain.errors import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_DONE, EXIT_STOPPED, BadInput
from distrain.launcher.command import Command

# Exit codes with which the workers themselves have said all that there is to say.
SPOKEN_FOR = (EXIT_DONE, EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_STOPPED)
PREFIX = re.compile(rb"^\[\d+\]<std(?:out|err)>:")


def execute(command: Command, *, prefixed: bool, stop_signal: signal.Signals) -> int:
    """Run a launcher to its end; returns the workers' exit code.

    `prefixed`: it marks its workers' lines with `[rank]<stdout>:`, which is taken off; what is not marked is its own
    and shown only where the workers have not told what happened. `stop_signal` is what makes it ask its workers to
    stop. Raises `BadInput` where it is not installed.
    """
    environment = {**os.environ, **command.environment}
    try:
        # In a session of its own: Ctrl-C reaches the launcher once, through here.
        process = subprocess.Popen(
            command.arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise BadInput(f"{command.arguments[0]} is not there; 'distrain check' tells what is missing") from error
    _pass_signals(process, stop_signal)
    assert process.stdout is not None
    assert process.stderr is not None
    relays = [Relay(process.stdout, sys.stdout.buffer, prefixed), Relay(process.stderr, sys.stderr.buffer, prefixed)]
    threads = [threading.Thread(target=relay.run) for relay in relays]
    for thread in threads:
        thread.start()
    code = process.wait()
    for thread in threads:
        thread.join()
    code = 128 - code if code < 0 else code
    if code not in SPOKEN_FOR:
        for relay in relays:
            sys.stderr.buffer.write(b"".join(relay.held))
        print(f"distrain: the workers ended with exit code {code}", file=sys.stderr)
    return code


def shown(command: Command) -> str:
    """The command as a line for a shell."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return " ".join([*settings, shlex.join(command.arguments)])


@dataclass
class Relay:
    """Passes lines on as they come; a carriage return ends a line too, so that progress bars move."""

    source: IO[bytes]
    target: BinaryIO
    prefixed: bool
    held: list[bytes] = field(default_factory=list)

    def run(self) -> None:
        """Pass on until the source ends."""
        rest = b""
        while chunk := os.read(self.source.fileno(), 65536):
            *lines, rest = re.split(rb"(?<=[\r\n])", rest + chunk)
            for line in lines:
                self._pass(line)
        if rest:
            self._pass(rest)

    def _pass(self, line: bytes) -> None:
        if self.prefixed:
            bare = PREFIX.sub(b"", line)
            if bare is line or bare == line:
                self.held.append(line)
                return
            line = bare
        self.target.write(line)
        self.target.flush()


def _pass_signals(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Have SIGTERM, SIGINT and SIGUSR1 ask the workers to stop; a second SIGINT ends everything at once."""
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if number == signal.SIGINT and interrupted:
            os.killpg(process.pid, signal.SIGKILL)
            return
        interrupted = interrupted or number == signal.SIGINT
        process.send_signal(stop_signal)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, handle)
