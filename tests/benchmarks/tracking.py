"""What telling MLflow or Weights & Biases costs: processor time of the follower, at its start and a step.

    .venv/bin/python tests/benchmarks/tracking.py [--steps 4000]

MLflow writes into a folder, Weights & Biases' client offline. What a service takes is not in it, nor what the process
takes that Weights & Biases' client has beside it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

from distrain.job.load import check_job, resolved
from distrain.log.folder import RunFolder, write_job
from distrain.log.records import IN_STEPS, RecordLog
from distrain.log.tracking import Tracking

STEP = ("loss", "learning_rate", "examples_per_second", "data_wait_seconds", "gradient_norm", "mean_norm", *IN_STEPS)


def cost(folder: Path, log: dict[str, Any], steps: int) -> float:
    """Seconds of processor time that a follower takes for a run of so many steps."""
    run = RunFolder(folder / "run")
    run.path.mkdir(parents=True)
    job = check_job({"data": {"train": {"provider": "circles"}}, "log": log}, source="benchmark")
    write_job(run, resolved(job), {})
    records = RecordLog(run.metrics)
    for step in range(1, steps + 1):
        records.write_timed("step", step=step, epoch=0, position=8 * step, **dict.fromkeys(STEP, 0.5))
    records.close()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = Tracking(run, job.log.services).close("finished", 600)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(told) == 1, told
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print both costs of each service."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for service, options in (("mlflow", {"uri": f"file:{folder}/store"}), ("wandb", {"mode": "offline"})):
            start = cost(folder / service / "none", {service: options}, 0)
            whole = cost(folder / service / "all", {service: options}, arguments.steps)
            step = (whole - start) / arguments.steps * 1000
            print(f"{service}: {start:.1f} s at the start, {step:.2f} ms a step of {len(STEP)} numbers")


if __name__ == "__main__":
    main()
