"""The whole service against what else there is, over the same U-Net on the same cores, in turns.

    .venv/bin/python tests/benchmarks/peers.py [--rounds 5] [--workers 2] [--steps 40] [--torch PYTHON]

In each round every one of them starts its processes, makes 40 steps of a batch of 4 images of 172 x 172 a worker, with
one thread a worker, and tells the median of the last 30: distrain with everything on (data, statistics, records,
TensorBoard), by Gloo and by MPI; MultiWorkerMirroredStrategy, and with PYTHON, which has it, PyTorch's
DistributedDataParallel, both with one batch from memory and nothing recorded; with one worker the trainer of 2016 too,
its running average and norms on. Prints medians over the rounds, and ratios.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

OTHERS = Path(__file__).parent / "others"
LAST = 30


def main() -> None:
    """Run the rounds and print what they gave."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--torch", help="a Python that has PyTorch")
    arguments = parser.parse_args()
    workers, steps = arguments.workers, arguments.steps
    kinds: dict[str, Callable[[], float]] = {
        "distrain, Gloo": lambda: ours("gloo", workers, steps),
        "distrain, MPI": lambda: ours("mpi", workers, steps),
        "MultiWorkerMirroredStrategy": lambda: other("multi_worker_strategy.py", sys.executable, workers, steps),
    }
    if workers == 1:
        kinds["the trainer of 2016"] = lambda: other("origin.py", sys.executable, workers, steps)
    if arguments.torch:
        kinds["PyTorch DDP"] = lambda: other("torch_ddp.py", arguments.torch, workers, steps)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    for turn in range(arguments.rounds):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            seconds[name].append(kinds[name]())
            print(f"{name}: {1000 * seconds[name][-1]:.1f} ms", flush=True)
    print()
    for name, values in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(values, seconds[names[0]], strict=True)]
        shown = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"{name:30} {1000 * statistics.median(values):6.1f} ms a step; against {names[0]}: {shown}")


def ours(controller: str, workers: int, steps: int) -> float:
    """The median step of the service, from its own log."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.yaml"
        job.write_text(
            json.dumps(
                {
                    "data": {"train": {"provider": "circles", "examples": 100_000, "size": 172}},
                    "train": {"batch_size": 4 * workers, "steps": steps},
                    "optimizer": {"name": "momentum", "learning_rate": 0.2, "momentum": 0.2},
                    "parallel": {"threads": 1},
                }
            ),
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "distrain", "launch", "-n", str(workers), "--controller", controller, "--"]
        run = Path(folder) / "run"
        subprocess.run([*command, "train", str(job), "--run-dir", str(run)], stdout=subprocess.DEVNULL, check=True)
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        made = [record for record in map(json.loads, lines) if record["kind"] == "step"]
        seconds: list[float] = [4 * workers / record["examples_per_second"] for record in made[-LAST:]]
        return statistics.median(seconds)


def other(script: str, python: str, workers: int, steps: int) -> float:
    """The median step that rank 0 of such a world tells."""
    ports = ",".join(str(port) for port in free_ports(workers))
    started = [
        subprocess.Popen(
            [python, str(OTHERS / script), str(rank), ports, str(steps)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(workers)
    ]
    # One that fails leaves the others waiting for it.
    while any(process.poll() is None for process in started) and not any(process.poll() for process in started):
        time.sleep(0.1)
    if any(process.returncode for process in started):
        for process in started:
            process.kill()
        raise SystemExit(f"{script} has failed")
    told = [process.communicate()[0] for process in started]
    seconds: list[float] = json.loads(told[0].strip().splitlines()[-1])
    return statistics.median(seconds[-LAST:])


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    main()
