"""Start-up and throughput of worlds that horovodrun launches, of two builds of Horovod in turns.

    .venv/bin/python tests/benchmarks/launching.py OTHER/bin/python [--rounds 20] [--workers 2]

OTHER is an environment like this one with the Horovod to compare with, such as one without a patch. Each round launches
both, in an order that changes, and measures in seconds of wall time: `formed`, from the launcher's start until all
workers are in their world (without TensorFlow, of which the import would hide all else); `over`, until the launcher has
ended; and in a second launch `step`, the median over 300 grouped allreduces of 116 770 parameters in 24 tensors. `cpu`
are the processor's seconds of the first launch, which other work on the machine disturbs less. Prints the median of
each and the ratio this / other, with the range that 95 % of resampled rounds give.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FORMS = """
import sys, time
from pathlib import Path
import horovod
from horovod.common import process_sets
from horovod.common.basics import HorovodBasics
basics = HorovodBasics(str(Path(horovod.__file__).parent / "tensorflow" / "mpi_ops.py"), "mpi_lib")
process_sets._setup(basics)
basics.init()
if basics.rank() == 0:
    Path(sys.argv[1]).write_text(str(time.time()))
"""

STEPS = """
import statistics, sys, time
from pathlib import Path
import horovod.tensorflow as hvd
import tensorflow as tf
hvd.init()
tensors = [tf.Variable(tf.random.normal([116770 // 24])) for _ in range(24)]
times = []
for _ in range(350):
    since = time.perf_counter()
    hvd.grouped_allreduce(tensors, op=hvd.Sum, name="step")
    times.append(time.perf_counter() - since)
if hvd.rank() == 0:
    Path(sys.argv[1]).write_text(str(statistics.median(times[50:])))
"""


def launch(python: str, program: str, workers: int, folder: Path) -> tuple[float, float, float]:
    """When it was started, what the program wrote down, and when the launcher had ended."""
    said = folder / "said"
    said.unlink(missing_ok=True)
    (folder / "program.py").write_text(program, encoding="utf-8")
    command = [python, "-m", "horovod.runner.launch", "--gloo", "-np", str(workers), "--network-interfaces", "lo"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_DISABLE_GROUP_FUSION": "1"}
    since = time.time()
    subprocess.run(
        [*command, python, str(folder / "program.py"), str(said)], env=environment, check=True, capture_output=True
    )
    return since, float(said.read_text(encoding="utf-8")), time.time()


def measured(python: str, workers: int, folder: Path) -> dict[str, float]:
    """One round of one build."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    since, formed, over = launch(python, FORMS, workers, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    _, step, _ = launch(python, STEPS, workers, folder)
    return {"formed": formed - since, "over": over - since, "step": step, "cpu": cpu}


def compared(these: list[float], others: list[float]) -> dict[str, float]:
    """Medians, and the ratio of rounds with its range."""
    random_ = random.Random(1)
    ratios = [this / other for this, other in zip(these, others, strict=True)]
    medians = sorted(statistics.median(random_.choices(ratios, k=len(ratios))) for _ in range(2000))
    return {
        "this": round(statistics.median(these), 5),
        "other": round(statistics.median(others), 5),
        "ratio": round(statistics.median(ratios), 4),
        "least": round(medians[50], 4),
        "most": round(medians[1949], 4),
    }


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", help="the other environment's Python")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {sys.executable: [], arguments.other: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(-1, arguments.rounds):
            for python in list(results)[:: 1 if number % 2 else -1]:
                result = measured(python, arguments.workers, Path(folder))
                if number >= 0:
                    results[python].append(result)
    these, others = results.values()
    for name in ("formed", "over", "step", "cpu"):
        print(name, json.dumps(compared([each[name] for each in these], [each[name] for each in others])))


if __name__ == "__main__":
    main()
