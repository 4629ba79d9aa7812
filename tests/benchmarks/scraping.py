"""What it costs to be scraped: a real run, asked for /metrics once a second in every other turn.

    .venv/bin/python tests/benchmarks/scraping.py [--turns 10] [--seconds 15]

Prints the time of a step with and without scraping and the ratio of the two, over pairs of turns of one run. Nothing of
the run is kept.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from itertools import pairwise
from pathlib import Path

JOB = Path(__file__).parents[2] / "launch" / "jobs" / "circles.yaml"


def main() -> None:
    """Train, scrape in every other turn, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=10, help="pairs of turns")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of a turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = ["log.serve=0", "log.tensorboard=false", "train.epochs=null", "train.steps=1000000"]
        overrides = [word for option in (*options, "data.validation=null") for word in ("-o", option)]
        command = [sys.executable, "-m", "distrain", "launch", "-n", "2", "--", "train", str(JOB), *overrides]
        process = subprocess.Popen([*command, "--run-dir", str(run)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        url = next(found[1] for line in process.stdout if (found := re.search(r"live at (http://\S+/)", line)))
        threading.Thread(target=lambda stream: [None for _ in stream], args=[process.stdout], daemon=True).start()
        time.sleep(20)  # traced, and at speed
        turns: list[tuple[bool, float, float]] = []
        for number in range(2 * arguments.turns):
            scraped = number % 4 in (1, 2)  # so that a drift of the machine's speed falls on both alike
            began = time.time()
            while time.time() < began + arguments.seconds:
                if scraped:
                    with urllib.request.urlopen(f"{url}metrics", timeout=10) as answer:  # noqa: S310 (the run's own)
                        answer.read()
                time.sleep(1)
            turns.append((scraped, began, time.time()))
        process.terminate()
        process.wait()
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = [record["time"] for record in map(json.loads, lines) if record["kind"] == "step"]
    speeds = [
        (scraped, statistics.median(after - before for before, after in pairwise(inside)))
        for scraped, began, ended in turns
        if (inside := [moment for moment in times if began <= moment < ended])
    ]
    ratios = []
    for first, second in zip(speeds[::2], speeds[1::2], strict=True):
        without, with_it = (first, second) if second[0] else (second, first)
        ratios.append(with_it[1] / without[1])
        print(f"step: {1000 * without[1]:.1f} ms, scraped {1000 * with_it[1]:.1f} ms, ratio {ratios[-1]:.4f}")
    print(f"scraped / not: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    main()
