"""A run in a world that changes: workers leave, killed or taken away, and others join, while it goes on from memory.

All ranks are equal in this: each keeps its replica state, and when the world changes the new one goes on from whichever
is furthest. Rank 0 is no exception: the log and the checkpoints are its duties, not its property.
"""

from __future__ import annotations

import sys

from distrain.errors import EXIT_STOPPED, WorldChanged
from distrain.job.load import digest
from distrain.train.opening import Request
from distrain.train.run import Kept, run
from distrain.train.stop import StopRequest
from distrain.world.control import agree
from distrain.world.start import Started, check_same, lost_another


def run_elastic(request: Request, started: Started, stop: StopRequest) -> int:
    """Train the job to its end, through all changes of the world; returns the exit code. Collective.

    Raises as `run.run` does, and what a failure of this worker's own raises: the others go on without it.
    """
    kept = Kept()
    while True:
        try:
            return run(request, started, stop, kept)
        except Exception as change:
            if not _survivable(change):
                raise
        if not _rejoin(request, started):
            print(f"this worker, once rank {started.world.rank}, is no longer needed", file=sys.stderr)
            return EXIT_STOPPED


def _rejoin(request: Request, started: Started) -> bool:
    """Join the new world, and say there what those that come say at first; False where this worker is not in it."""
    while started.rejoin(request.job.parallel.stall_timeout.seconds):
        try:
            agree(started.control, None)
            check_same(started, digest(request.job))
        except Exception as change:
            if not _survivable(change):
                raise
        else:
            return True
    return False


def _survivable(change: Exception) -> bool:
    return isinstance(change, WorldChanged) or lost_another(change)
