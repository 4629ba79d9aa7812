"""Figures: measured in turns, shown, written down."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image

from distrain.bench.figures import Figure, interleaved, plot, read, table, write

FIGURES = [
    Figure("step", "whole", 31.0, 16.44, 45.7, "ms", 2),
    Figure("step", "allreduce", 0.00131, 0.001, 0.002, "ms", 2),
    Figure("start-up", "distrain launch / mpirun", 1.2345, 1.2345, 1.2345, "", 1),
]


def test_variants_take_turns_in_an_order_that_moves_on() -> None:
    order: list[str] = []
    pauses: list[int] = []

    def taking(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved(
        {name: partial(taking, name) for name in "abc"}, turns=3, done=lambda: pauses.append(len(order))
    )
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    # The turn before the first is not counted.
    assert found == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}
    assert pauses == list(range(1, 13))
    order.clear()
    found = interleaved({name: partial(taking, name) for name in "ab"}, turns=2, before=0)
    assert "".join(order) == "ab" + "ba"
    assert found == {"a": [1, 4], "b": [2, 3]}


def test_a_figure_is_the_median_and_the_range() -> None:
    assert Figure.of("step", "whole", [3.0, 1.0, 2.0, 9.0], "ms") == Figure("step", "whole", 2.5, 1.0, 9.0, "ms", 4)


def test_the_table_has_a_heading_for_each_part() -> None:
    assert table(FIGURES).splitlines() == [
        "step",
        "  whole                           31 ms           (16.4 to 45.7, 2 turns)",
        "  allreduce                  1.3e-03 ms           (1.0e-03 to 2.0e-03, 2 turns)",
        "",
        "start-up",
        "  distrain launch / mpirun      1.23",
    ]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write(tmp_path / "figures.json", FIGURES, {"workers": 2})
    assert read(tmp_path / "figures.json") == FIGURES


def test_they_are_drawn(tmp_path: Path) -> None:
    plot(tmp_path / "figures.png", FIGURES)
    with Image.open(tmp_path / "figures.png") as picture:
        assert picture.width > 500
    plot(tmp_path / "figures.svg", FIGURES)
    text = (tmp_path / "figures.svg").read_text(encoding="utf-8")
    assert "<svg" in text
