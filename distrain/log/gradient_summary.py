"""What the gradients' statistics of a run say of its variables and ranks, as JSON holds it; no TensorFlow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distrain.errors import BadInput
from distrain.gradients.attention import BEFORE, RECENT, findings, order, typical_of
from distrain.gradients.measures import MEASURES, Floats
from distrain.gradients.rank_comparison import odd_ranks
from distrain.log.folder import RunFolder, last_record
from distrain.log.gradient_table import ALL, RankHistory, VariableHistory, read_ranks, read_variables


def summarise(folder: RunFolder) -> dict[str, Any]:
    """Variables with what needs attention first, ranks, and the newest advice, as JSON holds them.

    Raises `BadInput` where the run has no such statistics, or they cannot be read.
    """
    variables, ranks = read(folder, latest=RECENT + BEFORE)
    newest = int(variables.steps[-1])
    advice = last_record(folder, "event", event="advice")
    return {
        "run": str(folder.path),
        "step": newest,
        "recent_steps": min(RECENT, len(variables.steps)),
        "variables": _variables(variables),
        "ranks": [] if ranks is None else _ranks(ranks),
        "odd_ranks": [] if ranks is None else _odd(ranks),
        "advice": None if advice is None else advice["text"],
    }


def read(folder: RunFolder, latest: int | None = None) -> tuple[VariableHistory, RankHistory | None]:
    """Both tables of a run. Raises `BadInput` where they are missing or cannot be read."""
    folder.require()
    try:
        variables = read_variables(folder.gradients, latest=latest)
        ranks = read_ranks(folder.gradients, latest=latest)
    except OSError as error:
        raise BadInput(f"{folder.gradients}: cannot be read ({error}), expected a run's gradients/") from error
    if variables is None:
        raise BadInput(
            f"{folder.gradients}: nothing here, expected a run with gradients.enabled that has come to its first "
            "checkpoint or minute"
        )
    return variables, ranks


def _variables(history: VariableHistory) -> list[dict[str, Any]]:
    recent = {name: values[-RECENT:] for name, values in history.values.items()}
    single = {name: values[:, :-1] for name, values in recent.items()}
    found = findings(single, history.values["norm"][:-RECENT, :-1])
    middle = {name: typical_of(name, values) for name, values in recent.items()}

    def row(name: str, number: int) -> dict[str, Any]:
        return {"variable": name} | {measure: _told(float(middle[measure][number])) for measure in MEASURES}

    rows = [
        row(history.names[number], number)
        | {"attention": [{"rule": one.rule, "text": one.text} for one in found[number]]}
        for number in order(found)
    ]
    return [*rows, row(ALL, -1) | {"attention": []}]


def _ranks(history: RankHistory) -> list[dict[str, Any]]:
    result = []
    for number, rank in enumerate(history.ranks):
        others = [other for other in range(len(history.ranks)) if other != number]
        result.append(
            {
                "rank": int(rank),
                "steps": int(np.isfinite(history.examples[:, number]).sum()),
                "examples": int(np.nansum(history.examples[:, number])),
                "loss": _told(_mean(history.losses[:, number])),
                "norm": _told(_mean(history.norms[:, number])),
                "loss_to_others": _told(_to_others(history.losses, number, others)),
                "norm_to_others": _told(_to_others(history.norms, number, others)),
            }
        )
    return result


def _odd(history: RankHistory) -> list[dict[str, Any]]:
    return [
        {
            "rank": odd.rank,
            "measure": odd.measure,
            "ratio": odd.ratio,
            "steps": odd.steps,
            "chance": odd.chance,
            "text": odd.text,
        }
        for odd in odd_ranks(history.ranks, history.losses, history.norms, history.examples)
    ]


def _to_others(values: Floats, number: int, others: list[int]) -> float:
    """The mean of one column to that of the mean of the others, over the rows that have both."""
    told = np.isfinite(values[:, number]) & np.isfinite(values[:, others]).any(axis=1)
    return _mean(values[told, number]) / _mean(values[told][:, others]) if told.any() else math.nan


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _told(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
