"""`distrain bench`: what a step, the service, the exchange, a checkpoint and a start cost on this machine."""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

import yaml

from distrain.bench import figures
from distrain.bench.figures import Figure
from distrain.bench.job import job_to_measure
from distrain.bench.outside import Network, Outside
from distrain.bench.simulate import Failures
from distrain.cli.worker import answering_signals, in_world, settle
from distrain.errors import EXIT_DONE, EXIT_STOPPED, BadInput, RunEnds
from distrain.job.load import digest, resolved
from distrain.job.schema import DEFAULT_BATCH_SIZE, Job
from distrain.train.watch import Watch
from distrain.world.cores import cores
from distrain.world.start import Started, check_same, launched
from distrain.world.versions import versions

# A world that has lost a worker has started again after so long; a checkpoint of this much is what training waits for.
RESTART_SECONDS = 60.0
SAVE_SECONDS = 1.0
INSIDE = ("step", "service", "epoch", "allreduce", "checkpoint")
OUTSIDE = ("scaling", "startup", "simulation")
# What only worlds that are started to be measured are asked for.
ASKED = ("throughput", "steps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("job", type=Path, nargs="?", metavar="JOB.yaml", help="a U-Net on made-up images if left out")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set a key of the job"
    )
    parser.add_argument("-n", dest="count", type=int, default=2, metavar="N", help="number of workers; 2")
    parser.add_argument("--controller", choices=("gloo", "mpi"), default="gloo", help="what carries messages")
    parser.add_argument(
        "--only",
        action="append",
        choices=(*INSIDE, *OUTSIDE, *ASKED),
        help="measure this and not all; may be given again",
    )
    parser.add_argument("--turns", type=int, default=8, metavar="N", help="how often each thing is measured; 8")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, as FILE.png or FILE.svg")
    parser.add_argument(
        "--network", default="20us:10Gbit", metavar="US:GBIT", help="simulation: latency and bandwidth; 20us:10Gbit"
    )
    parser.add_argument("--per-host", type=int, default=1, metavar="N", help="simulation: workers on each host; 1")
    parser.add_argument(
        "--fails-every", type=float, metavar="HOURS", help="simulation: one worker's mean time between failures"
    )
    # What a worker of a world that is measured is told: its run's folder.
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--beside", type=int, help=argparse.SUPPRESS)


def check(arguments: argparse.Namespace) -> None:
    """Refuse what is wrong at first sight. Raises `BadInput`."""
    if arguments.count < 1 or arguments.turns < 1:
        raise BadInput(f"bench: -n is {arguments.count}, --turns {arguments.turns}, expected at least 1")
    if arguments.plot is not None and arguments.plot.suffix not in (".png", ".svg"):
        raise BadInput(f"--plot: '{arguments.plot}', expected FILE.png or FILE.svg")
    _network(arguments)
    if arguments.count < 2 and "simulation" in (arguments.only or ()):
        raise BadInput("bench: simulation: expected -n 2 or more, it is fed with what an exchange takes")
    job = job_to_measure(arguments.job, arguments.overrides, workers=arguments.count)
    if arguments.inside is None:
        if launched(os.environ).size > 1:
            raise BadInput(
                "bench: expected to be started alone, with -n for the number of workers: it starts them itself"
            )
        if {"scaling", "simulation"} & set(arguments.only or OUTSIDE):
            _batch_size(job, arguments.count)


def _network(arguments: argparse.Namespace) -> Network:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)us:(\d+(?:\.\d+)?)Gbit", arguments.network)
    if match is None or not float(match[2]):
        raise BadInput(f"--network: '{arguments.network}', expected latency and bandwidth, such as 20us:10Gbit")
    hours = arguments.fails_every
    if arguments.per_host < 1 or (hours is not None and hours <= 0):
        raise BadInput(f"bench: --per-host is {arguments.per_host}, --fails-every {hours}, expected more than 0")
    failures = None if hours is None else Failures(hours * 3600, RESTART_SECONDS, SAVE_SECONDS)
    return Network(float(match[1]) * 1e-6, float(match[2]) * 1e9 / 8, arguments.per_host, failures)


def main(arguments: argparse.Namespace) -> int:
    """Measure; returns the exit code."""
    check(arguments)
    job = job_to_measure(arguments.job, arguments.overrides, workers=arguments.count)
    if arguments.inside is not None:
        return _inside(arguments, job)
    wanted = arguments.only or [*INSIDE, *OUTSIDE]
    if arguments.count < 2:
        wanted = [part for part in wanted if part != "simulation"]
    found: list[Figure] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        _measure(arguments, job, wanted, found)
    except RunEnds as ending:
        print(f"distrain: {ending}", file=sys.stderr)
        return ending.exit_code
    finally:
        # What was measured until then is worth having.
        about = {"workers": arguments.count, "controller": arguments.controller, "cores": cores()}
        about |= {"machine": platform.machine(), "versions": versions(), "job": resolved(job)}
        if found:
            _write(arguments, found, about)
    return EXIT_DONE


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_STOPPED)


def _measure(arguments: argparse.Namespace, job: Job, wanted: Sequence[str], found: list[Figure]) -> None:
    """Measure what is wanted, part by part, and show it. Raises `RunFailed` where a world fails."""
    with (
        tempfile.TemporaryDirectory(prefix="distrain-bench-") as folder,
        Outside(Path(folder), controller=arguments.controller, turns=arguments.turns) as outside,
    ):
        (Path(folder) / "job.yaml").write_text(yaml.safe_dump(resolved(job)), encoding="utf-8")
        inside = [part for part in (*INSIDE, *ASKED) if part in wanted]
        measures: list[Callable[[], list[Figure]]] = []
        if inside:
            measures.append(lambda: outside.inside(inside, arguments.count))
        if "scaling" in wanted:
            measures.append(lambda: outside.scaling(arguments.count, _batch_size(job, arguments.count)))
        if "startup" in wanted:
            measures.append(lambda: outside.startup(arguments.count))
        if "simulation" in wanted:
            assert job.parallel.threads is not None, "each worker was given its share"
            room = max(1, cores() // job.parallel.threads)
            batch_size, network = _batch_size(job, arguments.count), _network(arguments)
            measures.append(lambda: outside.simulation(arguments.count, batch_size, network, room))
        for measure in measures:
            new = measure()
            print(figures.table(new), end="\n\n", flush=True)
            found += new


def _write(arguments: argparse.Namespace, found: list[Figure], about: dict[str, object]) -> None:
    path = arguments.json
    try:
        if path is not None:
            figures.write(path, found, about)
        path = arguments.plot
        if path is not None:
            figures.plot(path, found)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from error


def _batch_size(job: Job, workers: int) -> int:
    per_worker = job.train.batch_size_per_worker
    size = per_worker * workers if per_worker is not None else job.train.batch_size or DEFAULT_BATCH_SIZE
    if size % workers:
        raise BadInput(f"'train.batch_size' is {size}, expected a multiple of {workers} workers, so that all do alike")
    return size


def _inside(arguments: argparse.Namespace, job: Job) -> int:
    """Measure inside the world that this process was started in."""
    stop = answering_signals()

    def measure(started: Started, watch: Watch) -> int:
        settle(job.parallel, started)
        check_same(started, digest(job))
        from distrain.bench.inside import Inside

        with ExitStack() as stack:
            beside = None if arguments.meeting is None else (arguments.meeting, arguments.beside)
            inside = Inside(job, started, watch, stop, arguments.inside, arguments.turns, stack, beside)
            found = [figure for part in arguments.only for figure in getattr(inside, part)()]
        if started.world.rank == 0:
            figures.write(arguments.json, found, {})
        return EXIT_DONE

    return in_world(measure, stop, job.parallel.stall_timeout.seconds)
