"""Where a rank stands between two worlds, and which of them the new world goes on from: values and pure functions.

Workers leave at any moment, so those that are left may stand one step apart: a step's allreduce may have come through
on some only. Which of them is further is a matter of positions. What is due after its step is done again: a rank that
is gone, rank 0 above all, may not have come to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distrain.checkpoint.store import Progress
from distrain.data.order import Batch
from distrain.step.settlement import StepResult


@dataclass(frozen=True)
class Done:
    """A step that was made, with what it takes to do again what is due after it: write down, validate, save.

    `indices` are the examples that this rank drew, `waited` the seconds that it waited for them, `bad` those of them
    that it skipped, with the reason; None where the step was taken over from another rank.
    """

    before: Progress
    after: Progress
    batch: Batch
    indices: list[int]
    waited: float
    result: StepResult
    bad: tuple[tuple[int, str], ...] | None = None


def described(progress: Progress, done: Done | None) -> dict[str, Any]:
    """A rank's standing, as JSON holds it."""
    if done is None:
        return {"progress": asdict(progress), "done": None}
    values = {name: np.asarray(value) for name, value in done.result._asdict().items()}
    return {
        "progress": asdict(done.after),
        "done": {
            "before": asdict(done.before),
            "batch": asdict(done.batch),
            "result": {name: [value.dtype.name, value.shape, value.ravel().tolist()] for name, value in values.items()},
        },
    }


def foremost(standings: Sequence[dict[str, Any] | None]) -> int | None:
    """The rank whose state all take over; None where nobody has one, as at a run's beginning.

    The furthest; of those, one that still has something to do about its step, which the others may lack.
    """
    ranks = [rank for rank, standing in enumerate(standings) if standing is not None]
    if not ranks:
        return None

    def order(rank: int) -> tuple[int, bool, int]:
        standing = standings[rank]
        assert standing is not None
        return standing["progress"]["position"], standing["done"] is not None, -rank

    return max(ranks, key=order)


def taken_over(standing: dict[str, Any], indices: Any) -> tuple[Progress, Done | None]:
    """Progress and unfinished step of a standing; `indices(batch)` are the examples that are this rank's of it."""
    progress, done = Progress(**standing["progress"]), standing["done"]
    if done is None:
        return progress, None
    batch = Batch(**done["batch"])
    result = StepResult(
        **{name: np.array(values, kind).reshape(shape) for name, (kind, shape, values) in done["result"].items()}
    )
    return progress, Done(Progress(**done["before"]), progress, batch, indices(batch), 0.0, result)
