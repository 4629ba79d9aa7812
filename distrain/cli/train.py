"""`distrain train`: one worker of a run, in whatever world it was started; alone, a world of 1."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from distrain.cli.worker import in_world, settle
from distrain.errors import BadInput
from distrain.job.load import digest, load_job
from distrain.job.schema import Job, Parallel
from distrain.log.tracking import require
from distrain.train.stop import StopRequest
from distrain.train.watch import Watch
from distrain.world.control import agree
from distrain.world.start import Started, announced_rank, check_same


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("job", type=Path, metavar="JOB.yaml", help="the job file")
    parser.add_argument(
        "-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="set a key of the job"
    )
    parser.add_argument("--run-dir", type=Path, help="the run's folder; runs/NAME, by the job's name, where left out")
    parser.add_argument("--fresh", action="store_true", help="begin anew: an old run in the folder is moved aside")


def main(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    stop = StopRequest()
    stop.listen()
    loaded = _loaded(arguments)
    parallel = Parallel() if isinstance(loaded, BadInput) else loaded.parallel
    seconds = parallel.stall_timeout.seconds

    def train(started: Started, watch: Watch) -> int:
        job = loaded if isinstance(loaded, BadInput) else _settled(loaded, started)
        if started.membership is None:
            return _train(job, arguments, started, stop, watch)
        return _train_elastic(job, arguments, started, stop, watch, seconds)

    return in_world(train, stop, seconds)


def _loaded(arguments: argparse.Namespace) -> Job | BadInput:
    """The job, or what is wrong with it: the other ranks must hear of that before this one ends."""
    try:
        job = load_job(arguments.job, arguments.overrides)
        require(job.log, os.environ, source=str(arguments.job), rank=announced_rank(os.environ))
    except BadInput as error:
        return error
    return job


def _settled(job: Job, started: Started) -> Job | BadInput:
    try:
        settle(job.parallel, started)
    except BadInput as error:
        return error
    return job


def _train(
    job: Job | BadInput, arguments: argparse.Namespace, started: Started, stop: StopRequest, watch: Watch
) -> int:
    agree(started.control, job if isinstance(job, BadInput) else None)
    assert isinstance(job, Job)
    check_same(started, digest(job))
    # Imported here, since it brings in TensorFlow: a wrong job is refused without it.
    from distrain.train.opening import Request
    from distrain.train.run import run

    return run(Request(job, run_dir(arguments, job), arguments.fresh), started, stop, watch=watch)


def _train_elastic(
    job: Job | BadInput,
    arguments: argparse.Namespace,
    started: Started,
    stop: StopRequest,
    watch: Watch,
    seconds: float,
) -> int:
    from distrain.train.elastic import run_elastic
    from distrain.train.opening import Request

    request = job if isinstance(job, BadInput) else Request(job, run_dir(arguments, job), arguments.fresh)
    return run_elastic(request, started, stop, watch, seconds)


def run_dir(arguments: argparse.Namespace, job: Job) -> Path:
    """The run's folder."""
    return Path(arguments.run_dir or Path("runs") / job.name)
