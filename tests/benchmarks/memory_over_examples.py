"""Peak memory of a training run over 1, 10 and 100 thousand packed examples, each run in a process of its own.

    .venv/bin/python tests/benchmarks/memory_over_examples.py [--steps 300] [--repeat 3]

The runs differ in nothing but the number of examples. Prints the peak resident memory of each, and its ratio to the
first: 1.05 or less is what is promised.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

SIZES = (1_000, 10_000, 100_000)
RUN = """
import resource, sys
from distrain.cli.main import main
code = main(["train", sys.argv[1], "--run-dir", sys.argv[2]])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def main() -> None:
    """Pack, run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, of which the median counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = {examples: packed(folder, examples, arguments.steps) for examples in SIZES}
        peaks: dict[int, list[float]] = {examples: [] for examples in SIZES}
        for turn in range(arguments.repeat):
            for examples, job in jobs.items():
                peaks[examples].append(peak(job, folder / f"run_{examples}_{turn}"))
    first = statistics.median(peaks[SIZES[0]])
    for examples, seen in peaks.items():
        middle = statistics.median(seen)
        print(
            f"{examples:7} examples: {middle:.0f} MB ({min(seen):.0f} to {max(seen):.0f}), ratio {middle / first:.3f}"
        )


def packed(folder: Path, examples: int, steps: int) -> Path:
    """Pack so many examples; returns the job that trains on them."""
    source = folder / f"source_{examples}.yaml"
    data = {"provider": "circles", "examples": examples, "size": 32, "border": 4, "radius": [2, 6], "discs": 3}
    source.write_text(yaml.safe_dump({"data": {"train": data}}), encoding="utf-8")
    shards = folder / f"packed_{examples}"
    command = [sys.executable, "-m", "distrain", "data", "pack", str(source), str(shards), "--shards", "8"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    job = folder / f"job_{examples}.yaml"
    settings = {
        "data": {"train": {"provider": "tfrecords", "files": str(shards)}},
        "model": {"layers": 2, "features": 4},
        "train": {"batch_size": 8, "steps": steps},
        "checkpoint": {"every": 100},
        "log": {"examples": True},
    }
    job.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return job


def peak(job: Path, run: Path) -> float:
    """Peak resident memory of a run, in MB."""
    command = [sys.executable, "-c", RUN, str(job), str(run)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.split("peak ")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
