"""`distrain predict RUN INPUT OUTPUT`: a folder of images in, a folder of class maps or a table of classes out."""

from __future__ import annotations

import argparse
from pathlib import Path

from distrain.cli.evaluate import add_checkpoint
from distrain.cli.worker import answering_signals, in_world, settle
from distrain.errors import EXIT_DONE, BadInput
from distrain.job.load import digest
from distrain.train.watch import Watch
from distrain.use.saved import open_saved, read_run
from distrain.world.control import agreed
from distrain.world.start import Started, check_same

WINDOW = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("images", metavar="INPUT", help="a folder of images, a glob, a file or a URL")
    parser.add_argument("folder", type=Path, metavar="OUTPUT", help="the folder for what is made of them")
    add_checkpoint(parser)
    parser.add_argument(
        "--window", type=int, default=WINDOW, metavar="PIXELS", help=f"side of what is looked at together ({WINDOW})"
    )
    parser.add_argument("--probabilities", action="store_true", help="segmentation: NPY files of them too")
    parser.add_argument("--json-lines", action="store_true", help="classification: predictions.jsonl instead of .csv")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what is wrong at first sight. Raises `BadInput`."""
    read_run(arguments.run)
    if arguments.window < 1:
        raise BadInput(f"--window is {arguments.window}, expected at least 1")


def main(arguments: argparse.Namespace) -> int:
    """Predict; returns the exit code."""
    stop = answering_signals()
    check(arguments)
    job = read_run(arguments.run)

    def predict(started: Started, watch: Watch) -> int:
        agreed(started.control, lambda: settle(job.parallel, started))
        check_same(started, digest(job))
        from distrain.use.predict import Wish
        from distrain.use.predict import predict as predicted

        saved = open_saved(arguments.run, job, arguments.checkpoint, started.world, started.control)
        wish = Wish(
            arguments.images,
            arguments.folder,
            arguments.window,
            probabilities=arguments.probabilities,
            lines=arguments.json_lines,
        )
        done = predicted(wish, saved, started, watch)
        if started.world.rank == 0:
            print(f"{done.images - len(done.bad)} images by {saved.name} in {arguments.folder}: {done.words}")
            for reason in done.bad:
                print(f"passed over: {reason}")
        if done.bad:
            raise BadInput(
                f"{len(done.bad)} of {done.images} images could not be predicted, the first: {done.bad[0]}", agreed=True
            )
        return EXIT_DONE

    return in_world(predict, stop, job.parallel.stall_timeout.seconds)
