"""The control plane: small JSON values exchanged by all ranks, for agreeing on jobs, errors and inventories.

It carries nothing of a step. Every call is collective: all ranks make it, in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from distrain.errors import BadInput, Diverged, RunEnds, RunFailed, WorldChanged

T = TypeVar("T")

KINDS: dict[str, type[RunEnds]] = {kind.__name__: kind for kind in (BadInput, Diverged, RunFailed)}


class Control(Protocol):
    """A way to show each rank's value to every rank."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order; `value` must be something that JSON holds."""
        ...


class AloneControl:
    """A world of 1."""

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))]


class BytesControl:
    """A world whose ranks can show each other bytes, by whatever carries them."""

    def __init__(self, gather_bytes: Callable[[bytes], list[bytes]]) -> None:
        self._gather_bytes = gather_bytes

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(item) for item in self._gather_bytes(json.dumps(value).encode())]


def agree(control: Control, error: RunEnds | None, *, holds: bool = False) -> None:
    """Let all ranks learn of any rank's error: raises that of the lowest such rank on every rank.

    The message names the rank where it is not 0, which speaks for the whole run. `holds`: this rank has the state of a
    run that goes on in another world. Where one that does has no error, the run does not end with those that have one:
    each of them raises its own, and all others `WorldChanged`.
    """
    seen = control.gather([holds, None if error is None else [type(error).__name__, str(error)]])
    rank = next((rank for rank, (_, report) in enumerate(seen) if report is not None), None)
    if rank is None:
        return
    if any(holding and report is None for holding, report in seen):
        raise error or WorldChanged
    kind, message = seen[rank][1]
    raise KINDS[kind](f"rank {rank}: {message}" if rank else message, agreed=True)


def agreed(control: Control, action: Callable[[], T], *, holds: bool = False) -> T:
    """The value of `action` on this rank, once every rank has one. Raises as `agree` does what it raises on any."""
    values: list[T] = []
    error: RunEnds | None = None
    try:
        values.append(action())
    except RunEnds as caught:
        error = caught
    agree(control, error, holds=holds)
    return values[0]
