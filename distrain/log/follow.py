"""Tells a tracking service what a run writes down: a process of its own, which reads the run's folder as it grows.

python -m distrain.log.follow SERVICE RUN      SERVICE is `mlflow` or `wandb`, a key of the job's `log`

Rank 0 starts it (`distrain.log.tracking`) and goes on at once: a service that is slow or cannot be reached costs the
training nothing. Standard input says how it ends, in one line: `finished`, `stopped`, `failed` or `moved`, and within
how many seconds. Standard output has lines for whoever watches, standard error what the client says.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from distrain.errors import EXIT_DONE, EXIT_FAILED
from distrain.job.load import check_job, flattened, read_yaml, resolved
from distrain.job.schema import Job
from distrain.log.backlog import Backlog, Point, Sent, load_sent, save_sent
from distrain.log.folder import RunFolder
from distrain.world.versions import versions

POLL_SECONDS = 1.0
# After a failure, and after each further one twice as long.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 60.0
# Where the training process has gone without a word, and where it has gone while it waited for this one's end.
ORPHANED_SECONDS, LATER_SECONDS = 5.0, 2.0
# Records that are handed over at once: about as many numbers as MLflow takes in one request.
AT_ONCE = 80
MOVED = "moved"
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
        # A client that hangs does not keep this process.
        threading.Event().wait(seconds)
        os._exit(EXIT_FAILED)


class Follower:
    """Sends what a run writes down to the service, which `connect` reaches; `tell` shows a line."""

    def __init__(
        self,
        folder: RunFolder,
        state: Path,
        job: Job,
        connect: Callable[[str | None], ServiceRun],
        failures: tuple[type[Exception], ...],
        tell: Callable[[str], None],
    ) -> None:
        self._state = state
        self._connect = connect
        self._failures = failures
        self._tell = tell
        self._parameters = parameters(job)
        self._backlog = Backlog(folder)
        self._sent = load_sent(state)
        self._service: ServiceRun | None = None
        self._told_of_failure = False
        self._step = 0

    def run(self, ending: Ending) -> bool:
        """Follow until the end is known; returns whether all that there was has been sent."""
        wait = FIRST_WAIT_SECONDS
        while True:
            # Asked before the log is read: what was written down before the end is read then.
            how = ending.how
            try:
                self._send(how)
            except self._failures as error:
                if how is not None:
                    self._tell(f"not all has been sent ({_one_line(error)}); starting the run again sends the rest")
                    return False
                self._warn(error)
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
            self._tell(service.place)
        while points := self._backlog.points(self._sent, AT_ONCE):
            self._service.points(points)
            self._keep(self._sent.after(points))
            self._step = points[-1].step
        for path in self._backlog.pictures(self._sent):
            self._service.picture(path, self._step)
            self._keep(replace(self._sent, pictures=(*self._sent.pictures, path.name)))
        if how == MOVED:
            self._service.leave()
        elif how is not None:
            self._service.end(how)

    def _keep(self, sent: Sent) -> None:
        save_sent(self._state, sent)
        self._sent = sent

    def _warn(self, error: Exception) -> None:
        if not self._told_of_failure:
            self._told_of_failure = True
            self._tell(f"cannot be told ({_one_line(error)}); the run goes on, and what waits is sent when it can be")


def parameters(job: Job) -> dict[str, str]:
    """The job's keys as a service shows them, but for what is written down."""
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in flattened(resolved(job))
        if not key.startswith("log.")
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


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
    state = folder.tracking / f"{key}.json"
    with (folder.tracking / f"{key}.lock").open("w") as lock:
        # The one before may have some seconds to go, where its training process was killed.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if key == "mlflow":
            from distrain.log.mlflow_run import MLflowRun

            def connect(run: str | None) -> ServiceRun:
                return MLflowRun(job, name, run, about=about)

            failures = MLflowRun.FAILURES
        else:
            from distrain.log.wandb_run import WandbRun

            def connect(run: str | None) -> ServiceRun:
                return WandbRun(job, name, run, about=about, folder=folder.tracking)

            failures = WandbRun.FAILURES
        done = Follower(folder, state, job, connect, failures, tell).run(ending)
    sys.stderr.flush()
    # The clients wait at a process's end for what they still have to do.
    os._exit(EXIT_DONE if done else EXIT_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
