"""What is measured from outside, by starting worlds: how throughput grows with workers, and how long a start takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from distrain.bench.figures import Figure, interleaved, read
from distrain.bench.simulate import Cluster, Failures, Link, Worker, agreement, fitted, predict, ring
from distrain.errors import RunFailed
from distrain.launcher.command import World, start_program

PAUSE_SECONDS = 0.02
ENDING_SECONDS = 40.0
STEPS = 10  # of a turn
RATES = 4  # turns of a world whose throughput is compared with another's
SIZES = (1 << 10, 1 << 14, 1 << 18, 1 << 22, 25_000_000)  # float32 numbers that are exchanged


@dataclass(frozen=True)
class Network:
    """What worlds that are not here are made of: seconds, bytes a second, workers on a host, how they fail."""

    latency: float
    bandwidth: float
    per_host: int = 1
    failures: Failures | None = None


class Outside:
    """Starts worlds of `distrain bench` itself, with the `job.yaml` that is in `folder`."""

    def __init__(self, folder: Path, *, controller: str, turns: int) -> None:
        self._folder = folder
        self._controller = controller
        self._turns = turns
        self._number = 0
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Outside:
        return self

    def __exit__(self, *ending: object) -> None:
        """Leave no process behind, however the measuring ended."""
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.communicate(timeout=ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()

    def inside(self, parts: Sequence[str], workers: int, *, batch_size: int | None = None) -> list[Figure]:
        """The figures of parts that are measured inside a world of so many workers. Raises `RunFailed`."""
        process, figures = self._start(parts, workers, self._turns, batch_size)
        self._end(process)
        return read(figures)

    def scaling(self, workers: int, batch_size: int) -> list[Figure]:
        """Examples per second of 1 to `workers` workers; weak: each its own batch; strong: they share one.

        Efficiency is against as many processes side by side that have nothing to do with each other: what the
        machine's memory and clock give to so many.
        """
        counts = sorted({1, 2, workers} & set(range(1, workers + 1)))
        each = batch_size // workers
        kinds: dict[str, Callable[[], float]] = {}
        for count in counts:
            kinds[f"weak, {count}"] = partial(self._rate, count, each * count)
            kinds[f"strong, {count}"] = partial(self._rate, count, batch_size)
            if count > 1:
                kinds[f"side by side, {count}"] = partial(self._side_by_side, count, each)
        # Each world makes its own steps before it counts any.
        rates = interleaved(kinds, turns=max(min(2, self._turns), self._turns // 4), before=0)
        figures = [Figure.of("scaling", name, values, "examples/s") for name, values in rates.items()]
        for count in counts[1:]:
            weak = zip(rates[f"weak, {count}"], rates[f"side by side, {count}"], strict=True)
            strong = zip(rates[f"strong, {count}"], rates["strong, 1"], strict=True)
            weak_ratios = [ours / theirs for ours, theirs in weak]
            strong_ratios = [ours / one / count for ours, one in strong]
            figures.append(Figure.of("scaling", f"weak efficiency, {count} / side by side", weak_ratios, ""))
            figures.append(Figure.of("scaling", f"strong efficiency, {count} / 1", strong_ratios, ""))
        return figures

    def simulation(self, workers: int, batch_size: int, network: Network, room: int) -> list[Figure]:
        """What worlds of 2 to 4096 workers would come to, and how well the same says what was measured here.

        A step of one worker, beside as many others as have a core here (`room` in all), and the exchange of `workers`
        are measured; the one prediction that can be is compared with what was.
        """
        turns, each = self._turns, batch_size // workers
        alone = {figure.name: figure for figure in self._together("steps", min(workers, room), turns, each)[0]}
        together = self.inside(["steps", "allreduce"], workers, batch_size=batch_size)
        measured = next(figure for figure in together if figure.name == "a step")
        size = alone["gradients"].median
        times = {figure.name: figure.median / 1000 for figure in together if figure.name.startswith("Horovod")}
        sizes = [float(4 * count) for count in SIZES]
        here = fitted(sizes, list(times.values()), workers)
        step = alone["a step"]
        bounds = [value / 1000 for value in (step.median, step.low, step.high)]
        deviation = alone["deviation"].median / 1000
        # Exchanges here are a ring's by what was fitted to them.
        crowded = Worker(bounds[0], deviation).crowded(workers, room)
        tried = 1000 * (crowded.slowest_of(workers) + ring(size, workers, here))
        figures = [
            replace(step, part="simulation", name="a step alone"),
            Figure.of("simulation", "its deviation", [1000 * deviation], "ms"),
            Figure.of("simulation", "its gradients", [size], "bytes"),
            Figure.of("simulation", "a message here: latency", [1e6 * here.latency], "us"),
            Figure.of("simulation", "a message here: bandwidth", [8e-9 * here.bandwidth], "Gbit/s"),
            replace(measured, part="simulation", name=f"{workers} workers here, measured"),
            Figure.of("simulation", f"{workers} workers here, predicted", [tried], "ms"),
            Figure.of("simulation", f"{workers} workers here, predicted / measured", [tried / measured.median], ""),
        ]
        cluster = Cluster(
            Link(0.0, here.bandwidth),
            Link(network.latency, network.bandwidth),
            per_host=network.per_host,
            agreeing=agreement(here, workers),
        )
        failures = network.failures
        for count in (2**power for power in range(1, 13)):
            spread = [predict([count], Worker(bound, deviation), size, cluster, failures)[0] for bound in bounds]
            values = [one.efficiency * one.goodput for one in spread]
            what = "efficiency" if failures is None else "efficiency x goodput"
            name = f"{what}, {count} workers"
            figures.append(Figure("simulation", name, values[0], min(values), max(values), "", step.turns))
        return figures

    def startup(self, workers: int) -> list[Figure]:
        """From the command to the end of the first step: `distrain launch`, and a bare program under mpirun."""
        ours = [sys.executable, "-m", "distrain", "launch", "-n", str(workers), "--controller", self._controller, "--"]

        def launch() -> float:
            self._number += 1
            run = self._folder / f"start-{self._number}"
            began = time.monotonic()
            short = ["-o", "train.steps=2", "-o", "log.tensorboard=false", "-o", "log.every=1"]
            process = self._popen([*ours, "train", str(self._folder / "job.yaml"), *short, "--run-dir", str(run)])
            log = run / "metrics.jsonl"
            while not (log.exists() and '"kind": "step"' in log.read_text(encoding="utf-8")):
                if process.poll() is not None:
                    break
                time.sleep(PAUSE_SECONDS)
            seconds = time.monotonic() - began
            self._end(process)
            return seconds

        program = [sys.executable, "-m", "distrain.bench.bare", str(self._folder / "job.yaml")]
        bare = start_program(World(workers, controller="mpi"), program, {})

        def mpirun() -> float:
            began = time.monotonic()
            process = self._popen(bare.arguments)
            assert process.stdout is not None
            process.stdout.readline()
            seconds = time.monotonic() - began
            self._end(process)
            return seconds

        seconds = interleaved({"distrain launch": launch, "mpirun of a bare program": mpirun}, turns=self._turns)
        ratios = [one / two for one, two in zip(*seconds.values(), strict=True)]
        return [
            *(Figure.of("start-up", name, values, "s") for name, values in seconds.items()),
            Figure.of("start-up", "distrain launch / mpirun", ratios, ""),
        ]

    def _rate(self, workers: int, batch_size: int) -> float:
        process, figures = self._start(["throughput"], workers, RATES, batch_size)
        self._end(process)
        return read(figures)[0].median

    def _side_by_side(self, count: int, batch_size: int) -> float:
        return sum(figures[0].median for figures in self._together("throughput", count, RATES, batch_size))

    def _together(self, part: str, count: int, turns: int, batch_size: int) -> list[list[Figure]]:
        """The figures of so many worlds of one worker, measured at the same time."""
        self._number += 1
        place = self._folder / f"meeting-{self._number}"
        place.mkdir()
        started = [self._start([part], 1, turns, batch_size, beside=(place, count)) for _ in range(count)]
        for process, _ in started:
            self._end(process)
        return [read(figures) for _, figures in started]

    def _start(
        self,
        parts: Sequence[str],
        workers: int,
        turns: int,
        batch_size: int | None,
        beside: tuple[Path, int] | None = None,
    ) -> tuple[subprocess.Popen[str], Path]:
        self._number += 1
        figures = self._folder / f"figures-{self._number}.json"
        run = self._folder / f"run-{self._number}"
        worker = ["bench", str(self._folder / "job.yaml"), *[word for part in parts for word in ("--only", part)]]
        worker += ["--turns", str(turns), "--inside", str(run), "--json", str(figures)]
        if beside is not None:
            worker += ["--meeting", str(beside[0]), "--beside", str(beside[1])]
        if batch_size is not None:
            worker += ["-o", "train.batch_size_per_worker=null", "-o", f"train.batch_size={batch_size}"]
        if workers == 1:
            command = [sys.executable, "-m", "distrain", *worker]
        else:
            command = [sys.executable, "-m", "distrain", "launch", "-n", str(workers)]
            command += ["--controller", self._controller, "--", *worker]
        return self._popen(command), figures

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise RunFailed(f"{command[0]} cannot be started ({error.strerror})") from error
        self._running.append(process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        _, errors = process.communicate()
        self._running.remove(process)
        if process.returncode:
            last = (errors.strip().splitlines() or ["without a word"])[-1]
            raise RunFailed(f"a world that was started to be measured has failed: {last.removeprefix('distrain: ')}")
