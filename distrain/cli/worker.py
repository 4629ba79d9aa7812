"""One worker of a world, whatever it does there: how it joins, and how it ends, with which exit code and last line."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from distrain.errors import EXIT_FAILED, EXIT_STOPPED, LAST_WORDS, LEFT, LOST, Dismissed, RunEnds
from distrain.job.schema import Parallel
from distrain.launcher.processes import MARK
from distrain.train.stop import StopRequest
from distrain.train.watch import Watch
from distrain.world.quick_import import import_tensorflow
from distrain.world.start import Started, announced_rank, lost_another, start

# The launcher tells which worker ended first, and how: it is to see the one that was lost before those that miss it.
LOST_SECONDS = 1.0


def in_world(do: Callable[[Started, Watch], int], stop: StopRequest, seconds: float) -> int:
    """Join the world that this process was started in, do it there, and leave; returns the exit code. Collective.

    A rank that stands still for `seconds` ends. What fails on this rank alone ends the process here.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # From here to the end: a rank may be stopped before the world is complete, and after all is done too.
    watch = Watch(seconds, rank=announced_rank(os.environ))
    try:
        return _watched(do, stop, watch)
    finally:
        watch.close()


def _watched(do: Callable[[Started, Watch], int], stop: StopRequest, watch: Watch) -> int:
    started = None
    try:
        started = start(os.environ)
        if started.world.controller == "gloo":
            # What ranks tell each other before they have settled, of a wrong job for one, is tensors there.
            from distrain.world.devices import use_no_gpu

            use_no_gpu()
        watch.rank = started.world.rank
        code = do(started, watch)
        watch.doing("leaving the world")
        stop.end()
        if started.membership is None:
            # All have done all: what rank 0 writes down at the end may take it a while.
            started.control.gather(None)
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
            print(f"{LAST_WORDS}{place}: {LOST}", file=sys.stderr, flush=True)
            time.sleep(LOST_SECONDS)
        else:
            traceback.print_exc()
            reason = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
            print(f"{LAST_WORDS}{place}: {reason}", file=sys.stderr)
        _end_at_once(EXIT_FAILED)


class Ending(StopRequest):
    """Ends the process as soon as it is asked to stop: what it does is done again from the beginning."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        os._exit(EXIT_STOPPED)


def answering_signals() -> StopRequest:
    """Have signals end this process at once, with the exit code of one that was asked to stop."""
    stop = Ending()
    stop.listen()
    return stop


def settle(parallel: Parallel, started: Started) -> None:
    """Settle devices and threads, which must come before the first exchange. Raises `BadInput`."""
    import_tensorflow()
    from distrain.world.devices import prepare

    prepare(started.world, threads=parallel.threads, deterministic=parallel.deterministic)


def _left(started: Started, code: int) -> int:
    """Leave the world; with others in it the process ends here.

    The last that ranks wait for each other is behind them then, and no other rank would notice one that is stopped
    while Python and TensorFlow clear up. The launcher does, once it knows.
    """
    started.close()
    if started.horovod is not None:
        if MARK in os.environ:
            print(LEFT, file=sys.stderr, flush=True)
        _end_at_once(code)
    return code


def _end_at_once(code: int) -> NoReturn:
    """End this process without waiting for anybody."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
