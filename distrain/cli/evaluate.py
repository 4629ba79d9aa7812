"""`distrain evaluate RUN`: what a trained model is worth on its validation data, or on other data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distrain.cli.worker import answering_signals, in_world, settle
from distrain.errors import EXIT_DONE, BadInput
from distrain.job.load import digest
from distrain.train.watch import Watch
from distrain.use.saved import NEWEST, open_saved, read_run
from distrain.world.control import agreed
from distrain.world.start import Started, check_same


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set a key of data.validation"
    )
    add_checkpoint(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Which of a run's checkpoints is meant."""
    parser.add_argument(
        "--checkpoint", default=NEWEST, metavar="WHICH", help="newest (the default), best, or the step of one"
    )


def check(arguments: argparse.Namespace) -> None:
    """Refuse what is wrong at first sight. Raises `BadInput`."""
    if read_run(arguments.run, arguments.overrides).data.validation is None:
        raise BadInput("'data.validation' is missing in the run, expected -o data.validation='{provider: ...}'")


def main(arguments: argparse.Namespace) -> int:
    """Evaluate; returns the exit code."""
    stop = answering_signals()
    check(arguments)
    job = read_run(arguments.run, arguments.overrides)

    def evaluate(started: Started, watch: Watch) -> int:
        agreed(started.control, lambda: settle(job.parallel, started))
        check_same(started, digest(job))
        from distrain.use.evaluate import evaluate as evaluated

        saved = open_saved(arguments.run, job, arguments.checkpoint, started.world, started.control)
        examples, found = evaluated(saved, started, watch)
        if started.world.rank == 0:
            progress = saved.manifest.progress
            values = {"step": progress.step, "epoch": saved.manifest.epoch, "examples": examples, **found.values}
            _print(values, found.bad, as_json=arguments.json)
        return EXIT_DONE

    return in_world(evaluate, stop, job.parallel.stall_timeout.seconds)


def _print(values: dict[str, float], bad: list[tuple[int, str]], *, as_json: bool) -> None:
    if as_json:
        skipped = [{"index": index, "reason": reason} for index, reason in bad]
        print(json.dumps({**values, "skipped": skipped}, indent=1))
        return
    for index, reason in bad:
        print(f"skipped example {index}: {reason}")
    for name, value in values.items():
        print(f"{name.replace('_', ' '):22}{value if isinstance(value, int) else f'{value:.6g}'}")
