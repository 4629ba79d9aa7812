"""What is made of figures that worlds give; the worlds themselves are those of tests/processes/test_bench.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrain.bench.figures import Figure
from distrain.bench.outside import SIZES, Network, Outside
from distrain.bench.simulate import Link, ring

LINK = Link(latency=1e-4, bandwidth=1e9)


@pytest.mark.parametrize(
    ("workers", "room", "computing"),
    # Of normal values the slower of two is 0.5 to 0.6 deviations late; three on two cores have work for one and a half.
    [(2, 2, 100 + 0.564 * 4), (3, 2, 150), (4, 2, 200)],
)
def test_what_was_measured_here_is_predicted(
    workers: int, room: int, computing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    size = 1e6
    exchanging = 1000 * ring(size, workers, LINK)

    def together(part: str, count: int, turns: int, batch_size: int) -> list[list[Figure]]:
        asked.append((part, count, batch_size))
        step = Figure("steps", "a step", 100, 98, 104, "ms", 80)
        other = [Figure.of("steps", "deviation", [4], "ms"), Figure.of("steps", "gradients", [size], "bytes")]
        return [[step, *other]] * count

    def inside(parts: list[str], count: int, *, batch_size: int) -> list[Figure]:
        asked.append((*parts, count, batch_size))
        times = [1000 * ring(4 * numbers, workers, LINK) for numbers in SIZES]
        found = [
            Figure.of("allreduce", f"Horovod {numbers}", [time], "ms")
            for numbers, time in zip(SIZES, times, strict=True)
        ]
        return [Figure.of("steps", "a step", [computing + exchanging], "ms"), *found]

    outside = Outside(tmp_path, controller="gloo", turns=8)
    monkeypatch.setattr(outside, "_together", together)
    monkeypatch.setattr(outside, "inside", inside)
    figures = outside.simulation(workers, 4 * workers, Network(latency=2e-5, bandwidth=1.25e9), room)
    # No more beside each other than have a core.
    assert asked == [("steps", min(workers, room), 4), ("steps", "allreduce", workers, 4 * workers)]
    found = {figure.name: figure for figure in figures}
    assert found["a message here: latency"].median == pytest.approx(100)
    assert found["a message here: bandwidth"].median == pytest.approx(8)
    assert found[f"{workers} workers here, predicted / measured"].median == pytest.approx(1, rel=2e-3)
    efficiencies = [figure for name, figure in found.items() if name.startswith("efficiency")]
    assert len(efficiencies) == 12
    assert all(figure.low <= figure.median <= figure.high for figure in efficiencies)
