"""`distrain`: the command line.

distrain train JOB.yaml                           alone, or in the world that a launcher made
distrain launch -n 2 -- train JOB.yaml            on this machine, by horovodrun over Gloo
horovodrun --mpi -np 2 distrain train JOB.yaml
mpirun -np 2 distrain train JOB.yaml
distrain inspect RUN                              what a run has come to
distrain report RUN ...                           the same in one HTML file, several runs compared
distrain evaluate RUN                             how good the trained model is
distrain predict RUN INPUT OUTPUT                 what it makes of images
distrain export RUN TARGET                        the model for others
distrain data check|index|pack|show ...           data, before it is trained on
distrain bench                                    what it costs on this machine
distrain check                                    what works here, and what to do about the rest
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from distrain import __version__
from distrain.cli.parser import Parser
from distrain.errors import EXIT_BAD_INPUT, BadInput

COMMANDS = {
    "train": "train a job: alone, or as one of the workers that a launcher started",
    "launch": "start several workers: distrain launch -n 2 -- train JOB.yaml",
    "evaluate": "measure a trained model over all validation examples, or over other data",
    "predict": "predict images with a trained model: a folder in, a folder out",
    "export": "write a trained model down: a SavedModel, or a .keras file",
    "report": "show a run, or compare several, in one HTML file that opens offline",
    "inspect": "show what a run has come to",
    "data": "index, check, pack or show data",
    "bench": "measure what a step, the service, the exchange, a checkpoint and a start cost here",
    "check": "show what works on this machine, and what to do about the rest",
}


class Command(Protocol):
    """What a module of `distrain.cli` that is a command has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what the command takes."""

    def main(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


def command(name: str) -> Command:
    """The module of one command. The others are not loaded: some need ten times as long to load as it takes."""
    return cast("Command", import_module(f"distrain.cli.{name}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    # The options before it take no values, so the first word without a dash is the command.
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = Parser(prog="distrain", description="Distributed training of Keras models on Horovod.")
    parser.add_argument("--version", action="version", version=f"distrain {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, told in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=told, description=told)
        if name == chosen:
            command(name).add_arguments(subparser)
    try:
        parsed = parser.parse_args(words)
        return command(parsed.command).main(parsed)
    except BadInput as error:
        print(f"distrain: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
