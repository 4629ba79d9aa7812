"""Running a launcher: its workers' output passed on as theirs, signals passed down, its exit code passed up.

What a worker says last, `distrain: ...` on standard error, is held back until all have ended: then the failure that
came first is told last, once, and those that only followed from it not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import IO, BinaryIO

from distrain.errors import (
    EXIT_BAD_INPUT,
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_STOPPED,
    LAST_WORDS,
    LEFT,
    LOST,
    BadInput,
)
from distrain.launcher.command import Command
from distrain.launcher.hosts import Elsewhere
from distrain.launcher.processes import MARK, end, send, started

# Exit codes with which the workers themselves have said all that there is to say.
SPOKEN_FOR = (EXIT_DONE, EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_STOPPED)
PREFIX = re.compile(rb"^\[\d+\]<std(?:out|err)>:")
# mpirun puts what it says itself between two such lines.
RULE = b"-" * 74
# How horovodrun and mpirun say which worker ended first, and with what exit code or signal.
ENDED_FIRST = re.compile(rb"process (?P<rank>\d+) was the first to fail, with exit code (?P<code>\d+)")
ENDED_BY_SIGNAL = re.compile(rb"process rank (?P<rank>\d+) [^\n]* exited on signal (?P<code>\d+)")
ENDED_BY_CODE = re.compile(rb"Process name: \[\[\d+,\d+\],(?P<rank>\d+)\]\s+Exit code:\s+(?P<code>\d+)")
# How horovodrun says that somebody else has tried to talk to the job, and from what address.
REFUSED = re.compile(rb"horovod: the [a-z -]+ refused ")
AFTER_STEP = re.compile(r"after step \d+")

LEFT_OVER_SECONDS = 27.0
# Once a worker has said its last words, the others have so long to end: one that hangs, or was stopped, never does.
FAILED_SECONDS = 12.0
# Once a worker has left the world, the others have nothing to do any more that takes long.
LEFT_SECONDS = 20.0
# So long have workers on several hosts from being asked to stop, for a step and a checkpoint.
STOP_SECONDS = 90.0
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a world ended: its exit code, and what is still to be told, the first failure last.

    `asked` is set where a signal has asked it to end.
    """

    code: int
    words: list[str]
    asked: threading.Event = field(default_factory=threading.Event, compare=False)


def execute(
    command: Command,
    *,
    prefixed: bool,
    stop_signal: signal.Signals,
    elastic: bool = False,
    elsewhere: Elsewhere | None = None,
) -> Ended:
    """Run a launcher to its end, and until all that it started on this machine has ended.

    `prefixed`: it marks its workers' lines with `[rank]<stdout>:`, which is taken off; what is not marked is its own
    and shown only where the workers have not told what happened. `stop_signal` is what makes it ask its workers to
    stop; it is sent too where this process is killed. In an `elastic` world what a worker says last is shown as it
    comes, and the others go on. Workers `elsewhere` are told by ssh what signals tell those here. Raises `BadInput`
    where it is not installed.
    """
    mark = uuid.uuid4().hex
    libc = ctypes.CDLL(None)

    def end_with_this_process() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(stop_signal))

    try:
        # In a session of its own: Ctrl-C reaches the launcher once, through here.
        process = subprocess.Popen(
            command.arguments,
            env={**os.environ, **command.environment, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=end_with_this_process,  # noqa: PLW1509 - no threads run here yet
        )
    except FileNotFoundError as error:
        raise BadInput(f"{command.arguments[0]} is not there; 'distrain check' tells what is missing") from error
    asked = _pass_signals(process, stop_signal, mark, elsewhere)
    assert process.stdout is not None
    assert process.stderr is not None
    output = Relay(process.stdout, sys.stdout.buffer, prefixed)
    deadlines = _Deadlines(mark, elsewhere, elastic=elastic)
    errors = Relay(
        process.stderr,
        sys.stderr.buffer,
        prefixed,
        on_last_words=deadlines.failed,
        on_left=deadlines.left,
        at_once=elastic,
    )
    threads = [threading.Thread(target=relay.run) for relay in (output, errors)]
    for thread in threads:
        thread.start()
    code = process.wait()
    # What a launcher that was killed leaves behind is asked to stop by what watches over it. It may hold the run's
    # folder, and then nothing could go on from it.
    end(mark, LEFT_OVER_SECONDS)
    if elsewhere is not None and code != EXIT_DONE:
        elsewhere.end(mark, FAILED_SECONDS)
    deadlines.cancel()
    for thread in threads:
        thread.join()
    code = 128 - code if code < 0 else code
    own = b"".join([*output.held, *errors.held])
    if code not in SPOKEN_FOR and not deadlines.words:
        sys.stderr.buffer.write(own)
    sys.stderr.buffer.flush()
    # What an elastic world has survived is not why it ended.
    said = [*errors.words, *(deadlines.words if code else [])]
    said = _ended_by(said, code) if elastic else said
    words = last_words(said, own.decode(errors="replace"), code)
    if elastic and code in SPOKEN_FOR and words == errors.latest:
        words = []  # stands last already
    return Ended(code if code in SPOKEN_FOR else EXIT_FAILED, words, asked)


class _Deadlines:
    """Kills the workers that do not end when they should: of a world of which one has ended, none trains on.

    In an `elastic` world the others go on where one has failed. `words` is what is to be told of it.
    """

    def __init__(self, mark: str, elsewhere: Elsewhere | None, *, elastic: bool) -> None:
        self.words: list[str] = []
        self._mark = mark
        self._elsewhere = elsewhere
        self._elastic = elastic
        late = f"{LAST_WORDS}a worker had not ended {LEFT_SECONDS:.0f} s after another was done: it was killed"
        self._timers = {
            seconds: threading.Timer(seconds, self._kill, [words])
            for seconds, words in ((FAILED_SECONDS, []), (LEFT_SECONDS, [late]))
        }

    def failed(self) -> None:
        """A worker has said its last words."""
        if not self._elastic:
            self._start(FAILED_SECONDS)

    def left(self) -> None:
        """A worker has done all that it had to do."""
        self._start(LEFT_SECONDS)

    def cancel(self) -> None:
        """All have ended."""
        for timer in self._timers.values():
            timer.cancel()
            if timer.is_alive():
                timer.join()

    def _start(self, seconds: float) -> None:
        self._timers[seconds].daemon = True
        self._timers[seconds].start()

    def _kill(self, words: list[str]) -> None:
        workers = started(self._mark, workers_only=True)
        if workers or self._elsewhere is not None:
            self.words = words
        send(workers, signal.SIGKILL)
        if self._elsewhere is not None:
            # The script that knows the hosts may know none now.
            with contextlib.suppress(BadInput):
                self._elsewhere.end(self._mark, 0)


def shown(command: Command) -> str:
    """The command as a line for a shell."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in command.environment.items()]
    return " ".join([*settings, shlex.join(command.arguments)])


def last_words(words: Sequence[str], own: str, code: int) -> list[str]:
    """What is told at the end, of what the workers said last (in the order it came) and their launcher's `own` words.

    The first failure stands last. A worker that has only lost another is heard where that one said nothing: it knows
    the step.
    """
    causes = [line for line in dict.fromkeys(words) if LOST not in line]
    if causes:
        return [*causes[1:], causes[0]]
    if code in SPOKEN_FOR:
        return []
    step = next((f" {match[0]}" for line in words if (match := AFTER_STEP.search(line)) is not None), "")
    return [f"{LAST_WORDS}{_how_it_ended(own.encode(), code)}{step}"]


def _ended_by(words: Sequence[str], code: int) -> list[str]:
    """Of what the workers of an elastic world said last, in the order it came, what its end is to be told with."""
    if code in (EXIT_DONE, EXIT_STOPPED):
        return []
    lost = [line for line in words if LOST in line]
    return [*lost, *[line for line in words if LOST not in line][-1:]]


def _how_it_ended(own: bytes, code: int) -> str:
    signalled = ENDED_BY_SIGNAL.search(own)
    match = signalled or ENDED_FIRST.search(own) or ENDED_BY_CODE.search(own)
    if match is None:
        return f"the workers ended with exit code {code}"
    rank, ended = int(match["rank"]), int(match["code"])
    number = ended if signalled else ended - 128
    if number in set(signal.Signals):
        more = ", by someone or for lack of memory" if number == signal.SIGKILL else ""
        return f"rank {rank} was killed ({signal.Signals(number).name}{more})"
    return f"rank {rank} ended with exit code {ended}, without a word"


@dataclass
class Relay:
    """Passes lines on as they come; a carriage return ends a line too, so that progress bars move.

    `held` are the launcher's own lines, `words` what workers said last; `on_last_words`, where given, is called at the
    first of these, which are passed on like any other line where it is not, and also where `at_once` is true. `latest`
    is the line of these that nothing came after, if any. `on_left` is called when the first worker has left the world.
    """

    source: IO[bytes]
    target: BinaryIO
    prefixed: bool
    on_last_words: Callable[[], None] | None = None
    on_left: Callable[[], None] | None = None
    held: list[bytes] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    at_once: bool = False
    latest: list[str] = field(default_factory=list)
    ruled: bool = False
    left: bool = False

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
        bare = PREFIX.sub(b"", line) if self.prefixed else line
        if self._is_own(line, bare):
            refused = REFUSED.search(line)
            if refused is None:
                self.held.append(line)
            else:
                self._show(line[refused.start() :])
        elif self.on_left is not None and bare.rstrip() == LEFT.encode():
            if not self.left:
                self.on_left()
            self.left = True
        elif self.on_last_words is not None and bare.startswith(LAST_WORDS.encode()):
            if not self.words:
                self.on_last_words()
            self.words.append(bare.decode(errors="replace").rstrip())
            if self.at_once:
                self._show(bare)
                self.latest = self.words[-1:]
        else:
            self._show(bare)

    def _show(self, line: bytes) -> None:
        self.latest = []
        try:
            self.target.write(line)
            self.target.flush()
        except BrokenPipeError:
            # Nobody reads on. The workers must not wait for that.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.target.fileno())

    def _is_own(self, line: bytes, bare: bytes) -> bool:
        """True for the launcher's own lines: those without a worker's mark, or from one rule to the next."""
        if self.prefixed:
            return bare == line
        if line.rstrip() == RULE:
            self.ruled = not self.ruled
            return True
        return self.ruled


def _pass_signals(
    process: subprocess.Popen[bytes], stop_signal: signal.Signals, mark: str, elsewhere: Elsewhere | None
) -> threading.Event:
    """Have SIGTERM, SIGINT and SIGUSR1 ask the workers to stop; a second SIGINT ends everything at once.

    Any of them sets the event that is returned.
    """
    asked = threading.Event()
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        asked.set()
        if number == signal.SIGINT and interrupted:
            send(started(mark), signal.SIGKILL)
            return
        interrupted = interrupted or number == signal.SIGINT
        if elsewhere is None:
            process.send_signal(stop_signal)
        else:
            threading.Thread(target=_stop, args=(process, stop_signal, mark, elsewhere), daemon=True).start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, handle)
    return asked


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals, mark: str, elsewhere: Elsewhere) -> None:
    """Ask workers on several hosts to stop: themselves, since the launcher would only drop its connections to them.

    It is told when they have had their time.
    """
    send(started(mark, workers_only=True), signal.SIGTERM)
    elsewhere.stop(mark)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(stop_signal)
