"""`distrain launch`: start a world of workers, on this machine or on several."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

from distrain.checkpoint.store import newest_valid
from distrain.cli import train
from distrain.cli.parser import Parser
from distrain.errors import EXIT_FAILED, EXIT_STOPPED, BadInput
from distrain.job.load import load_job
from distrain.job.schema import DEFAULT_BATCH_SIZE, Job
from distrain.launcher.command import (
    Command,
    World,
    choices,
    hosts_of_file,
    parse_elastic,
    parse_hosts,
    start_command,
    start_program,
)
from distrain.launcher.discover import NoHosts, discovered, is_local
from distrain.launcher.execute import Ended, execute, shown
from distrain.launcher.hosts import Elsewhere
from distrain.launcher.processes import MARK
from distrain.launcher.reach import AskedToStop, ReachedBy, hosts_of
from distrain.launcher.restart import Reached, run_with_restarts
from distrain.launcher.slurm import allocated
from distrain.log.folder import RunFolder, last_record
from distrain.log.terminal import TERMINAL_COLUMNS
from distrain.log.tracking import require
from distrain.nearest import nearest, nearest_path

# What workers can do beside training.
OTHERS = ("evaluate", "predict", "bench")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("-n", dest="count", type=int, metavar="N", help="number of workers; all slots of the hosts")
    parser.add_argument("--hosts", metavar="h1:2,h2:2", help="hosts with their numbers of workers")
    parser.add_argument("--hostfile", type=Path, help="a file of hosts, HOST slots=WORKERS a line")
    parser.add_argument("--elastic", metavar="MIN:MAX", help="let workers leave and join while the run goes on")
    parser.add_argument("--discover", type=Path, metavar="SCRIPT", help="prints the hosts that there are, HOST:WORKERS")
    parser.add_argument(
        "--slots-per-host", type=int, metavar="N", help="workers on each host that the script names alone; 1"
    )
    parser.add_argument("--slurm", action="store_true", help="as many workers as the Slurm job has tasks, on its nodes")
    parser.add_argument("--controller", choices=("gloo", "mpi"), default="gloo", help="what carries messages")
    parser.add_argument("--interface", metavar="NAME", help="the network interface by which hosts reach each other")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="SECONDS", help="how long other hosts have to answer by ssh; 60"
    )
    parser.add_argument(
        "--restarts", type=int, default=0, metavar="N", help="start again up to N times after a failure"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command that would be run, and stop")
    parser.add_argument(
        "worker",
        nargs=argparse.REMAINDER,
        metavar="-- train JOB.yaml ...",
        help="what each runs: train, evaluate or predict, or PROGRAM.py",
    )


def main(arguments: argparse.Namespace) -> int:
    """Start the world and wait for its end; returns the workers' exit code."""
    worker = arguments.worker[1:] if arguments.worker[:1] == ["--"] else arguments.worker
    if worker and worker[0].endswith(".py"):
        return _program(arguments, worker)
    world = _world(arguments)
    if worker[:1] and worker[0] in OTHERS:
        return _other(arguments, world, worker)
    parsed, job = _checked(worker)
    if world.elastic is not None:
        check_elastic(job, most=world.elastic[1])
    if sys.stdout.isatty():
        os.environ[TERMINAL_COLUMNS] = str(shutil.get_terminal_size().columns)
    folder = RunFolder(train.run_dir(parsed, job))
    reached_by = ReachedBy(world, arguments.wait)
    if arguments.dry_run:
        _show(reached_by, worker)
        return 0
    try:
        return _told(_run(reached_by, worker, folder, fresh=parsed.fresh, restarts=arguments.restarts))
    except AskedToStop:
        print("distrain: asked to stop while waiting for hosts", file=sys.stderr)
        return EXIT_STOPPED if reached(folder).saved is not None else EXIT_FAILED


def _told(ended: Ended) -> int:
    for line in ended.words:
        print(line, file=sys.stderr, flush=True)
    return ended.code


def _program(arguments: argparse.Namespace, worker: list[str]) -> int:
    """Start workers that run a program of the user's own."""
    if not Path(worker[0]).is_file():
        raise BadInput(f"launch: {worker[0]}: no such file, expected a program{nearest_path(worker[0])}")
    if arguments.restarts:
        raise BadInput("launch: --restarts: expected '-- train JOB.yaml', the progress of a program is not known")
    return _once(arguments, _world(arguments), worker)


def _other(arguments: argparse.Namespace, world: World, worker: list[str]) -> int:
    """Start workers that do something else than train. What is wrong with that is refused before."""
    # Imported here: they load what reads data, which takes longer than all else that a launcher does.
    from distrain.cli import bench, evaluate, predict

    command = {"evaluate": evaluate, "predict": predict, "bench": bench}[worker[0]]
    parser = Parser(prog=f"distrain {worker[0]}")
    command.add_arguments(parser)
    command.check(parser.parse_args(worker[1:]))
    if world.elastic is not None or arguments.restarts:
        raise BadInput(f"launch: --elastic and --restarts are for train, expected neither with {worker[0]}")
    return _once(arguments, world, worker)


def _once(arguments: argparse.Namespace, world: World, worker: list[str]) -> int:
    """Start a world once, or show how: how far it has come is not known here."""
    reached_by = ReachedBy(world, arguments.wait)
    if arguments.dry_run:
        _show(reached_by, worker)
        return 0
    try:
        return _told(_execute(reached_by, worker))
    except AskedToStop:
        print("distrain: asked to stop while waiting for hosts", file=sys.stderr)
        return EXIT_STOPPED


def _show(reached_by: ReachedBy, worker: list[str]) -> None:
    """Print what was chosen, and the line that would be run."""
    world = reached_by.supposed()
    print("\n".join(f"# {line}" for line in choices(world, dict(os.environ))))
    print(shown(_command(world, worker, dict(os.environ))))


def _command(world: World, worker: list[str], environment: dict[str, str]) -> Command:
    """What starts this world of distrain's own workers, or of a program."""
    if worker[0].endswith(".py"):
        return start_program(world, [sys.executable, *worker], environment)
    return start_command(world, worker, environment)


def _execute(reached_by: ReachedBy, worker: list[str]) -> Ended:
    # A host that has failed may have to start first.
    world = reached_by.seen()
    gloo = world.controller == "gloo"
    return execute(
        # What is started is to be known by its mark on other hosts, too.
        _command(world, worker, {**os.environ, MARK: ""}),
        prefixed=gloo,
        # mpirun passes SIGUSR1 on to its workers and leaves them time; its SIGTERM kills them after a second.
        stop_signal=signal.SIGTERM if gloo else signal.SIGUSR1,
        elastic=world.elastic is not None,
        elsewhere=Elsewhere(lambda: hosts_of(world)) if gloo and not world.local else None,
    )


def _run(reached_by: ReachedBy, worker: list[str], folder: RunFolder, *, fresh: bool, restarts: int) -> Ended:
    old = _identity(folder.path) if fresh else None

    def start(restart: int) -> Ended:
        # What the first start has moved aside is not moved aside again.
        again = restart > 0 and (old is None or _identity(folder.path) != old)
        return _execute(reached_by, [part for part in worker if not _means_fresh(part)] if again else worker)

    before = Reached() if fresh else reached(folder)
    return run_with_restarts(start, lambda: reached(folder), before=before, restarts=restarts)


def check_elastic(job: Job, *, most: int) -> None:
    """Refuse a job that would mean something else with another number of workers. Raises `BadInput`."""
    if job.train.batch_size_per_worker is not None:
        raise BadInput("'train.batch_size_per_worker': expected train.batch_size, since --elastic changes the workers")
    if job.train.reduction == "adasum":
        raise BadInput(
            "'train.reduction' is 'adasum', expected 'mean' with --elastic: its rate is for a worker's batch"
        )
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
        hint = nearest(worker[0], ("train", *OTHERS)) if worker else ""
        raise BadInput(
            "launch: expected '-- train JOB.yaml ...', evaluate or predict, or '-- PROGRAM.py ...', "
            f"got '{' '.join(worker) or 'nothing'}'{hint}"
        )
    parser = Parser(prog="distrain train")
    train.add_arguments(parser)
    parsed = parser.parse_args(worker[1:])
    job = load_job(parsed.job, parsed.overrides)
    require(job.log, os.environ, source=str(parsed.job), rank=0)
    return parsed, job


def _elastic_world(arguments: argparse.Namespace) -> World:
    """A world that changes. Raises `BadInput` where the script does not list hosts."""
    if arguments.elastic is None or arguments.discover is None:
        got, missing = ("--elastic", "--discover SCRIPT") if arguments.elastic else ("--discover", "--elastic MIN:MAX")
        raise BadInput(f"launch: expected {missing} beside {got}")
    others = [f"--{name}" for name in ("hosts", "hostfile", "slurm") if getattr(arguments, name)]
    if others or arguments.controller != "gloo":
        got = ", ".join([*others, *(["--controller mpi"] if arguments.controller != "gloo" else [])])
        raise BadInput(f"launch: --elastic has its hosts from --discover and is carried by gloo, expected no {got}")
    least, most = parse_elastic(arguments.elastic)
    count = least if arguments.count is None else arguments.count
    if not least <= count <= most:
        raise BadInput(f"launch: -n is {count}, expected {least} to {most} as --elastic says")
    slots = 1 if arguments.slots_per_host is None else arguments.slots_per_host
    if slots < 1:
        raise BadInput(f"launch: --slots-per-host is {slots}, expected at least 1")
    script = arguments.discover.resolve()
    local = _names_only_this_machine(script, waiting=arguments.wait > 0)
    world = World(count, elastic=(least, most), discover=script, discovered_local=local, slots_per_host=slots)
    return replace(world, interface=arguments.interface)


def _names_only_this_machine(script: Path, *, waiting: bool) -> bool:
    try:
        return all(map(is_local, discovered(script)))
    except NoHosts:
        if waiting:
            return False  # some may come
        raise


def _world(arguments: argparse.Namespace) -> World:
    if arguments.hosts is not None and arguments.hostfile is not None:
        raise BadInput("launch: expected --hosts or --hostfile, got both")
    if arguments.restarts < 0:
        raise BadInput(f"launch: --restarts is {arguments.restarts}, expected 0 or more")
    if arguments.elastic is not None or arguments.discover is not None:
        return _elastic_world(arguments)
    if arguments.slots_per_host is not None:
        raise BadInput(
            "launch: --slots-per-host is for --elastic; --hosts and --hostfile have the number for each host"
        )
    if arguments.slurm:
        return _slurm_world(arguments)
    hosts = arguments.hosts if arguments.hostfile is None else hosts_of_file(arguments.hostfile)
    slots = sum(number for _, number in parse_hosts(hosts)) if hosts is not None else None
    count = arguments.count if arguments.count is not None else slots
    if count is None:
        raise BadInput("launch: expected -n N, the number of workers")
    if count < 1:
        raise BadInput(f"launch: -n is {count}, expected at least 1")
    if slots is not None and count > slots:
        raise BadInput(f"launch: -n is {count}, expected at most the {slots} slots of the hosts")
    return World(count, hosts, arguments.controller, interface=arguments.interface)


def _slurm_world(arguments: argparse.Namespace) -> World:
    given = {"--hosts": arguments.hosts, "--hostfile": arguments.hostfile, "-n": arguments.count}
    others = [name for name, value in given.items() if value]
    if others:
        raise BadInput(
            f"launch: --slurm has hosts and numbers from the Slurm job, expected no {' and no '.join(others)}"
        )
    tasks = allocated(os.environ)
    count = sum(number for _, number in tasks)
    if arguments.controller == "mpi":
        return World(count, controller="mpi", slurm=True, interface=arguments.interface)
    hosts = ",".join(f"{host}:{number}" for host, number in tasks)
    return World(count, hosts, interface=arguments.interface)
