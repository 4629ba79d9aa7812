"""`distrain train`: one worker of a run, in whatever world it was started; alone, a world of 1."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from distrain.errors import EXIT_FAILED, EXIT_STOPPED, LAST_WORDS, LOST, BadInput, Dismissed, RunEnds
from distrain.job.load import digest, load_job
from distrain.job.schema import Job, Parallel
from distrain.train.stop import StopRequest
from distrain.train.watch import Watch
from distrain.world.control import agree
from distrain.world.quick_import import import_tensorflow
from distrain.world.start import Started, announced_rank, check_same, lost_another, start

HELP = "train a job: alone, or as one of the workers that a launcher started"


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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    stop = StopRequest()
    stop.listen()
    loaded = _loaded(arguments)
    seconds = (Parallel() if isinstance(loaded, BadInput) else loaded.parallel).stall_timeout.seconds
    # From here to the end: a rank may be stopped before the world is complete, and after the last step too.
    watch = Watch(seconds, rank=announced_rank(os.environ))
    try:
        return _in_world(arguments, loaded, stop, watch, seconds)
    finally:
        watch.close()


def _in_world(
    arguments: argparse.Namespace, loaded: Job | BadInput, stop: StopRequest, watch: Watch, seconds: float
) -> int:
    started = None
    try:
        started = start(os.environ)
        watch.rank = started.world.rank
        job = loaded if isinstance(loaded, BadInput) else _settled(loaded, started)
        if started.membership is None:
            code = _train(job, arguments, started, stop, watch)
        else:
            code = _train_elastic(job, arguments, started, stop, watch, seconds)
        watch.doing("leaving the world")
        stop.end()
        return _left(started, code)
    except Dismissed as dismissal:
        print(dismissal, file=sys.stderr)
        return EXIT_STOPPED
    except RunEnds as ending:
        stop.end()
        rank = announced_rank(os.environ)
        if rank == 0 or not ending.agreed:
            where = "" if ending.agreed or rank == 0 else f"rank {rank}: "
            print(f"{LAST_WORDS}{where}{ending}", file=sys.stderr, flush=True)
        if started is not None and ending.agreed:
            watch.doing("leaving the world")
            return _left(started, ending.exit_code)
        _end_at_once(ending.exit_code)
    except Exception as failure:
        # Not swallowed: told, with its traceback, and the process ends. Horovod's and MPI's own shutdown would wait for
        # ranks that wait for this one.
        place = ", ".join([f"rank {announced_rank(os.environ)}", *getattr(failure, "__notes__", ())])
        if lost_another(failure):
            print(f"{LAST_WORDS}{place}: {LOST}", file=sys.stderr)
        else:
            traceback.print_exc()
            reason = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
            print(f"{LAST_WORDS}{place}: {reason}", file=sys.stderr)
        _end_at_once(EXIT_FAILED)


def _loaded(arguments: argparse.Namespace) -> Job | BadInput:
    """The job, or what is wrong with it: the other ranks must hear of that before this one ends."""
    try:
        return load_job(arguments.job, arguments.overrides)
    except BadInput as error:
        return error


def _settled(job: Job, started: Started) -> Job | BadInput:
    """Settle devices and threads, which must come before the first exchange; returns what is wrong with them, if so."""
    import_tensorflow()
    from distrain.world.devices import prepare

    try:
        prepare(started.world, threads=job.parallel.threads, deterministic=job.parallel.deterministic)
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


def _left(started: Started, code: int) -> int:
    """Leave the world; with others in it the process ends here.

    The last that ranks wait for each other is behind them then, and nobody would notice one that is stopped while
    Python and TensorFlow clear up.
    """
    started.close()
    if started.horovod is not None:
        _end_at_once(code)
    return code


def _end_at_once(code: int) -> NoReturn:
    """End this process without waiting for anybody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
