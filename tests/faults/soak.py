"""Many seeded faults, one after the other, and a table of them: `make soak`.

Each case is one run of a small job that something befalls; the same command is started again until the run is done, and
the result is compared with the run of the same world that nothing befell. A fault that misses, since the run was over
sooner, is tried again at another moment: runs that nothing befell are equal too, and prove nothing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from distrain.errors import EXIT_FAILED
from tests.faults.harness import TOUCHES, Bench, Case, World, differences
from tests.processes.worlds import Ended

ALONE = World(1, "alone")
WORLDS = {
    ALONE: 6,
    World(1, "gloo"): 1,
    World(2, "gloo"): 3,
    World(2, "mpi"): 2,
    World(3, "gloo"): 1,
    World(3, "mpi"): 1,
}
FAULTS = (
    "before the first step",
    "worker killed",
    "asked to stop",
    *TOUCHES,
    "during restore",
    "twice in a row",
    "all killed",
    "launcher killed",
    "worker stopped",
)
# A process alone does not notice that it was stopped, and has no launcher.
NOT_ALONE = ("launcher killed", "worker stopped")
TRIES = 3
# The parts of all cases, and of those of each fault, that a fault must have befallen.
LEAST_STRUCK = 0.9
LEAST_STRUCK_OF_EACH = 0.5


def cases(count: int, seed: int) -> list[Case]:
    """The first `count` cases: faults in turn, in worlds drawn by their weights."""
    draw = random.Random(seed)
    found: list[Case] = []
    for number in range(count):
        fault = FAULTS[number % len(FAULTS)]
        world = draw.choices(list(WORLDS), list(WORLDS.values()))[0]
        while (fault in NOT_ALONE and world == ALONE) or (fault == "worker stopped" and world.size == 1):
            world = draw.choices(list(WORLDS), list(WORLDS.values()))[0]
        found.append(Case(fault, world, seed * 1000 + number))
    return found


def befall(bench: Bench, case: Case, run: Path) -> tuple[list[int], bool]:
    """Let the fault befall a run, at another moment where it missed; the exit codes, and whether it struck."""
    codes: list[int] = []
    for attempt in range(TRIES):
        shutil.rmtree(run, ignore_errors=True)
        codes = bench.trouble(replace(case, seed=case.seed + attempt * 1_000_000), run)
        if bench.struck(case, run, codes):
            return codes, True
    return codes, False


def shortcomings(faults: Counter[str], struck: Counter[str], equal: Counter[str]) -> list[str]:
    """Why so many cases of each fault, of which so many were struck and so many ended equal, prove too little."""
    found = []
    if equal.total() < faults.total():
        found.append(f"{faults.total() - equal.total()} of {faults.total()} cases did not end equal")
    if struck.total() < LEAST_STRUCK * faults.total():
        found.append(f"{struck.total()} of {faults.total()} cases were struck, expected at least {LEAST_STRUCK:.0%}")
    found += [
        f"{struck[fault]} of {count} cases of '{fault}' were struck, expected at least {LEAST_STRUCK_OF_EACH:.0%}"
        for fault, count in faults.items()
        if struck[fault] < LEAST_STRUCK_OF_EACH * count
    ]
    return found or ([] if faults else ["no cases were run"])


def main() -> int:
    """Run the cases; the exit code is 0 where the faults struck and all ended equal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=112)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    faults: Counter[str] = Counter()
    equal: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    worlds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        bench = Bench(Path(folder))
        for number, case in enumerate(cases(arguments.count, arguments.seed)):
            whole, _ = bench.whole(case.world)
            started, run = time.monotonic(), bench.folder / f"run-{number}"
            try:
                codes, hit = befall(bench, case, run)
                ended = bench.finish(case, run)
            except AssertionError as hang:  # the other cases are worth running all the same
                codes, hit, ended = [], True, Ended(EXIT_FAILED, "", str(hang))
            different = [f"exit code {ended.code}"] if ended.code else differences(run, whole)
            faults[case.fault] += 1
            worlds[str(case.world)] += 1
            equal[case.fault] += not different
            struck[case.fault] += hit
            seconds = time.monotonic() - started
            print(
                f"{number + 1:4} {case.fault}, {case.world} (seed {case.seed}): exit codes {codes}"
                f"{'' if hit else ', NOT STRUCK'}, then {ended.code}, {seconds:.0f} s: "
                f"{'equal' if not different else 'DIFFERENT: ' + ', '.join(different)}",
                flush=True,
            )
            if different:
                print(ended.errors[-3000:], flush=True)
            else:
                shutil.rmtree(run)
    print("\n| fault | count | struck | equal |\n|---|---|---|---|")
    for fault in FAULTS:
        print(f"| {fault} | {faults[fault]} | {struck[fault]} | {equal[fault]} |")
    print(f"| all | {faults.total()} | {struck.total()} | {equal.total()} |")
    print("\nworkers: " + "; ".join(f"{world}: {count}" for world, count in worlds.items()))
    short = shortcomings(faults, struck, equal)
    for line in short:
        print(f"falls short: {line}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
