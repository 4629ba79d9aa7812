"""Running a launcher: what is passed on, what is held back, and exit codes; with small real processes."""

from __future__ import annotations

import signal
import sys

import pytest

from distrain.errors import BadInput
from distrain.launcher.command import Command
from distrain.launcher.execute import execute, shown


def run(script: str, *, prefixed: bool = True) -> int:
    return execute(Command(["sh", "-c", script], {}), prefixed=prefixed, stop_signal=signal.SIGTERM)


def test_workers_lines_lose_their_prefix_and_progress_bars_move(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code = run(r"printf '[0]<stdout>:a\r[0]<stdout>:b\n[12]<stdout>:[1]<stderr>:c\n'; printf '[1]<stderr>:oh\n' >&2")
    sys.stdout.flush()
    output, errors = capfdbinary.readouterr()
    assert (code, output, errors) == (0, b"a\rb\n[1]<stderr>:c\n", b"oh\n")


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_the_launchers_own_lines_are_held_where_workers_have_spoken(
    code: int, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run(f"echo '[0]<stderr>:why' >&2; echo own; echo own >&2; exit {code}") == code
    assert capfdbinary.readouterr() == (b"", b"why\n")


def test_and_shown_where_nobody_has(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("echo own >&2; exit 7") == 7
    _, errors = capfdbinary.readouterr()
    assert errors == b"own\ndistrain: the workers ended with exit code 7\n"


def test_unprefixed_output_passes_as_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("printf 'a\\nrest without end'", prefixed=False) == 0
    assert capfdbinary.readouterr()[0] == b"a\nrest without end"


def test_a_launcher_that_was_killed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("kill -9 $$") == 137


def test_no_such_launcher() -> None:
    with pytest.raises(BadInput, match="nowhere is not there"):
        execute(Command(["/nowhere"], {}), prefixed=True, stop_signal=signal.SIGTERM)


def test_the_line_can_be_pasted_into_a_shell() -> None:
    assert shown(Command(["mpirun", "--mca", "btl", "^openib"], {"A": "b c"})) == "A='b c' mpirun --mca btl '^openib'"
