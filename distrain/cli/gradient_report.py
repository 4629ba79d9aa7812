"""`distrain inspect RUN --gradients`: what the gradients' statistics say of variables and ranks; no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distrain.errors import BadInput
from distrain.gradients.measures import MEASURES
from distrain.log.folder import RunFolder
from distrain.log.gradient_summary import read

SHOWN = tuple(name for name in MEASURES if name not in ("signal", "noise"))


def plot(folder: RunFolder, path: Path) -> None:
    """Draw the whole run to `path`, .png or .svg. Raises `BadInput` where that cannot be."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise BadInput(f"--plot {path}: expected a name that ends in .png or .svg")
    from distrain.log.gradient_plots import draw

    variables, ranks = read(folder)
    try:
        draw(path, variables, ranks)
    except OSError as error:
        raise BadInput(f"--plot {path}: cannot be written ({error.strerror}), expected a file to make") from error


def show(summary: dict[str, Any]) -> None:
    """Print it for people."""
    print(f"{summary['run']}: medians over {summary['recent_steps']} measured steps up to step {summary['step']}\n")
    rows = [["variable", *(name.replace("_", " ") for name in SHOWN), "attention"]]
    for one in summary["variables"]:
        reasons = "; ".join(f"{reason['rule']}: {reason['text']}" for reason in one["attention"])
        rows.append([one["variable"], *(_number(one[name]) for name in SHOWN), reasons])
    _table(rows)
    if summary["ranks"]:
        print()
        names = ("rank", "steps", "examples", "loss", "norm", "loss_to_others", "norm_to_others")
        _table(
            [
                [name.replace("_", " ") for name in names],
                *([_number(one[name]) for name in names] for one in summary["ranks"]),
            ]
        )
    if len(summary["ranks"]) > 1:
        print()
        for one in summary["odd_ranks"]:
            print(one["text"])
        if not summary["odd_ranks"]:
            print("no rank stands out")
    if summary["advice"] is not None:
        print(f"\n{summary['advice']}")


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _table(rows: list[list[str]]) -> None:
    """Print rows in columns: the first and a column of words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place in (0, len(SHOWN) + 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
