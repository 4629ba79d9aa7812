"""Watching for standstill: a rank that hangs, or waits for one that does, tells where it stands and ends.

Horovod and MPI wait for ever for a rank that was stopped or hangs. Every rank watches its own main thread and nothing
else, so that it needs nobody: no word from the others, no clock in common.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from typing import NoReturn

from distrain.errors import EXIT_FAILED, LAST_WORDS

# Before the first step everything is loaded, traced and compiled, which may well take longer than steps do.
FIRST_SECONDS = 120.0
# A rank that hangs in what it does alone speaks before those that wait for it.
EARLIER = 0.1
# Where not even this watch gets to run, since something holds Python's lock, a thread without Python ends the process.
LATER_SECONDS = 10.0


class Watch:
    """Ends this process where the main thread has not said for `seconds` that it does something else.

    `rank` is what this process is called; it may change with its world.
    """

    def __init__(self, seconds: float, *, rank: int) -> None:
        self.rank = rank
        self._seconds = seconds
        self._step: int | None = None
        self._first = True
        self._doing = "starting"
        self._alone = False
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def doing(self, what: str, *, after: int | None = None, alone: bool = False) -> None:
        """Say what this rank does from now on, `after` which step; `alone`: without waiting for other ranks."""
        if after is not None:
            self._first = self._first and after <= (self._step or 0)
            self._step = after
        self._doing, self._alone, self._since = what, alone, time.monotonic()

    def starting(self, what: str) -> None:
        """Say that this rank begins anew after the step it is at, and what it does first."""
        self._first = True
        self.doing(what)

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()
        # First the thread, which would set the other one going again.
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        pause = min(1.0, self._seconds / 20)
        while not self._closed.wait(pause):
            stood, limit = time.monotonic() - self._since, self._limit()
            if stood >= limit:
                self._end(stood)
            faulthandler.dump_traceback_later(limit + LATER_SECONDS, exit=True)

    def _limit(self) -> float:
        limit = max(self._seconds, FIRST_SECONDS) if self._first else self._seconds
        return limit * (1 - EARLIER) if self._alone else limit

    def _end(self, stood: float) -> NoReturn:
        print(f"rank {self.rank} stands still, this is where:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        place = "" if self._step is None else f" after step {self._step}"
        waits = "" if self._alone else "; it waits for another rank, one that shows no stacks or others"
        text = f"rank {self.rank}: no progress for {stood:.0f} s{place}, in {self._doing}{waits}"
        print(f"{LAST_WORDS}{text}", file=sys.stderr, flush=True)
        os._exit(EXIT_FAILED)
