"""`distrain bench`: what a step, the service, the exchange, a checkpoint and a start cost on this machine."""

from __future__ import annotations

import argparse
import platform
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import yaml

from distrain.bench import figures
from distrain.bench.figures import Figure
from distrain.bench.job import job_to_measure
from distrain.bench.outside import Network, Outside
from distrain.bench.simulate import Failures
from distrain.cli.worker import answering_signals, in_world, settle
from distrain.errors import EXIT_DONE, BadInput
from distrain.job.load import digest, resolved
from distrain.job.schema import Job
from distrain.train.watch import Watch
from distrain.world.cores import cores
from distrain.world.start import Started, check_same
from distrain.world.versions import versions

# A world that has lost a worker has started again after so long; a checkpoint of this much is what training waits for.
RESTART_SECONDS = 60.0
SAVE_SECONDS = 1.0
INSIDE = ("step", "service", "allreduce", "checkpoint")
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


def check(arguments: argparse.Namespace) -> None:
    """Refuse what is wrong at first sight. Raises `BadInput`."""
    if arguments.count < 1 or arguments.turns < 1:
        raise BadInput(f"bench: -n is {arguments.count}, --turns {arguments.turns}, expected at least 1")
    if arguments.plot is not None and arguments.plot.suffix not in (".png", ".svg"):
        raise BadInput(f"--plot: '{arguments.plot}', expected FILE.png or FILE.svg")
    _network(arguments)
    job_to_measure(arguments.job, arguments.overrides, workers=arguments.count)


def _network(arguments: argparse.Namespace) -> Network:
    match = re.fullmatch(r"([0-9.]+)us:([0-9.]+)Gbit", arguments.network)
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
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="distrain-bench-") as folder:
        (Path(folder) / "job.yaml").write_text(yaml.safe_dump(resolved(job)), encoding="utf-8")
        outside = Outside(Path(folder), controller=arguments.controller, turns=arguments.turns)
        inside = [part for part in (*INSIDE, *ASKED) if part in wanted]
        measures: list[Callable[[], list[Figure]]] = []
        if inside:
            measures.append(lambda: outside.inside(inside, arguments.count))
        if "scaling" in wanted:
            measures.append(lambda: outside.scaling(arguments.count, _batch_size(job, arguments.count)))
        if "startup" in wanted:
            measures.append(lambda: outside.startup(arguments.count))
        if "simulation" in wanted:
            measures.append(
                lambda: outside.simulation(arguments.count, _batch_size(job, arguments.count), _network(arguments))
            )
        for measure in measures:
            new = measure()
            print(figures.table(new), end="\n\n", flush=True)
            found += new
    about = {"workers": arguments.count, "controller": arguments.controller, "cores": cores()}
    about |= {"machine": platform.machine(), "versions": versions(), "job": resolved(job)}
    _write(arguments, found, about)
    return EXIT_DONE


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
    size = per_worker * workers if per_worker is not None else job.train.batch_size
    if size is None or size < workers or size % workers:
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
            inside = Inside(job, started, watch, stop, arguments.inside, arguments.turns, stack)
            found = [figure for part in arguments.only for figure in getattr(inside, part)()]
        if started.world.rank == 0:
            figures.write(arguments.json, found, {})
        return EXIT_DONE

    return in_world(measure, stop, job.parallel.stall_timeout.seconds)
