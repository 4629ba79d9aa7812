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
distrain check                                    what works here, and what to do about the rest
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from distrain import __version__
from distrain.cli import check, data, evaluate, export, inspect, launch, predict, report, train
from distrain.cli.parser import Parser
from distrain.errors import EXIT_BAD_INPUT, BadInput

COMMANDS = {
    "train": train,
    "launch": launch,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "report": report,
    "inspect": inspect,
    "data": data,
    "check": check,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = Parser(prog="distrain", description="Distributed training of Keras models on Horovod.")
    parser.add_argument("--version", action="version", version=f"distrain {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.HELP))
    try:
        parsed = parser.parse_args(arguments)
        return int(COMMANDS[parsed.command].main(parsed))
    except BadInput as error:
        print(f"distrain: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
