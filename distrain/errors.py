"""The ways in which a run may end before its last step, and their exit codes.

Users meet these as one line on standard error. `BadInput` is a `ValueError`, so that code which uses distrain as a
library can treat it as one.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_DIVERGED = 3
EXIT_STOPPED = 75

# How a process begins the line that says why it ends. `LOST` is in it where that is the end of another rank.
LAST_WORDS = "distrain: "
LOST = "lost another rank"
# What a worker tells the launcher, and nobody else, when all that it does with others is done.
LEFT = f"{LAST_WORDS}left the world"


class RunEnds(Exception):
    """What ends a run. `agreed` is True where all ranks raise it alike, so that one of them speaks for all."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, agreed: bool = False) -> None:
        super().__init__(message)
        self.agreed = agreed


class BadInput(RunEnds, ValueError):
    """Something that the user gave cannot be used: says which file or key, what was seen and what was expected."""

    exit_code = EXIT_BAD_INPUT


class Diverged(RunEnds):
    """Loss or gradients stayed non-finite for `train.max_bad_steps` steps in a row."""

    exit_code = EXIT_DIVERGED


class RunFailed(RunEnds):
    """The run cannot go on: a file cannot be written, or the ranks no longer hold the same replica state."""


class WorldChanged(Exception):
    """Workers are to come or go: all that stay raise it after the same step, and go on in the new world."""


class Dismissed(Exception):
    """The new world has no place for this worker."""
