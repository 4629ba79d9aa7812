"""A worker's membership in a world that changes while it runs; the driver in Horovod's launcher holds the list.

Of Horovod's own elastic part only that driver is used, and the service by which it tells of new hosts. The rest is done
here: a released Horovod's wrapper swallows the errors of grouped allreduces, and its states for TensorFlow do not send
the weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from distrain.errors import LOST, RunFailed

ELASTIC = "HOROVOD_ELASTIC"
# Where the ranks of a new world find each other, in the launcher's store: it is emptied for each.
MEETING, COMPLETE, GIVEN_UP = "distrain.meeting", "complete", "given_up"
# Where the driver's answer to a worker that asks for its place is.
RANK_AND_SIZE = "rank_and_size"
# So long rank 0 waits there for the others, and these for it to say what has become of that.
MEETING_SECONDS = 30.0
PAUSE_SECONDS = 0.1

# What the driver gives to a worker, in the order of its answer.
PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")


class Membership:
    """Asks the driver for this worker's place, and hears of changes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        # The slot's name stays what it was at first, whatever place the worker has later.
        self._slot = f"{environment['HOROVOD_HOSTNAME']}:{environment['HOROVOD_LOCAL_RANK']}"
        self._store = environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"], int(environment["HOROVOD_GLOO_RENDEZVOUS_PORT"])
        self.changed = False

    def listen(self) -> None:
        """Begin to hear of hosts that come or are taken away; the driver tells rank 0 alone."""
        from horovod.common.elastic import notification_manager

        notification_manager.init()
        notification_manager.register_listener(self)

    def on_hosts_updated(self, timestamp: int, update: Any) -> None:
        """What Horovod's service calls, in a thread of its own."""
        self.changed = True

    def meet(self, rank: int, size: int, seconds: float = MEETING_SECONDS) -> bool:
        """Wait until all ranks are there to join their world; False where one does not come.

        Horovod ends the processes of all others where a rank is gone before they have joined. Collective. Raises
        `RuntimeError` where the launcher is gone.
        """
        self._tell(str(rank))
        # First the others, then rank 0.
        deadline = time.monotonic() + (seconds if rank == 0 else 2 * seconds)
        awaited = [str(other) for other in range(1, size)] if rank == 0 else [COMPLETE]
        while awaited:
            if self._told(awaited[0]):
                awaited.pop(0)
            elif self._told(GIVEN_UP):
                return False
            elif time.monotonic() > deadline:
                self._tell(GIVEN_UP)
                return False
            else:
                time.sleep(PAUSE_SECONDS)
        if rank == 0:
            if self._told(GIVEN_UP):
                return False
            self._tell(COMPLETE)
        return True

    def _tell(self, what: str) -> None:
        from horovod.runner.http.http_client import put_value

        put_value(*self._store, MEETING, what, b"")

    def _told(self, what: str) -> bool:
        from horovod.runner.http.http_client import get_value

        return get_value(*self._store, MEETING, what) is not None

    def next_place(self, seconds: float) -> dict[str, str] | None:
        """Wait until all that are left of the world ask for their place; returns it as environment variables.

        None where this worker is no longer part of it. Raises `RunFailed` where there is no answer in time.
        """
        from horovod.runner.http.http_client import get_value

        # What is told from now on is not in the answer.
        self.changed = False
        try:
            answer = get_value(*self._store, RANK_AND_SIZE, self._slot, timeout=seconds)
        except RuntimeError as error:
            raise RunFailed(f"{LOST} or the launcher, which gives no place in a new world ({error})") from error
        if answer is None:
            raise RunFailed(f"{LOST} or the launcher, which knows of no {self._slot}")
        numbers = answer.decode().split(",")
        place = {f"HOROVOD_{name}": number for name, number in zip(PLACE, numbers, strict=True)}
        return None if int(place["HOROVOD_RANK"]) < 0 else place


def is_elastic(environment: Mapping[str, str]) -> bool:
    """True where the launcher lets the world change."""
    return environment.get(ELASTIC) == "1"
