"""Signals that ask a run to stop early: noted here, acted upon by all ranks together after the step under way."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """Notes SIGTERM, SIGINT and SIGUSR1. A second SIGINT ends the process at once, as it would have without this."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def listen(self) -> None:
        """Begin to note signals; only the main thread may."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def end(self) -> None:
        """Ignore all signals from now on: the run has ended, and this process is about to.

        A launcher may send SIGTERM to the ranks that end a moment after the first.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    @property
    def name(self) -> str | None:
        """The noted signal's name; None where another rank was asked."""
        return None if self.signal is None else self.signal.name

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        self.signal = signal.Signals(number)
