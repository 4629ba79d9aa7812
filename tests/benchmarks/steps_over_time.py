"""Whether a step takes longer the more steps were made: the running average, its norms and all records on.

    .venv/bin/python tests/benchmarks/steps_over_time.py [--steps 20000]

Trains a small U-Net by one process, every step measured and recorded, and tells what a step took in each twentieth of
the run, and the memory that the process held.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

WARM = 200  # steps that are left out at the beginning


def main() -> None:
    """Train, and print what the steps took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    steps = parser.parse_args().steps
    if steps < 2000:
        parser.error(f"--steps is {steps}, expected at least 2000")
    part = steps // 20
    with tempfile.TemporaryDirectory() as folder:
        job, run = Path(folder) / "job.yaml", Path(folder) / "run"
        job.write_text(
            json.dumps(
                {
                    "data": {"train": {"provider": "circles", "examples": 100_000, "size": 44}},
                    "model": {"name": "unet", "layers": 2, "features": 4},
                    "train": {"batch_size": 2, "steps": steps},
                    "optimizer": {"name": "momentum", "learning_rate": 0.05, "momentum": 0.2},
                }
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "distrain", "train", str(job), "--run-dir", str(run)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        held: list[float] = []
        while process.poll() is None:
            held.append(_megabytes(process.pid))
            time.sleep(1)
        assert process.returncode == 0, process.returncode
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        times = [record["time"] for record in map(json.loads, lines) if record["kind"] == "step"]
    assert len(times) == steps, (len(times), steps)
    parts = [times[WARM + number * part] for number in range(20)] + [times[-1]]
    counts = [part] * 19 + [steps - 1 - WARM - 19 * part]
    took = [1000 * (end - begin) / count for (begin, end), count in zip(pairwise(parts), counts, strict=True)]
    print(f"{steps} steps, in ms a step, by twentieths:", *(f"{value:.2f}" for value in took))
    print(f"the last five / the first five: {statistics.mean(took[-5:]) / statistics.mean(took[:5]):.3f}")
    print(f"memory: {held[len(held) // 5]:.0f} MB after a fifth of the time, {held[-2]:.0f} MB at the end")


def _megabytes(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    except OSError:
        return 0.0
    return int(fields[1]) * 4096 / 1e6 if len(fields) > 1 else 0.0


if __name__ == "__main__":
    main()
