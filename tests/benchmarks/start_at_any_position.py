"""Starting at position 10^12 of a provider of 10^9 examples against starting at 0: time and memory.

    .venv/bin/python tests/benchmarks/start_at_any_position.py [--turns 200]

Both, in turns: make the batches of a run that stands there, take the first, end. Prints the medians and their ratio,
and the peak memory of a process that does it 100 times, for each. The provider makes a tiny image of an index, so that
the start is what counts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

from distrain.data.batches import Batches, Plan
from distrain.data.provider import Example, ExampleSpec
from distrain.data.source import Source
from distrain.world.topology import World

EXAMPLES = 10**9
PLACES = (0, 10**12)


class Huge:
    """10^9 examples that cost nothing."""

    spec = ExampleSpec((8, 8, 1), (), 2)

    def __len__(self) -> int:
        return EXAMPLES

    def read(self, index: int) -> Example:
        return Example(np.full((8, 8, 1), index % 7, np.float32), np.asarray(index % 2, np.int32))


def main() -> None:
    """Take turns and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--at", type=int, help="only start there, 100 times, and print the peak memory in KiB")
    arguments = parser.parse_args()
    if arguments.at is not None:
        for _ in range(100):
            start(arguments.at)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    turns = arguments.turns
    seconds: dict[int, list[float]] = {place: [] for place in PLACES}
    for turn in range(turns + 1):
        # Who goes first changes from turn to turn.
        for place in PLACES if turn % 2 else PLACES[::-1]:
            began = time.perf_counter()
            start(place)
            if turn:
                seconds[place].append(time.perf_counter() - began)
    peaks = {place: statistics.median(peak(place) for _ in range(5)) for place in PLACES}
    for place in PLACES:
        print(f"position {place}: {statistics.median(seconds[place]) * 1e3:.3f} ms, {peaks[place] / 1024:.1f} MiB")
    ratios = [late / early for early, late in zip(*(seconds[place] for place in PLACES), strict=True)]
    print(
        f"ratio of the times: median {statistics.median(ratios):.3f}, of the memory {peaks[PLACES[1]] / peaks[0]:.3f}"
    )


def start(position: int) -> None:
    """As a run does that stands at a position."""
    provider = Huge()
    source = Source(provider, provider.spec, lambda example, index, epoch: example)
    batches = Batches(source, Plan(7, 64, "keep"), World(1, 3, 1, 3), position)
    local = batches.next()
    assert local.batch.start == position
    batches.close()


def peak(position: int) -> int:
    """The peak resident memory of a process of its own, in KiB."""
    command = [sys.executable, __file__, "--at", str(position)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
