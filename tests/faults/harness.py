"""Starts real worlds, does them harm at seeded times and places, and compares with the run never touched.

Used by the tests here, with a few cases, and by `soak.py`, with many.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from distrain.cli.inspect import summarise
from tests.processes.worlds import Ended, begin_program, end, left_over, records, write_job

HOOK = Path(__file__).parent / "hook"
VARIABLE = "DISTRAIN_TEST_FAULT"
# Longer than other load on the machine keeps the thread of low priority from writing a checkpoint.
STALL_SECONDS = 12
EXAMPLES = 50
EPOCHS = 3
STATE = ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256", "step", "position", "finished")
TIMED = ("time", "examples_per_second", "data_wait_seconds")

# Dropout, an epoch's smaller last batch, checkpoints at odd places, of which few are kept.
SECTIONS: dict[str, Any] = {
    "model": {"keep_probability": 0.75},
    "train": {"epochs": EPOCHS},
    "checkpoint": {"every": 3, "keep": 2, "keep_every": 10, "best": "loss"},
    "log": {"examples": True, "predictions": 0, "tensorboard": False},
    "parallel": {"stall_timeout": f"{STALL_SECONDS} seconds"},
}

# Where a process can be killed by what it does to files: event, path, and the most times that it happens in a run.
TOUCHES = {
    "checkpoint write begins": ("os.mkdir", r"/tmp_\d+$", 5),
    "inside a checkpoint write": ("open", r"/tmp_\d+/state\.", 9),
    "before the manifest": ("open", r"/tmp_\d+/manifest\.json$", 5),
    "before the rename": ("os.rename", r"/tmp_\d+$", 5),
    "after the rename": ("open", r"/checkpoints$", 5),
    "inside pruning": ("os.remove", r"/step_\d+/manifest\.json$", 2),
}
RESTORE = ("open", r"/step_\d+/(manifest\.json|state\.)", 3)


@dataclass(frozen=True)
class World:
    """A number of workers and what starts them; `alone` without a launcher."""

    size: int
    controller: str

    @property
    def command(self) -> list[str]:
        program = [sys.executable, "-m", "distrain"]
        if self.controller == "alone":
            return program
        return [*program, "launch", "-n", str(self.size), "--controller", self.controller, "--"]

    def __str__(self) -> str:
        return "1, alone" if self.controller == "alone" else f"{self.size}, {self.controller}"


@dataclass(frozen=True)
class Case:
    """One fault in one world; `seed` draws whom it befalls and when."""

    fault: str
    world: World
    seed: int


class Bench:
    """Runs cases in a folder of its own, and knows the untouched run of each world."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = write_job(folder, **SECTIONS)
        self._whole: dict[World, tuple[Path, float]] = {}

    def whole(self, world: World) -> tuple[Path, float]:
        """The folder of the run of this world that nothing befell, and the seconds that it took."""
        if world not in self._whole:
            run, started = self.folder / f"whole-{world.size}-{world.controller}", time.monotonic()
            ended = self.start(world, run)
            assert ended.code == 0, ended
            self._whole[world] = run, time.monotonic() - started
        return self._whole[world]

    def begin(self, world: World, run: Path, fault: list[Any] | None = None) -> subprocess.Popen[str]:
        """Start the job; `fault` is for the hook."""
        more = {} if fault is None else {VARIABLE: json.dumps(fault), "PYTHONPATH": f"{HOOK}"}
        return begin_program([*world.command, "train", str(self.job), "--run-dir", str(run)], environment=more)

    def start(self, world: World, run: Path) -> Ended:
        """Run the job to its end."""
        return end(self.begin(world, run))

    def struck(self, case: Case, run: Path, codes: list[int]) -> bool:
        """True where the fault has befallen the run, whose starts ended with `codes`, as often as its name says.

        A touch leaves its mark; a signal that comes too late finds nobody, and the run ends well.
        """
        if case.fault in TOUCHES or case.fault == "during restore":
            return self._mark(run).exists()
        return all(code != 0 for code in codes)

    def trouble(self, case: Case, run: Path) -> list[int]:
        """Let the fault befall a run in `run`; returns the exit codes of the starts. The run may not be done then."""
        draw = random.Random(case.seed)
        if case.fault in TOUCHES:
            event, pattern, most = TOUCHES[case.fault]
            return [self._touched(case.world, run, [event, pattern, draw.randint(1, most)])]
        if case.fault == "during restore":
            first = self._killed(case.world, run, draw, earliest=0.6, whom="worker")
            return [first, self._touched(case.world, run, [*RESTORE[:2], draw.randint(1, RESTORE[2])])]
        if case.fault == "twice in a row":
            first = self._killed(case.world, run, draw, earliest=0.3, whom="worker")
            # Sooner: a part of the run is done already.
            return [first, self._killed(case.world, run, draw, earliest=0.1, latest=0.5, whom="worker")]
        if case.fault == "before the first step":
            return [self._killed(case.world, run, draw, latest=0.5, whom="worker")]
        if case.fault == "launcher killed":
            return [self._killed(case.world, run, draw, whom=draw.choice(["launch", "launcher"]))]
        if case.fault == "all killed":
            return [self._killed(case.world, run, draw, whom="all")]
        if case.fault == "worker killed":
            return [self._killed(case.world, run, draw, whom="worker")]
        if case.fault == "worker stopped":
            return [self._killed(case.world, run, draw, earliest=0.6, whom="worker", number=signal.SIGSTOP)]
        assert case.fault == "asked to stop", case
        number = draw.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        return [self._killed(case.world, run, draw, whom=draw.choice(["launch", "worker"]), number=number)]

    def _touched(self, world: World, run: Path, fault: list[Any]) -> int:
        return end(self.begin(world, run, [*fault, str(self._mark(run))])).code

    def _mark(self, run: Path) -> Path:
        """The file that the hook leaves where it kills."""
        return self.folder / f"{run.name}.struck"

    def _killed(
        self,
        world: World,
        run: Path,
        draw: random.Random,
        *,
        whom: str,
        number: signal.Signals = signal.SIGKILL,
        earliest: float = 0.0,
        latest: float = 1.0,
    ) -> int:
        """Send a signal at a random time of the run, as parts of the time that the whole run takes."""
        moment = draw.uniform(earliest, latest) * self.whole(world)[1]
        process = self.begin(world, run)
        time.sleep(moment)
        for one in _chosen(process, whom, draw):
            try:
                one.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        # Before the first step a stopped worker is noticed after `watch.FIRST_SECONDS`.
        return end(process).code

    def finish(self, case: Case, run: Path) -> Ended:
        """Start the same command again, untouched, to its end."""
        deadline = time.monotonic() + 60
        while left_over(run) and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.start(case.world, run)


def _chosen(process: subprocess.Popen[str], whom: str, draw: random.Random) -> list[psutil.Process]:
    try:
        own = psutil.Process(process.pid)
        everyone = [own, *own.children(recursive=True)]
        workers = [one for one in everyone if one.cmdline()[1:4] == ["-m", "distrain", "train"]]
    except psutil.NoSuchProcess:
        return []
    if whom == "all":
        return everyone
    if whom == "worker":
        return [draw.choice(workers)] if workers else []
    if whom == "launch" or len(everyone) == 1:
        return [own]
    return own.children()[:1]


def differences(run: Path, whole: Path) -> list[str]:
    """In what a run differs from the one that nothing befell; and which examples were not drawn once an epoch."""
    seen, expected = summarise(run), summarise(whole)
    found = [name for name in STATE if seen[name] != expected[name]]
    found += [kind for kind in ("step", "epoch", "validation") if _exact(run, kind) != _exact(whole, kind)]
    drawn = _drawn(run)
    if sorted(drawn) != sorted(list(range(EXAMPLES)) * EPOCHS):
        found.append("examples drawn")
    if not all(checkpoint["valid"] for checkpoint in seen["checkpoints"]):
        found.append("checkpoints not valid")
    return found


def _exact(run: Path, kind: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in one.items() if name not in TIMED} for one in records(run, kind)]


def _drawn(run: Path) -> list[int]:
    return [
        index
        for path in (run / "examples").glob("rank_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
        for index in json.loads(line)["indices"]
    ]
