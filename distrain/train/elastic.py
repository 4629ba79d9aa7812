"""A run in a world that changes: workers leave, killed or taken away, and others join, while it goes on from memory.

All ranks are equal in this: each keeps its replica state, and when the world changes the new one goes on from whichever
is furthest. Rank 0 is no exception: the log and the checkpoints are its duties, not its property. A worker that cannot
take part, by a fault of its own, leaves alone as long as there is another that holds the state.
"""

from __future__ import annotations

from distrain.errors import BadInput
from distrain.job.load import digest
from distrain.train.opening import Request
from distrain.train.run import Kept, run
from distrain.train.stop import StopRequest
from distrain.train.watch import EARLIER, Watch
from distrain.world.control import agree
from distrain.world.start import Started, check_same, survivable


def run_elastic(request: Request | BadInput, started: Started, stop: StopRequest, watch: Watch, seconds: float) -> int:
    """Train the job to its end, through all changes of the world; returns the exit code. Collective.

    `request` is what is wrong with this worker's job where it has none; a place in a new world is waited for up to
    `seconds`. Raises as `run.run` and `Started.rejoin` do, what is wrong with this worker alone (the others go on
    without it), and what a failure of its own raises.
    """
    kept = Kept()

    def attempting() -> None:
        watch.starting("joining a new world")

    while True:
        try:
            return run(_admitted(request, started, kept), started, stop, watch=watch, kept=kept)
        except Exception as change:
            if not survivable(change):
                raise
        # Sooner than the watch, which has less to tell.
        started.rejoin(seconds * (1 - EARLIER), attempting)
        watch.rank = started.world.rank


def _admitted(request: Request | BadInput, started: Started, kept: Kept) -> Request:
    """The request, once the world that was joined has seen that all are there with the same. Raises as `agree` does."""
    holds = kept.trainer is not None
    agree(started.control, request if isinstance(request, BadInput) else None, holds=holds)
    assert isinstance(request, Request)
    check_same(started, digest(request.job), holds=holds)
    return request
