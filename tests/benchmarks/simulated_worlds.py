"""How near the simulator comes to worlds that can be run on this machine: more workers, and hosts on slowed links.

    .venv/bin/python -m tests.benchmarks.simulated_worlds [--workers 2 3 4] [--links 1000 100] [--rounds 2] [--turns 4]

As root: hosts are network namespaces on a switch, each with one worker, and what leaves a host is held to so many
Mbit/s. In each round `distrain bench --only simulation` is run, from whose figures all worlds of so many workers are
predicted, and then each world. Prints predicted and measured milliseconds of a step, and their ratio, the medians of
the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from distrain.bench.figures import Figure, read
from distrain.bench.job import PER_WORKER, job_to_measure
from distrain.bench.simulate import Cluster, Link, Worker, agreement, exchange
from distrain.job.load import resolved
from distrain.world.cores import cores
from tests.clusters.hosts import Network, run, why_not

BENCH = [sys.executable, "-m", "distrain", "bench"]


def main() -> None:
    """Predict and measure, round by round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--links", type=int, nargs="+", default=[1000, 100], help="Mbit/s")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    reason = why_not()
    if reason is not None:
        raise SystemExit(reason)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for number in range(arguments.rounds):
            for workers in arguments.workers:
                fed = _fed(folder, workers, arguments.turns)
                here = (fed["predicted"].median, fed["measured"].median)
                found.setdefault(f"{workers} workers, this machine", []).append(here)
                for link in arguments.links:
                    measured = _measured(folder / f"{number}-{workers}-{link}", workers, link, arguments.turns)
                    name = f"{workers} workers, hosts on {link} Mbit/s"
                    found.setdefault(name, []).append((_predicted(fed, workers, link), measured))
                    print(f"round {number}: {name}: {found[name][-1]}", file=sys.stderr)
    for name, pairs in found.items():
        predicted, measured, ratio = (
            statistics.median(values)
            for values in zip(*((one, other, one / other) for one, other in pairs), strict=True)
        )
        print(f"{name:36} predicted {predicted:6.1f} ms, measured {measured:6.1f} ms, ratio {ratio:.3f}")


def _fed(folder: Path, workers: int, turns: int) -> dict[str, Figure]:
    """What the simulator was fed with, by name; "predicted" and "measured" are those of `workers` here."""
    path = folder / "fed.json"
    words = ["-n", str(workers), "--only", "simulation", "--turns", str(turns), "--json", str(path)]
    subprocess.run([*BENCH, *words], check=True, stdout=subprocess.DEVNULL)
    return {figure.name.removeprefix(f"{workers} workers here, "): figure for figure in read(path)}


def _predicted(fed: dict[str, Figure], workers: int, link: int) -> float:
    """Milliseconds of a step of workers on hosts of their own, but on the cores of this machine."""
    own = Link(fed["a message here: latency"].median / 1e6, fed["a message here: bandwidth"].median * 1e9 / 8)
    cluster = Cluster(own, Link(0.0, link * 1e6 / 8), agreeing=agreement(own, workers))
    worker = Worker(fed["a step alone"].median / 1000, fed["its deviation"].median / 1000)
    step = worker.crowded(workers, cores()).slowest_of(workers)
    return 1000 * (step + exchange(fed["its gradients"].median, workers, cluster))


def _measured(folder: Path, workers: int, link: int, turns: int) -> float:
    """Milliseconds of a step, measured on hosts of one worker each."""
    folder.mkdir()
    job, figures, ssh = folder / "job.yaml", folder / "figures.json", folder / "ssh"
    job.write_text(yaml.safe_dump(resolved(job_to_measure(None, [], workers=workers))))
    with Network(folder / "network") as network:
        for number in range(workers):
            host = network.add(f"host-{number}")
            run("ip", "-n", host.namespace, "link", "set", "lo", "up")
            held = f"qdisc add dev eth0 root tbf rate {link}mbit burst 128kb latency 500ms"
            run("tc", "-n", host.namespace, *held.split())
        # Enters a host's network, under the host's own name, and nothing else of it.
        inside = f'hostname "$HOST"; mount --bind {network.hosts_file} /etc/hosts; exec sh -c "$0"'
        ssh.write_text(
            "#!/bin/sh\nHOST=\n"
            "while case $1 in\n"
            "  -o | -p | -i) shift ;;\n"
            "  -*) ;;\n"
            '  *) [ -z "$HOST" ] && export HOST=$1 ;;\n'
            "esac; do shift; done\n"
            f'exec ip netns exec "{network.prefix}-$((${{HOST#host-}} + 1))" '
            f"unshare --uts --mount sh -c '{inside}' \"$*\"\n"
        )
        ssh.chmod(0o755)
        named = ",".join(f"{host.name}:1" for host in network.hosts)
        command = [sys.executable, "-m", "distrain", "launch", "--hosts", named, "--", *BENCH[3:], str(job)]
        command += ["-o", f"train.batch_size={PER_WORKER * workers}", "--only", "steps", "--turns", str(turns)]
        command += ["--inside", str(folder / "run"), "--json", str(figures)]
        done = subprocess.run(
            [str(ssh), network.hosts[0].name, shlex.join(command)],
            env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return float(json.loads(figures.read_text())["figures"][0]["median"])


if __name__ == "__main__":
    main()
