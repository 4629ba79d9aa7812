"""`distrain launch`: start a world of workers, on this machine or on several."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from distrain.checkpoint.store import newest_valid
from distrain.cli import train
from distrain.cli.parser import Parser
from distrain.errors import BadInput
from distrain.job.load import load_job
from distrain.job.schema import DEFAULT_BATCH_SIZE, Job
from distrain.launcher.command import Command, World, parse_elastic, parse_hosts, start_command, start_program
from distrain.launcher.discover import discovered, is_local
from distrain.launcher.execute import Ended, execute, shown
from distrain.launcher.restart import Reached, run_with_restarts
from distrain.log.folder import RunFolder, last_record
from distrain.log.terminal import TERMINAL_COLUMNS

HELP = "start several workers: distrain launch -n 2 -- train JOB.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("-n", dest="count", type=int, metavar="N", help="number of workers; all slots of the hosts")
    parser.add_argument("--hosts", metavar="h1:2,h2:2", help="hosts with their numbers of workers")
    parser.add_argument("--hostfile", type=Path, help="a file of hosts, in the launcher's own form")
    parser.add_argument("--elastic", metavar="MIN:MAX", help="let workers leave and join while the run goes on")
    parser.add_argument("--discover", type=Path, metavar="SCRIPT", help="prints the hosts that there are, HOST:WORKERS")
    parser.add_argument("--controller", choices=("gloo", "mpi"), default="gloo", help="what carries messages")
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="N", help="start again up to N times after a failure"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command that would be run, and stop")
    parser.add_argument(
        "worker", nargs=argparse.REMAINDER, metavar="-- train JOB.yaml ...", help="what each runs, or PROGRAM.py"
    )


def main(arguments: argparse.Namespace) -> int:
    """Start the world and wait for its end; returns the workers' exit code."""
    worker = arguments.worker[1:] if arguments.worker[:1] == ["--"] else arguments.worker
    if worker and worker[0].endswith(".py"):
        return _run_script(arguments, worker)
    parsed, job = _checked(worker)
    world = _world(arguments)
    if world.elastic is not None:
        check_elastic(job, most=world.elastic[1])
    if sys.stdout.isatty():
        os.environ[TERMINAL_COLUMNS] = str(shutil.get_terminal_size().columns)
    if arguments.dry_run:
        print(shown(start_command(world, worker, dict(os.environ))))
        return 0
    folder = RunFolder(train.run_dir(parsed, job))
    ended = _run(world, worker, folder, fresh=parsed.fresh, restarts=arguments.restarts)
    for line in ended.words:
        print(line, file=sys.stderr, flush=True)
    return ended.code


def _run_script(arguments: argparse.Namespace, worker: list[str]) -> int:
    """Start a world of a user's program, once: how far one has come is not known here."""
    if not Path(worker[0]).is_file():
        raise BadInput(f"launch: {worker[0]}: no such file")
    if arguments.restarts:
        raise BadInput("launch: --restarts: expected '-- train JOB.yaml', the progress of a program is not known")
    world = _world(arguments)
    command = start_program(world, [sys.executable, *worker], dict(os.environ))
    if arguments.dry_run:
        print(shown(command))
        return 0
    ended = _executed(world, command)
    for line in ended.words:
        print(line, file=sys.stderr, flush=True)
    return ended.code


def _executed(world: World, command: Command) -> Ended:
    gloo = world.controller == "gloo"
    # mpirun passes SIGUSR1 on to its workers and leaves them time; its SIGTERM kills them after a second.
    stop_signal = signal.SIGTERM if gloo else signal.SIGUSR1
    return execute(command, prefixed=gloo, stop_signal=stop_signal, elastic=world.elastic is not None)


def _run(world: World, worker: list[str], folder: RunFolder, *, fresh: bool, restarts: int) -> Ended:
    old = _identity(folder.path) if fresh else None

    def start(restart: int) -> Ended:
        # What the first start has moved aside is not moved aside again.
        again = restart > 0 and (old is None or _identity(folder.path) != old)
        arguments = [part for part in worker if not _means_fresh(part)] if again else worker
        return _executed(world, start_command(world, arguments, dict(os.environ)))

    before = Reached() if fresh else reached(folder)
    return run_with_restarts(start, lambda: reached(folder), before=before, restarts=restarts)


def check_elastic(job: Job, *, most: int) -> None:
    """Refuse a job that would mean something else with another number of workers. Raises `BadInput`."""
    if job.train.batch_size_per_worker is not None:
        raise BadInput("'train.batch_size_per_worker': expected train.batch_size, since --elastic changes the workers")
    batch_size = job.train.batch_size or DEFAULT_BATCH_SIZE
    if batch_size < most:
        raise BadInput(f"'train.batch_size' is {batch_size}, expected at least one example for each of {most} workers")


def reached(folder: RunFolder) -> Reached:
    """How far the run in a folder has come."""
    found, _ = newest_valid(folder.checkpoints)
    step = last_record(folder, "step")
    saved = None if found is None else found.step
    return Reached(max(0 if step is None else int(step["step"]), saved or 0), saved)


def _identity(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _means_fresh(part: str) -> bool:
    """True for `--fresh` and what argparse takes for it."""
    return len(part) > 2 and "--fresh".startswith(part)


def _checked(worker: list[str]) -> tuple[argparse.Namespace, Job]:
    """The workers' arguments and job. A wrong job is refused here, before any is started; each checks it again."""
    if worker[:1] != ["train"]:
        raise BadInput(
            f"launch: expected '-- train JOB.yaml ...' or '-- PROGRAM.py ...', got '{' '.join(worker) or 'nothing'}'"
        )
    parser = Parser(prog="distrain train")
    train.add_arguments(parser)
    parsed = parser.parse_args(worker[1:])
    return parsed, load_job(parsed.job, parsed.overrides)


def _elastic_world(arguments: argparse.Namespace) -> World:
    """A world that changes. Raises `BadInput` where the script does not list hosts."""
    if arguments.elastic is None or arguments.discover is None:
        raise BadInput("launch: expected --elastic MIN:MAX and --discover SCRIPT together, got one of them")
    if arguments.hosts is not None or arguments.hostfile is not None or arguments.controller != "gloo":
        raise BadInput("launch: --elastic has its hosts from --discover and is carried by gloo, expected nothing else")
    least, most = parse_elastic(arguments.elastic)
    count = least if arguments.count is None else arguments.count
    if not least <= count <= most:
        raise BadInput(f"launch: -n is {count}, expected {least} to {most} as --elastic says")
    script = arguments.discover.resolve()
    hosts = discovered(script)
    return World(count, elastic=(least, most), discover=script, discovered_local=all(map(is_local, hosts)))


def _world(arguments: argparse.Namespace) -> World:
    if arguments.hosts is not None and arguments.hostfile is not None:
        raise BadInput("launch: expected --hosts or --hostfile, got both")
    if arguments.hostfile is not None and not arguments.hostfile.is_file():
        raise BadInput(f"--hostfile: {arguments.hostfile}: no such file")
    if arguments.restarts < 0:
        raise BadInput(f"launch: --restarts is {arguments.restarts}, expected 0 or more")
    if arguments.elastic is not None or arguments.discover is not None:
        return _elastic_world(arguments)
    slots = parse_hosts(arguments.hosts) if arguments.hosts is not None else None
    count = arguments.count if arguments.count is not None else slots
    if count is None:
        raise BadInput("launch: expected -n N, the number of workers")
    if count < 1:
        raise BadInput(f"launch: -n is {count}, expected at least 1")
    if slots is not None and count > slots:
        raise BadInput(f"launch: -n is {count}, but --hosts has {slots} slots")
    return World(count, arguments.hosts, arguments.hostfile, arguments.controller)
