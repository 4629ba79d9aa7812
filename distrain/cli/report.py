"""`distrain report RUN ...`: one HTML file that shows a run, or compares several, and needs nothing but itself."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from distrain.errors import EXIT_DONE, BadInput

FILE = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the runs' folders")
    parser.add_argument("--to", type=Path, metavar="FILE", help=f"the file to write; RUN/{FILE} where left out")


def main(arguments: argparse.Namespace) -> int:
    """Write the report; returns the exit code."""
    # Imported here: what reads and draws tables takes longer to load than other commands take.
    from distrain.report.collect import collect
    from distrain.report.page import page

    if len(arguments.runs) > 1 and arguments.to is None:
        raise BadInput("report: several runs: expected --to FILE, for the comparison is none of theirs")
    path: Path = arguments.to or arguments.runs[0] / FILE
    names = distinct_names(arguments.runs)
    text = page([collect(run, name) for run, name in zip(arguments.runs, names, strict=True)])
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}), expected a file to make") from error
    print(f"{path}: {len(text) / 1e6:.1f} MB, opens in any browser")
    return EXIT_DONE


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, or as much of their paths as it takes to tell them apart. Raises `BadInput` for twins."""
    whole = [path.resolve() for path in paths]
    twin, count = Counter(whole).most_common(1)[0]
    if count > 1:
        raise BadInput(f"{twin}: given {count} times, expected different runs")
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
        depth += 1
