"""The tracking services that a run tells, as rank 0 sees them: processes that follow its folder, and end with it.

Nothing here waits for a service, but for some seconds at the end of the run.
"""

from __future__ import annotations

import importlib.util
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from distrain.errors import BadInput
from distrain.job.schema import Log
from distrain.log.apart import NICENESS, environment
from distrain.log.folder import RunFolder

# How long the end of a run, and its failure, may wait for the services; and a finished run that has the rest sent.
END_SECONDS, FAILED_SECONDS, REST_SECONDS = 10.0, 3.0, 600.0
# What a process that has ended has said is read as soon as that.
READ_SECONDS = 1.0
ADDRESS = "MLFLOW_TRACKING_URI"
# How a run ends here that goes on, followed by another process.
MOVED = "moved"


def require(log: Log, variables: Mapping[str, str], *, source: str, rank: int) -> None:
    """Raises `BadInput` where a service's client is not installed, or on rank 0 does not know whom to ask."""
    for service in log.services:
        if importlib.util.find_spec(service) is None:
            raise BadInput(
                f"{source}: 'log.{service}': the package '{service}' is not installed, "
                f"expected the extra '{service}' of distrain (python3 docker/environment.py --extras)"
            )
    if rank == 0 and log.mlflow is not None and log.mlflow.uri is None and not variables.get(ADDRESS):
        raise BadInput(
            f"{source}: 'log.mlflow.uri' is missing and {ADDRESS} is not set, "
            "expected the tracking server, such as http://127.0.0.1:5000"
        )


def rest_of(service: str, folder: RunFolder, how: str) -> str:
    """How a service hears what it has not been told of a run that has ended in this way."""
    rest = "the run, which goes on, sends the rest" if how == MOVED else "starting the run again sends the rest"
    if service != "wandb":
        return rest
    # What its client was handed counts as sent, and is sent by the client alone.
    return f"`wandb sync --include-online {folder.tracking}/wandb/*run-*` sends what its client holds, {rest}"


class Tracking:
    """Has the job's `services` told of the run in `folder`, from now on until `close`."""

    def __init__(self, folder: RunFolder, services: tuple[str, ...]) -> None:
        self._folder = folder
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._readers: dict[str, threading.Thread] = {}
        for service in services:
            try:
                self._start(service)
            except OSError as error:
                self._told.put(f"{service}: is not told of this run ({error})")

    def heard(self) -> Iterator[str]:
        """What there is to show to whoever watches; waits for nothing."""
        for service, process in list(self._processes.items()):
            if process.poll() is not None:
                del self._processes[service]
                self._readers[service].join(READ_SECONDS)
                self._told.put(f"{service}: is told no more, {self._log(service)} says why")
        while not self._told.empty():
            yield self._told.get()

    def close(self, how: str, seconds: float) -> list[str]:
        """Have what there is sent, and the end told, within so many seconds; returns what there is to show.

        `how` is "finished", "stopped", "failed", or "moved": the run goes on, followed by another process.
        """
        shown = list(self.heard())
        deadline = time.monotonic() + seconds
        for process in self._processes.values():
            assert process.stdin is not None
            # Open until it has ended: the follower of a rank 0 that is gone does not stay for what that had granted.
            with suppress(BrokenPipeError):  # ended by itself
                process.stdin.write(f"{how} {seconds}\n")
                process.stdin.flush()
        for service, process in self._processes.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                # Another process begins where this one's last word was written down; what a client holds is lost to it.
                if how != MOVED or service == "wandb":
                    self._told.put(
                        f"{service}: not all has been sent in {seconds:g} s; {rest_of(service, self._folder, how)}"
                    )
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # its word, where it has not taken it
                process.stdin.close()
            self._readers[service].join(READ_SECONDS)
        self._processes = {}
        return [*shown, *self.heard()]

    def _log(self, service: str) -> str:
        return str(self._folder.tracking / f"{service}.log")

    def _start(self, service: str) -> None:
        self._folder.tracking.mkdir(exist_ok=True)
        program = f"import os, sys; os.nice({NICENESS}); from distrain.log.follow import main; main(sys.argv[1:])"
        with open(self._log(service), "a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", program, service, str(self._folder.path)],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # A signal to all of the training's processes is not for this one, which ends with rank 0.
                start_new_session=True,
            )
        reader = threading.Thread(target=self._read, args=(process,), name=service, daemon=True)
        self._processes[service], self._readers[service] = process, reader
        reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._told.put(line.rstrip("\n"))
