"""Starting a world again after a failure, for as long as that gains something."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType

from distrain.errors import EXIT_FAILED, EXIT_STOPPED
from distrain.launcher.execute import Ended

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Reached:
    """How far a run has come: the last step that it wrote down, and that of its newest valid checkpoint, if any."""

    step: int = 0
    saved: int | None = None


def pause_before(restart: int) -> float:
    """Seconds to wait before the first, second, ... restart: doubled each time."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (restart - 1))


def run_with_restarts(
    start: Callable[[int], Ended],
    reached: Callable[[], Reached],
    *,
    before: Reached,
    restarts: int,
    wait: Callable[[float], bool] | None = None,
) -> Ended:
    """Start a world, and again where it failed, up to `restarts` times; returns how the last one ended.

    `start` gets the number of the restart, 0 at first. Not started again: what ended by intent (done, bad input,
    diverged, stopped), what was asked to stop, however it ended, and what came no step further than `before` or than
    any start until then. `wait` pauses so many seconds, and is true where a signal came meanwhile.
    """
    furthest = before.step
    restart = 0
    while True:
        ended = start(restart)
        if ended.code != EXIT_FAILED or ended.asked.is_set() or restart >= restarts:
            return ended
        now = reached()
        if ended.asked.is_set():
            return ended
        if now.step <= furthest:
            _say(f"not started again: no step was gained since step {furthest}")
            return ended
        furthest = now.step
        restart += 1
        pause = pause_before(restart)
        begin = "the beginning" if now.saved is None else f"the checkpoint of step {now.saved}"
        for line in ended.words:
            _say(line)
        _say(f"restart {restart} of {restarts} in {pause:g} s, from {begin}")
        if (wait or _wait)(pause):
            return ended if now.saved is None else Ended(EXIT_STOPPED, [])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _wait(seconds: float) -> bool:
    """Wait; True at once where a signal asks to stop."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, handle)
    return asked.wait(seconds)
