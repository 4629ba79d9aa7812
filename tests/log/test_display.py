"""What is shown: plain lines for a file, a bar for a terminal."""

from __future__ import annotations

import io

import pytest

from distrain.log import display
from distrain.log.display import Display
from distrain.log.terminal import TERMINAL_COLUMNS


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TERMINAL_COLUMNS, raising=False)


def test_lines_are_plain_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    shown = Display(100, 20, stream)
    shown.step(21, 1, 0.51234)
    shown.line("validation after epoch 1")
    shown.close()
    first, second = stream.getvalue().splitlines()
    assert first.startswith("step 21 of 100, epoch 1, loss 0.5123, 0:0")
    assert second == "validation after epoch 1"
    assert "\r" not in stream.getvalue()


def test_plain_lines_come_now_and_then_only() -> None:
    stream = io.StringIO()
    shown = Display(1000, 0, stream)
    for step in range(1, 1000):
        shown.step(step, 0, 1.0)
    shown.close()
    assert stream.getvalue() == ""


def test_the_launchers_terminal_gets_a_bar_of_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERMINAL_COLUMNS, "80")
    stream = io.StringIO()
    shown = Display(10, 4, stream)
    for step in range(5, 11):
        shown.step(step, 2, 0.25)
    shown.line("a line of its own")
    shown.close()
    pieces = stream.getvalue().replace("\n", "\r").split("\r")
    assert "a line of its own" in pieces
    assert "10/10" in stream.getvalue()
    assert "epoch 2, loss 0.2500" in stream.getvalue()
    assert max(map(len, pieces)) <= 80


def test_a_bar_of_a_run_that_goes_on_begins_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TERMINAL_COLUMNS, "80")
    stream = io.StringIO()
    Display(10, 4, stream).close()
    assert "4/10" in stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (9.6, "0:10"), (59.7, "1:00"), (3725, "62:05")])
def test_time_left(seconds: float, text: str) -> None:
    assert display._clock(seconds) == text
