"""Durations: what can be written, what it means, when it is due."""

from __future__ import annotations

import pytest

from distrain.job.duration import Cursor, Duration


@pytest.mark.parametrize(
    ("written", "amount", "unit"),
    [
        (120, 120, "step"),
        ("120", 120, "step"),
        ("1 step", 1, "step"),
        ("2 epochs", 2, "epoch"),
        (" 5000  Examples ", 5000, "example"),
        ("1.5 minutes", 1.5, "minute"),
        ("10minutes", 10, "minute"),
    ],
)
def test_reads_what_people_write(written: object, amount: float, unit: str) -> None:
    assert Duration.parse(written) == Duration(amount, unit)


@pytest.mark.parametrize("written", [0, -1, 2.5, True, None, [], "", "two epochs", "1.5 epochs", "3 moons", "-2 steps"])
def test_refuses_the_rest(written: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Duration.parse(written)


@pytest.mark.parametrize("written", ["1 step", "2 epochs", "1.5 minutes"])
def test_is_written_as_it_is_read(written: str) -> None:
    assert str(Duration.parse(written)) == written


@pytest.mark.parametrize(("written", "steps"), [("7 steps", 7), ("2 epochs", 14), ("9 examples", 3), ("1 example", 1)])
def test_in_steps(written: str, steps: int) -> None:
    assert Duration.parse(written).steps(batch_size=4, epoch_steps=7) == steps


def test_time_is_no_number_of_steps() -> None:
    with pytest.raises(ValueError, match="10 minutes"):
        Duration.parse("10 minutes").steps(batch_size=4, epoch_steps=7)


@pytest.mark.parametrize(
    ("written", "before", "after", "due"),
    [
        ("5 steps", Cursor(4, 0), Cursor(5, 0), True),
        ("5 steps", Cursor(5, 0), Cursor(6, 0), False),
        ("1 epoch", Cursor(0, 48), Cursor(0, 50), True),
        ("1 epoch", Cursor(0, 43), Cursor(0, 49), False),
        ("2 epochs", Cursor(0, 48), Cursor(0, 50), False),
        ("10 examples", Cursor(0, 8), Cursor(0, 16), True),
        ("1 minute", Cursor(0, 0, 59.9), Cursor(0, 0, 60.1), True),
        ("1 minute", Cursor(0, 0, 60.1), Cursor(0, 0, 119), False),
    ],
)
def test_due(written: str, before: Cursor, after: Cursor, due: bool) -> None:
    assert Duration.parse(written).due(before, after, epoch_examples=50) is due
