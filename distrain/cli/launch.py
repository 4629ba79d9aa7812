"""`distrain launch`: start a world of workers, on this machine or on several."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from distrain.cli import train
from distrain.cli.parser import Parser
from distrain.errors import BadInput
from distrain.job.load import load_job
from distrain.launcher.command import World, parse_hosts, start_command
from distrain.launcher.execute import execute, shown
from distrain.log.terminal import TERMINAL_COLUMNS

HELP = "start several workers: distrain launch -n 2 -- train JOB.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("-n", dest="count", type=int, metavar="N", help="number of workers; all slots of the hosts")
    parser.add_argument("--hosts", metavar="h1:2,h2:2", help="hosts with their numbers of workers")
    parser.add_argument("--hostfile", type=Path, help="a file of hosts, in the launcher's own form")
    parser.add_argument("--controller", choices=("gloo", "mpi"), default="gloo", help="what carries messages")
    parser.add_argument("--dry-run", action="store_true", help="print the command that would be run, and stop")
    parser.add_argument("worker", nargs=argparse.REMAINDER, metavar="-- train JOB.yaml ...", help="what each runs")


def main(arguments: argparse.Namespace) -> int:
    """Start the world and wait for its end; returns the workers' exit code."""
    worker = arguments.worker[1:] if arguments.worker[:1] == ["--"] else arguments.worker
    _check_worker(worker)
    world = _world(arguments)
    environment = dict(os.environ)
    if sys.stdout.isatty():
        environment[TERMINAL_COLUMNS] = str(shutil.get_terminal_size().columns)
    os.environ.update(environment)
    command = start_command(world, worker, environment)
    if arguments.dry_run:
        print(shown(command))
        return 0
    gloo = world.controller == "gloo"
    # mpirun passes SIGUSR1 on to its workers and leaves them time; its SIGTERM kills them after a second.
    return execute(command, prefixed=gloo, stop_signal=signal.SIGTERM if gloo else signal.SIGUSR1)


def _check_worker(worker: list[str]) -> None:
    """Refuse a wrong job here, before any worker is started; each worker checks it again."""
    if worker[:1] != ["train"]:
        raise BadInput(f"launch: expected '-- train JOB.yaml ...', got '{' '.join(worker) or 'nothing'}'")
    parser = Parser(prog="distrain train")
    train.add_arguments(parser)
    parsed = parser.parse_args(worker[1:])
    load_job(parsed.job, parsed.overrides)


def _world(arguments: argparse.Namespace) -> World:
    if arguments.hosts is not None and arguments.hostfile is not None:
        raise BadInput("launch: expected --hosts or --hostfile, got both")
    if arguments.hostfile is not None and not arguments.hostfile.is_file():
        raise BadInput(f"--hostfile: {arguments.hostfile}: no such file")
    slots = parse_hosts(arguments.hosts) if arguments.hosts is not None else None
    count = arguments.count if arguments.count is not None else slots
    if count is None:
        raise BadInput("launch: expected -n N, the number of workers")
    if count < 1:
        raise BadInput(f"launch: -n is {count}, expected at least 1")
    if slots is not None and count > slots:
        raise BadInput(f"launch: -n is {count}, but --hosts has {slots} slots")
    return World(count, arguments.hosts, arguments.hostfile, arguments.controller)
