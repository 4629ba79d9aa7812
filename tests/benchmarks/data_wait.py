"""How much of its time each worker waits for data: a job as it stands, under any launcher.

    .venv/bin/horovodrun -np 2 .venv/bin/python tests/benchmarks/data_wait.py JOB.yaml [KEY=VALUE ...]

Prints for each rank the time spent waiting for batches as a share of the time of the same steps, without the first,
which holds the tracing. Nothing of the run is kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

from distrain.data.batches import Batches, LocalBatch
from distrain.job.load import load_job
from distrain.train import run as service
from distrain.train.opening import Request
from distrain.train.stop import StopRequest
from distrain.world.devices import prepare
from distrain.world.start import start


def main() -> None:
    """Train the job and print what each rank has waited."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    job = load_job(arguments.job, arguments.overrides)
    started = start(os.environ)
    prepare(started.world, threads=job.parallel.threads, deterministic=True)
    waited: list[float] = []
    times: list[float] = []
    original = Batches.next

    def timed(batches: Batches) -> LocalBatch:
        times.append(time.perf_counter())
        batch = original(batches)
        waited.append(batches.waited)
        return batch

    Batches.next = timed  # type: ignore[method-assign, assignment]  # to look on
    with tempfile.TemporaryDirectory() as folder:
        service.run(Request(job, Path(folder) / "run"), started, StopRequest())
    # From the second call for a batch to the last: that many whole steps.
    own = (sum(waited[1:-1]), times[-1] - times[1])
    for rank, (seconds, total) in enumerate(started.control.gather(own)):
        if started.world.rank == 0:
            print(f"rank {rank}: waits {seconds:.3f} s of {total:.1f} s, {100 * seconds / total:.2f} %")
    started.close()


if __name__ == "__main__":
    main()
