"""The processes that launches have started on this machine, found by what is in their environment.

    python -m distrain.launcher.processes --stop [--mark MARK] [--wait SECONDS]

A launcher runs this on other hosts, and a worker's container when it is to end: workers are asked to stop, and killed
where they have not ended after SECONDS.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence

import psutil

# In the environment of all that a launch starts, by which it is found again.
MARK = "DISTRAIN_LAUNCH"
RANKS = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")
PAUSE_SECONDS = 0.1


def started(mark: str | None, *, workers_only: bool = False) -> list[psutil.Process]:
    """The processes on this machine that a launch started and that are still running; of any launcher for None."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            ours = mark is None or environment.get(MARK) == mark
            wanted = not (workers_only or mark is None) or any(name in environment for name in RANKS)
            if ours and wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return found


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that is still there."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue  # gone meanwhile


def end(mark: str | None, seconds: float, *, workers_only: bool = False) -> None:
    """Wait until all have ended; kills what has not after so long."""
    deadline = time.monotonic() + seconds
    while left := started(mark, workers_only=workers_only):
        if time.monotonic() > deadline:
            send(left, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="distrain.launcher.processes", description=__doc__)
    parser.add_argument("--mark", help="only what this launch has started")
    parser.add_argument("--stop", action="store_true", help="ask the workers to stop")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait for all to end, then kill them")
    parsed = parser.parse_args(arguments)
    if parsed.stop:
        send(started(parsed.mark, workers_only=True), signal.SIGTERM)
    if parsed.wait is not None:
        end(parsed.mark, parsed.wait, workers_only=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
