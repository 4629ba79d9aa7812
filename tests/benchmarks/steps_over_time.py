"""Whether a step takes longer the more steps were made: the running average, its norms and all records on.

    .venv/bin/python tests/benchmarks/steps_over_time.py [--steps 20000]

Trains a small U-Net by one process, every step measured and recorded, and compares the steps of the first and the last
twentieth of the run, with the memory that the process held by then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM = 200  # steps that are left out at the beginning


def main() -> None:
    """Train, and print what the steps took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    steps = parser.parse_args().steps
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
    first = (times[WARM + part] - times[WARM]) / part * 1000
    last = (times[-1] - times[-1 - part]) / part * 1000
    print(f"{steps} steps: a step of the first {part} (after {WARM}) took {first:.3f} ms, of the last {last:.3f} ms")
    print(f"last / first {last / first:.3f}")
    print(f"memory: {held[len(held) // 5]:.0f} MB after a fifth of the time, {held[-2]:.0f} MB at the end")


def _megabytes(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    except OSError:
        return 0.0
    return int(fields[1]) * 4096 / 1e6 if len(fields) > 1 else 0.0


if __name__ == "__main__":
    main()
