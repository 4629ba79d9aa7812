"""Running a launcher: what is passed on, what is held back, and exit codes; with small real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.errors import LEFT, BadInput
from distrain.launcher.command import Command
from distrain.launcher.execute import Ended, execute, last_words, shown


def run(script: str, *, prefixed: bool = True) -> int:
    return ended(script, prefixed=prefixed).code


def ended(script: str, *, prefixed: bool = True) -> Ended:
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
    assert ended("echo own >&2; exit 7") == Ended(1, ["distrain: the workers ended with exit code 7"])
    assert capfdbinary.readouterr()[1] == b"own\n"


def test_what_the_launcher_has_refused_is_shown_at_once(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    refused = "horovod: the rendezvous server refused PUT /a/b HTTP/1.1 from 10.0.0.9:1: why"
    assert run(f"echo 'WARNING:root:{refused}' >&2; echo own >&2; exit 0") == 0
    assert capfdbinary.readouterr()[1].decode() == f"{refused}\n"


def test_unprefixed_output_passes_as_it_is(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run("printf 'a\\nrest without end'", prefixed=False) == 0
    assert capfdbinary.readouterr()[0] == b"a\nrest without end"


def test_workers_go_on_where_nobody_reads_what_they_print() -> None:
    """As under `| head`: what is read no more is dropped, not left in the pipe, where it would stop them."""
    program = (
        "import signal; from distrain.launcher.command import Command; from distrain.launcher.execute import execute\n"
        "command = Command(['sh', '-c', 'yes | head -c 5000000; exit 75'], {})\n"
        "raise SystemExit(execute(command, prefixed=False, stop_signal=signal.SIGTERM).code)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(60) == 75


def test_a_launcher_that_was_killed(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert ended("kill -9 $$") == Ended(1, ["distrain: the workers ended with exit code 137"])


SAID = "distrain: rank 1, after step 3: RuntimeError: the roof is on fire"
LOST_IT = "distrain: rank 0, after step 3: lost another rank"


@pytest.mark.parametrize(
    ("words", "own", "expected"),
    [
        ([SAID, LOST_IT], "", [SAID]),
        ([LOST_IT, SAID], "", [SAID]),
        ([SAID, "distrain: rank 2: late", SAID], "", ["distrain: rank 2: late", SAID]),
        ([LOST_IT], "horovodrun: process 1 was the first to fail, with exit code 134", "rank 1 was killed (SIGABRT)"),
        ([LOST_IT], "horovodrun: process 1 was the first to fail, with exit code 7", "rank 1 ended with exit code 7"),
        ([], "mpirun noticed that process rank 2 with PID 0 on node h exited on signal 11 (..).", "rank 2 was killed"),
        ([], "to do so was:\n\n  Process name: [[28684,1],5]\n  Exit code:    9\n---", "rank 5 ended with exit code 9"),
    ],
)
def test_the_first_failure_is_told_last_and_once(words: list[str], own: str, expected: list[str] | str) -> None:
    told = last_words(words, own, 1)
    if isinstance(expected, list):
        assert told == expected
        return
    assert told[0].startswith(f"distrain: {expected}")
    assert told[0].endswith("after step 3") is bool(words)


def test_nothing_is_made_up_where_workers_have_spoken() -> None:
    assert last_words([], "", 75) == []
    assert last_words([LOST_IT], "", 75) == []


def test_last_words_are_held_back_and_the_rest_passes(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    script = f"echo '[1]<stderr>:{SAID}' >&2; echo '[0]<stderr>:late' >&2; echo '[0]<stdout>:distrain: x'; exit 1"
    assert ended(script) == Ended(1, [SAID])
    assert capfdbinary.readouterr() == (b"distrain: x\n", b"late\n")


def elastic(script: str) -> Ended:
    return execute(Command(["sh", "-c", script], {}), prefixed=True, stop_signal=signal.SIGTERM, elastic=True)


def test_what_an_elastic_world_survives_is_shown_and_not_why_it_ended(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert elastic(f"echo '[1]<stderr>:{SAID}' >&2; exit 0") == Ended(0, [])
    assert capfdbinary.readouterr()[1].decode() == f"{SAID}\n"
    assert elastic(f"echo '[1]<stderr>:{SAID}' >&2; exit 75") == Ended(75, [])


def test_what_an_elastic_world_ended_by_is_the_last_line_and_once(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    bad = "distrain: job.yaml: no such file"
    assert elastic(f"echo '[1]<stderr>:{SAID}' >&2; echo '[0]<stderr>:{bad}' >&2; exit 2") == Ended(2, [])
    assert capfdbinary.readouterr()[1].decode().splitlines() == [SAID, bad]
    assert elastic(f"echo '[0]<stderr>:{bad}' >&2; echo '[0]<stderr>:later' >&2; exit 2") == Ended(2, [bad])
    script = f"echo '[1]<stderr>:{SAID}' >&2; echo '[0]<stderr>:{LOST_IT}' >&2; echo own >&2; exit 1"
    assert elastic(script) == Ended(1, [SAID])


def test_a_worker_that_has_failed_does_not_end_an_elastic_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distrain.launcher.execute.FAILED_SECONDS", 0.2)
    worker = f"(export HOROVOD_RANK=0; exec sh -c 'sleep 1; echo done > {tmp_path}/done')"
    script = f"{worker} & echo '[1]<stderr>:{SAID}' >&2; wait"
    ended(script)
    assert not (tmp_path / "done").exists()
    elastic(script)
    assert (tmp_path / "done").exists()


STOPPED = "(export HOROVOD_RANK=1; exec sh -c 'kill -STOP $$; exit 0')"


def test_a_worker_that_stands_still_when_all_is_done_is_ended(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("distrain.launcher.execute.LEFT_SECONDS", 1)
    found = ended(f"{STOPPED} & other=$!; echo '[0]<stderr>:{LEFT}' >&2; wait $other")
    assert found == Ended(1, ["distrain: a worker had not ended 1 s after another was done: it was killed"])
    assert capfdbinary.readouterr()[1] == b""


def test_a_worker_that_is_a_little_later_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr("distrain.launcher.execute.LEFT_SECONDS", 2)
    worker = f"(export HOROVOD_RANK=1; exec sh -c 'sleep 0.5; echo \"[1]<stderr>:{LEFT}\" >&2')"
    assert ended(f"{worker} & other=$!; echo '[0]<stderr>:{LEFT}' >&2; wait $other") == Ended(0, [])
    assert capfdbinary.readouterr()[1] == b""


def test_what_mpirun_says_itself_stands_between_rules(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    rule = "-" * 74
    script = f"printf 'a\n{rule}\nown\n{rule}\nb\n' >&2; exit "
    assert run(script + "2", prefixed=False) == 2
    assert capfdbinary.readouterr()[1] == b"a\nb\n"
    assert run(script + "1", prefixed=False) == 1
    assert capfdbinary.readouterr()[1].startswith(b"a\nb\n---")


def test_what_a_killed_launcher_leaves_behind_is_waited_for(tmp_path: Path) -> None:
    script = f"(trap '' HUP; sleep 1; echo done > {tmp_path}/left) >/dev/null 2>&1 & kill -9 $$"
    run(script)
    assert (tmp_path / "left").exists()


def test_no_such_launcher() -> None:
    with pytest.raises(BadInput, match="nowhere is not there"):
        execute(Command(["/nowhere"], {}), prefixed=True, stop_signal=signal.SIGTERM)


def test_the_line_can_be_pasted_into_a_shell() -> None:
    assert shown(Command(["mpirun", "--mca", "btl", "^openib"], {"A": "b c"})) == "A='b c' mpirun --mca btl '^openib'"
