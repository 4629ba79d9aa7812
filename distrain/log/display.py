"""What rank 0 shows while it trains: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from distrain.log.terminal import TERMINAL_COLUMNS

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Progress over `steps` steps, of which `done` are made already."""

    def __init__(self, steps: int, done: int, stream: TextIO = sys.stdout) -> None:
        self._steps = steps
        self._first = done
        self._stream = stream
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        columns = os.environ.get(TERMINAL_COLUMNS, "")
        if stream.isatty() or columns.isdecimal():
            self._bar = tqdm(
                total=steps,
                initial=done,
                unit="step",
                file=stream,
                ncols=int(columns) if columns.isdecimal() else None,
                dynamic_ncols=not columns.isdecimal(),
            )

    def step(self, step: int, epoch: int, loss: float) -> None:
        """Show that `step` is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"epoch {epoch}, loss {loss:.4f}", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._started) / max(1, step - self._first) * (self._steps - step)
            self.line(f"step {step} of {self._steps}, epoch {epoch}, loss {loss:.4f}, {_clock(left)} left")

    def line(self, text: str) -> None:
        """Show a line of its own."""
        if self._bar is not None:
            self._bar.clear()
        print(text, file=self._stream, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
