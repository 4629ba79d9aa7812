"""The gradients' statistics over time, in a run's folder `gradients/`: who writes them, and who reads them.

`variables/` has a row for each measured step and variable, and one named "(all)" over them: step, epoch, variable and
`MEASURES`. `ranks/`, of several workers, has one for each measured step and rank: step, epoch, rank, examples, loss and
norm. What cannot be told is NaN. `pandas.read_parquet("RUN/gradients/variables")` reads all of it. No TensorFlow here.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distrain.gradients.measures import MEASURES, Floats, RankMoments
from distrain.log import parts
from distrain.log.parts import PartedTable, values

ALL = "(all)"
VARIABLES, RANKS = "variables", "ranks"


class GradientTable:
    """Writes both tables under `folder`, numbers as `dtype` (float32 or float64), at least every `flush_seconds`.

    Raises `OSError`.
    """

    def __init__(self, folder: Path, names: Sequence[str], dtype: str, *, flush_seconds: float = parts.SECONDS) -> None:
        self._folder = folder
        self._dtype = np.dtype(dtype)
        words = [*distinct(names), ALL]
        self._numbers = np.arange(len(words), dtype=np.int32)
        self._variables = PartedTable(folder / VARIABLES, {"variable": words}, seconds=flush_seconds)
        self._ranks = PartedTable(folder / RANKS, seconds=flush_seconds)
        # Of the epoch that is being written, over all variables; `_whole` where none of it was written before.
        self._epoch: int | None = None
        self._whole = not (folder / VARIABLES).exists()
        self._signals, self._noises = array("d"), array("d")

    def write(self, step: int, epoch: int, measured: dict[str, Floats], ranks: RankMoments) -> None:
        """Add a step's `MEASURES`, [variables + 1] each, and what its ranks saw, in a world of 1 nothing."""
        self._variables.append(len(self._numbers), partial(self._of_variables, step, epoch, measured))
        self._ranks.append(len(ranks.ranks), partial(self._of_ranks, step, epoch, ranks))
        if epoch != self._epoch:
            self._whole |= self._epoch is not None
            self._epoch, self._signals, self._noises = epoch, array("d"), array("d")
        if self._whole:
            self._signals.append(measured["signal"][-1])
            self._noises.append(measured["noise"][-1])

    def _of_variables(self, step: int, epoch: int, measured: dict[str, Floats]) -> parts.Columns:
        columns = {name: measured[name].astype(self._dtype) for name in MEASURES}
        return {**_place(step, epoch, len(self._numbers)), "variable": self._numbers, **columns}

    def _of_ranks(self, step: int, epoch: int, ranks: RankMoments) -> parts.Columns:
        return {
            **_place(step, epoch, len(ranks.ranks)),
            "rank": ranks.ranks.astype(np.int32),
            "examples": ranks.examples.astype(np.int64),
            "loss": ranks.losses.astype(self._dtype),
            "norm": ranks.norms.astype(self._dtype),
        }

    def flush(self) -> None:
        """Have all rows on disk."""
        self._variables.flush()
        self._ranks.flush()

    def close(self) -> None:
        self.flush()

    def estimates(self, epoch: int, steps: int) -> tuple[Floats, Floats]:
        """Signal and noise over all variables at the measured ones of the newest `steps` steps, of `epoch` alone."""
        if self._whole and epoch == self._epoch:
            # As they are on disk, so that a run that was stopped says the same.
            both = (np.array(one[-steps:]).astype(self._dtype) for one in (self._signals, self._noises))
            signal, noise = (one.astype(np.float64) for one in both)
            return signal, noise
        self.flush()
        history = read_variables(self._folder, ("signal", "noise"), latest=steps)
        if history is None:
            return np.empty(0), np.empty(0)
        own = history.epochs == epoch
        return history.values["signal"][own, -1], history.values["noise"][own, -1]


@dataclass(frozen=True)
class VariableHistory:
    """Measures over time: `steps` and `epochs` [n], `values` of each measure [n, variables + 1] float64, all last."""

    steps: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    names: list[str]
    values: dict[str, Floats]


@dataclass(frozen=True)
class RankHistory:
    """What ranks saw over time: `steps` [n], `ranks` [r]; [n, r] float64, nan where a rank is absent from a step."""

    steps: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.int64]
    losses: Floats
    norms: Floats
    examples: Floats


def read_variables(
    folder: Path, measures: Sequence[str] = MEASURES, *, latest: int | None = None
) -> VariableHistory | None:
    """The newest `latest` measured steps of `folder`, a run's `gradients/`, or all; None where there are none.

    Raises `OSError` where the files cannot be read, or are not of one model.
    """
    columns = ("step", "epoch", "variable", *measures)
    rows = None
    if latest is not None:
        head = parts.read(folder / VARIABLES, ("variable",), latest=1)
        rows = None if head is None else latest * len(head.column("variable").unique())
    table = parts.read(folder / VARIABLES, columns, latest=rows)
    if table is None:
        return None
    coded = table.column("variable").combine_chunks()
    names = coded.dictionary.to_pylist()
    codes = np.from_dlpack(coded.indices)
    width = len(names)
    if len(codes) % width or (codes.reshape(-1, width) != np.arange(width)).any():
        raise OSError(f"{folder / VARIABLES}: expected a row for each of {width} variables at each step")
    begin = 0 if latest is None else max(0, len(codes) // width - latest)

    def by_step(name: str) -> Floats:
        return values(table, name).reshape(-1, width)[begin:].astype(np.float64)

    return VariableHistory(
        steps=by_step("step")[:, 0].astype(np.int64),
        epochs=by_step("epoch")[:, 0].astype(np.int64),
        names=names[:-1],
        values={name: by_step(name) for name in measures},
    )


def read_ranks(folder: Path, *, latest: int | None = None) -> RankHistory | None:
    """As `read_variables`, of what the ranks saw."""
    rows = None
    if latest is not None:
        head = parts.read(folder / RANKS, ("rank",), latest=1)
        rows = None if head is None else latest * len(head.column("rank").unique())
    table = parts.read(folder / RANKS, latest=rows)
    if table is None:
        return None
    every = values(table, "step")
    begin = 0 if latest is None else int(np.searchsorted(every, np.unique(every)[-latest:][0]))
    steps, row = np.unique(every[begin:], return_inverse=True)
    ranks, place = np.unique(values(table, "rank")[begin:], return_inverse=True)

    def spread(name: str) -> Floats:
        result = np.full((len(steps), len(ranks)), np.nan)
        result[row, place] = values(table, name)[begin:]
        return result

    return RankHistory(
        steps.astype(np.int64), ranks.astype(np.int64), spread("loss"), spread("norm"), spread("examples")
    )


def cut(folder: Path, step: int) -> None:
    """Remove the rows after `step` from both tables. Raises `OSError`."""
    for name in (VARIABLES, RANKS):
        parts.cut(folder / name, step)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that occur more than once."""
    counts, seen = Counter(names), Counter[str]()
    result = []
    for name in names:
        seen[name] += 1
        result.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return result


def _place(step: int, epoch: int, count: int) -> parts.Columns:
    return {"step": np.full(count, step, np.int64), "epoch": np.full(count, epoch, np.int32)}
