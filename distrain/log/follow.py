"""Tells a tracking service what a run writes down: a process of its own, which reads the run's folder as it grows.

python -m distrain.log.follow SERVICE RUN      SERVICE is `mlflow` or `wandb`, a key of the job's `log`

Rank 0 starts it (`distrain.log.tracking`) and goes on at once: a service that is slow or cannot be reached costs the
training nothing. Standard input says how it ends, in one line: `finished`, `stopped`, `failed` or `moved`, and within
how many seconds; it stays open as long as rank 0 is there. Standard output has lines for whoever watches, standard
error what the client says.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from distrain.errors import EXIT_DONE, EXIT_FAILED
from distrain.job.load import check_job, flattened, read_yaml, resolved
from distrain.job.schema import Job
from distrain.log.address import without_password
from distrain.log.backlog import Backlog, Point, Sent, load_sent, save_sent
from distrain.log.folder import RunFolder
from distrain.log.tracking import MOVED, rest_of
from distrain.world.versions import versions

POLL_SECONDS = 1.0
# After a failure, and after each further one twice as long.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 60.0
# Where the training process has gone; and beyond what it has granted, where it is there and does not end this one.
ORPHANED_SECONDS, LATER_SECONDS = 5.0, 2.0
# Records that are handed over at once: about as many numbers as MLflow takes in one request.
AT_ONCE = 80
# For the clients, unless the user's environment says otherwise: what fails is tried again here, with all that waits,
# and nobody but the service is told.
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true",
}


class ServiceRun(Protocol):
    """A run as a service has it; `run` is what the service calls it, `place` where a person finds it."""

    run: str

    @property
    def place(self) -> str: ...

    def parameters(self, parameters: Mapping[str, str]) -> None: ...

    def points(self, points: Sequence[Point]) -> None: ...

    def picture(self, path: Path, step: int) -> None: ...

    def end(self, how: str) -> None: ...

    def leave(self) -> None: ...


class Ending:
    """How the training process says that this one is to end; without a word it has failed."""

    def __init__(self) -> None:
        self._how: str | None = None
        self._known = threading.Event()
        threading.Thread(target=self._listen, name="ending", daemon=True).start()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the end is known."""
        self._known.wait(seconds)

    @property
    def how(self) -> str | None:
        """None while the run goes on."""
        return self._how if self._known.is_set() else None

    def _listen(self) -> None:
        words = sys.stdin.readline().split()
        self._how, seconds = (words[0], float(words[1]) + LATER_SECONDS) if words else ("failed", ORPHANED_SECONDS)
        self._known.set()
        # A client that hangs keeps neither this process nor, once rank 0 has gone, the next one that wants the lock. No
        # other word comes: what can be read is the end of the input.
        if words:
            gone, _, _ = select.select([sys.stdin], [], [], seconds)
            seconds = ORPHANED_SECONDS if gone else 0.0
        threading.Event().wait(seconds)
        os._exit(EXIT_FAILED)


class Follower:
    """Sends what a run writes down to `service`, which has it `where` it says and which `connect` reaches.

    `tell` shows a line. Elsewhere than before, the run is a new one, and is told from its beginning.
    """

    def __init__(
        self,
        folder: RunFolder,
        service: str,
        job: Job,
        where: str,
        connect: Callable[[str | None], ServiceRun],
        tell: Callable[[str], None],
    ) -> None:
        self._state = folder.tracking / f"{service}.json"
        self._connect = connect
        self._tell = tell
        self._rest = partial(rest_of, service, folder)
        self._parameters = parameters(job)
        self._backlog = Backlog(folder)
        sent = load_sent(self._state)
        self._sent = sent if sent.where == where else Sent(where)
        self._service: ServiceRun | None = None
        self._warned: set[str] = set()
        # Names of pictures that could not be sent.
        self._left: set[str] = set()

    def run(self, ending: Ending) -> bool:
        """Follow until the end is known; returns whether all that there was has been sent."""
        wait = FIRST_WAIT_SECONDS
        while True:
            # Asked before the log is read: what was written down before the end is read then.
            how = ending.how
            try:
                self._send(how)
            except Exception as error:
                # Third parties' code, and that of what the service keeps its data in: it raises what it likes, a module
                # that is missing as well as a connection that is. The training has nothing to do with any of it.
                self._left.clear()  # it may have been the service that was away
                if how is not None:
                    self._warn(f"not all has been sent ({_one_line(error)}); {self._rest(how)}", error)
                    return False
                self._warn(
                    f"cannot be told ({_one_line(error)}); the run goes on, and what waits is sent when it can be",
                    error,
                    once="away",
                )
                ending.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_SECONDS)
                continue
            if how is not None:
                self._backlog.close()
                return True
            wait = FIRST_WAIT_SECONDS
            ending.wait(POLL_SECONDS)

    def _send(self, how: str | None) -> None:
        if self._service is None:
            service = self._connect(self._sent.run)
            self._keep(replace(self._sent, run=service.run))
            service.parameters(self._parameters)
            self._service = service
            self._tell(without_password(service.place))
        while points := self._backlog.points(self._sent, AT_ONCE):
            self._service.points(points)
            self._keep(self._sent.after(points))
        for path in self._backlog.pictures(self._sent):
            if path.name not in self._left:
                self._send_picture(self._service, path)
        if how == MOVED:
            self._service.leave()
        elif how is not None:
            self._service.end(how)

    def _send_picture(self, service: ServiceRun, path: Path) -> None:
        """Send it, or leave it: pictures may have a store of their own, and numbers do not wait for that."""
        try:
            service.picture(path, self._sent.step)
        except Exception as error:  # as in `run`
            self._left.add(path.name)
            self._warn(
                f"{path.name} cannot be sent ({_one_line(error)}); all else is, and starting the run again tries anew",
                error,
                once="picture",
            )
        else:
            self._keep(replace(self._sent, pictures=(*self._sent.pictures, path.name)))

    def _keep(self, sent: Sent) -> None:
        # Known here before it is on disk: a disk that is full does not have the run begun there again at each try.
        self._sent = sent
        save_sent(self._state, sent)

    def _warn(self, text: str, error: Exception, *, once: str | None = None) -> None:
        """Show a line, and write down where the error comes from; of those with the same `once` the first alone."""
        if once in self._warned:
            return
        if once is not None:
            self._warned.add(once)
        self._tell(text)
        with suppress(OSError):  # the disk that this goes to may be full
            print(without_password("".join(traceback.format_exception(error))), file=sys.stderr, flush=True)


def parameters(job: Job) -> dict[str, str]:
    """The job's keys as a service shows them, without passwords, but for what is written down."""
    return {
        key: without_password(value if isinstance(value, str) else json.dumps(value))
        for key, value in flattened(resolved(job))
        if not key.startswith("log.")
    }


def _one_line(error: Exception) -> str:
    # Cut before it is shortened: half of an address is none that would be known as one.
    return without_password(" ".join(str(error).split()))[:300] or type(error).__name__


def main(arguments: Sequence[str]) -> int:
    """Follow a run until it ends; returns 0 where all has been sent."""
    # The terminal's and the launcher's signals are for the training process, which says what is to be done here.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    ending = Ending()
    # What a client prints is no line for whoever watches.
    shown = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    key, folder = arguments[0], RunFolder(Path(arguments[1]))
    job = check_job(read_yaml(folder.job), source=str(folder.job))

    def tell(text: str) -> None:
        try:
            print(f"{key}: {text}", file=shown, flush=True)
        except BrokenPipeError:
            return  # nobody watches any longer

    about = {**versions(), "folder": str(folder.path.resolve())}
    name = folder.path.resolve().name
    with (folder.tracking / f"{key}.lock").open("w") as lock:
        # The one before may have some seconds to go, where its training process was killed.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if key == "mlflow":
            from distrain.log.mlflow_run import MLflowRun

            def connect(run: str | None) -> ServiceRun:
                return MLflowRun(job, name, run, about=about)

            where = MLflowRun.where(job)
        else:
            from distrain.log.wandb_run import WandbRun

            def connect(run: str | None) -> ServiceRun:
                return WandbRun(job, name, run, about=about, folder=folder.tracking)

            where = WandbRun.where(job)
        done = Follower(folder, key, job, where, connect, tell).run(ending)
    with suppress(OSError):  # as in `_warn`
        sys.stderr.flush()
    # The clients wait at a process's end for what they still have to do.
    os._exit(EXIT_DONE if done else EXIT_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
