"""`distrain export RUN TARGET`: a trained model for others, to be loaded without distrain."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from distrain.cli.evaluate import add_checkpoint
from distrain.cli.worker import answering_signals, in_world, settle
from distrain.errors import EXIT_DONE, BadInput
from distrain.train.watch import Watch
from distrain.use.saved import open_saved, read_run
from distrain.world.start import Started, launched


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("target", type=Path, metavar="TARGET", help="NAME.keras, or a folder for a SavedModel")
    add_checkpoint(parser)
    parser.add_argument("--logits", action="store_true", help="give logits, without the softmax")


def main(arguments: argparse.Namespace) -> int:
    """Export; returns the exit code."""
    stop = answering_signals()
    job = read_run(arguments.run)
    if launched(os.environ).size > 1:
        raise BadInput("export: expected to be started alone: one process writes the model")

    def export(started: Started, watch: Watch) -> int:
        settle(job.parallel, started)
        from distrain.use.export import export as exported

        saved = open_saved(arguments.run, job, arguments.checkpoint, started.world, started.control)
        watch.doing("exporting the model", alone=True)
        description = exported(saved, arguments.target, logits=arguments.logits)
        _print(arguments.target, saved.name, description)
        return EXIT_DONE

    return in_world(export, stop, job.parallel.stall_timeout.seconds)


def _print(target: Path, name: str, description: dict[str, Any]) -> None:
    takes, gives = description["input"], description["output"]
    shape = ", ".join("any" if size is None else str(size) for size in takes["shape"])
    print(f"{target}: the model of {name}")
    print(f"  takes [{shape}] {takes['dtype']}: {takes['values']}; height x width: {takes['sizes']}")
    border = f", {gives['border']} pixels less at each side" if gives["border"] else ""
    print(f"  gives {gives['kind']} of {gives['classes']} classes{border}")
