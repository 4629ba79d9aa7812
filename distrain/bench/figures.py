"""What was measured: figures with their spread, as a table, as JSON, as a plot."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One thing measured: the median of `turns` turns, and the lowest and the highest. `part` groups a table."""

    part: str
    name: str
    median: float
    low: float
    high: float
    unit: str
    turns: int

    @classmethod
    def of(cls, part: str, name: str, values: Sequence[float], unit: str) -> Figure:
        """The figure of what each turn gave."""
        return cls(part, name, statistics.median(values), min(values), max(values), unit, len(values))


def interleaved(
    variants: Mapping[str, Callable[[], float]],
    *,
    turns: int,
    before: int = 1,
    done: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """What each variant gave at each turn: all take part in each, in an order that moves on by one.

    On a machine whose speed drifts all of them drift alike, and none profits from its place. The turns `before` are not
    counted: they hold what is done once. `done` is called after each measurement.
    """
    names = list(variants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-before, turns):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            value = variants[name]()
            done()
            if turn >= 0:
                found[name].append(value)
    return found


def table(figures: Sequence[Figure]) -> str:
    """The figures for people, a heading for each part."""
    width = max(len(figure.name) for figure in figures)
    lines: list[str] = []
    for number, figure in enumerate(figures):
        if number == 0 or figures[number - 1].part != figure.part:
            lines += ["", figure.part]
        spread = f"({_shown(figure.low)} to {_shown(figure.high)}, {figure.turns} turns)" if figure.turns > 1 else ""
        lines.append(f"  {figure.name:{width}}  {_shown(figure.median):>8} {figure.unit:12} {spread}".rstrip())
    return "\n".join(lines[1:])


def write(path: Path, figures: Sequence[Figure], about: Mapping[str, Any]) -> None:
    """Write the figures down as JSON, with what they are about. Raises `OSError`."""
    content = {**about, "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Figure]:
    """The figures that `write` has written. Raises `OSError`."""
    return [Figure(**figure) for figure in json.loads(path.read_text(encoding="utf-8"))["figures"]]


def plot(path: Path, figures: Sequence[Figure]) -> None:
    """Draw the figures, a panel for each part, as PNG or SVG by the name's ending. Raises `OSError`."""
    from matplotlib.figure import Figure as Picture

    parts = list(dict.fromkeys(figure.part for figure in figures))
    rows = [len([figure for figure in figures if figure.part == part]) for part in parts]
    picture = Picture(figsize=(9, 0.9 * len(parts) + 0.32 * sum(rows)), layout="constrained")
    for panel, part in zip(
        picture.subplots(len(parts), 1, height_ratios=rows, squeeze=False)[:, 0], parts, strict=True
    ):
        shown = [figure for figure in figures if figure.part == part]
        labels = [f"{figure.name} [{figure.unit}]" for figure in shown]
        medians = [figure.median for figure in shown]
        spread = [
            [max(0.0, figure.median - figure.low) for figure in shown],
            [max(0.0, figure.high - figure.median) for figure in shown],
        ]
        panel.barh(labels, medians, xerr=spread, color="#4c72b0", ecolor="#333333", height=0.6)
        panel.invert_yaxis()
        panel.set_title(part, loc="left", fontsize=10)
    picture.savefig(path)


def _shown(value: float) -> str:
    if value != 0 and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
