"""How a run's end is told to the services, and how long it waits for them."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from distrain.errors import Diverged, WorldChanged
from distrain.train.run import _end_tracking
from tests.support import make_job


@pytest.mark.parametrize(
    ("error", "finished", "complete", "elastic", "told"),
    [
        (None, True, False, False, ("finished", 10.0)),
        (None, False, False, False, ("stopped", 10.0)),
        (None, True, True, False, ("finished", 300.0)),
        (None, True, True, True, ("finished", 10.0)),
        (Diverged("x"), False, False, False, ("failed", 3.0)),
        (WorldChanged(), False, False, True, ("moved", 3.0)),
        (Diverged("x"), False, False, True, ("failed", 3.0)),
    ],
)
def test_the_end(
    error: Exception | None, finished: bool, complete: bool, elastic: bool, told: tuple[str, float]
) -> None:
    asked: list[tuple[str, float]] = []
    shown: list[str] = []

    def close(how: str, seconds: float) -> list[str]:
        asked.append((how, seconds))
        return ["a line"]

    trainer: Any = SimpleNamespace(
        job=make_job(),
        schedule=SimpleNamespace(finished=lambda progress: finished),
        progress=None,
        complete=complete,
        membership=nullcontext() if elastic else None,
        watch=SimpleNamespace(doing=lambda what, alone: None),
        recorder=SimpleNamespace(line=shown.append),
    )
    tracking: Any = SimpleNamespace(close=close)
    _end_tracking(trainer, tracking, type(error) if error else None, error, None)
    assert asked == [told]
    assert shown == ["a line"]


def test_a_service_is_not_waited_for_until_a_rank_seems_to_stand_still() -> None:
    asked: list[float] = []
    trainer: Any = SimpleNamespace(
        job=make_job(parallel={"stall_timeout": "6 seconds"}),
        schedule=SimpleNamespace(finished=lambda progress: True),
        progress=None,
        complete=False,
        membership=None,
        watch=SimpleNamespace(doing=lambda what, alone: None),
        recorder=SimpleNamespace(line=lambda text: None),
    )

    def close(how: str, seconds: float) -> list[str]:
        asked.append(seconds)
        return []

    tracking: Any = SimpleNamespace(close=close)
    _end_tracking(trainer, tracking, None, None, None)
    assert asked == [3.0]
