"""Starting again after a failure: how often, after what pause, and when no more."""

from __future__ import annotations

import pytest

from distrain.launcher.execute import Ended
from distrain.launcher.restart import Reached, pause_before, run_with_restarts

FAILED = Ended(1, ["distrain: rank 1 was killed"])


class Course:
    """Worlds that end one after the other with these codes, having come to these steps."""

    def __init__(self, codes: list[int], steps: list[int], *, stopped: bool = False) -> None:
        self._codes, self._steps, self._stopped = codes, steps, stopped
        self.starts: list[int] = []
        self.pauses: list[float] = []

    def start(self, restart: int) -> Ended:
        self.starts.append(restart)
        code = self._codes[restart]
        return FAILED if code == 1 else Ended(code, [])

    def reached(self) -> Reached:
        step = self._steps[len(self.starts) - 1]
        return Reached(step, step - 2 if step > 2 else None)

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        return self._stopped

    def run(self, restarts: int, *, before: int = 0) -> int:
        reached = Reached(before)
        return run_with_restarts(self.start, self.reached, before=reached, restarts=restarts, wait=self.wait).code


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_what_ended_by_intent_is_not_started_again(code: int) -> None:
    course = Course([code], [5])
    assert (course.run(3), course.starts) == (code, [0])


def test_as_often_as_asked_with_doubled_pauses(capsys: pytest.CaptureFixture[str]) -> None:
    course = Course([1, 1, 1, 1], [5, 6, 7, 8])
    assert (course.run(3), course.starts, course.pauses) == (1, [0, 1, 2, 3], [1, 2, 4])
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [*FAILED.words, "restart 1 of 3 in 1 s, from the checkpoint of step 3"]


def test_until_it_is_done() -> None:
    course = Course([1, 1, 0], [2, 6, 7])
    assert (course.run(5), course.starts) == (0, [0, 1, 2])


@pytest.mark.parametrize(("steps", "before", "starts"), [([0], 0, 1), ([7], 7, 1), ([5, 5], 0, 2), ([5, 9, 6], 0, 3)])
def test_no_more_where_no_step_was_gained(
    steps: list[int], before: int, starts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    course = Course([1] * 9, steps)
    assert course.run(8, before=before) == 1
    assert len(course.starts) == starts
    assert "no step was gained" in capsys.readouterr().err


@pytest.mark.parametrize(("step", "code"), [(5, 75), (2, 1)])
def test_a_signal_in_the_pause_stops(step: int, code: int) -> None:
    course = Course([1, 0], [step, 9], stopped=True)
    assert (course.run(3), course.starts) == (code, [0])


def test_what_was_asked_to_stop_is_not_started_again() -> None:
    """Killed by a second Ctrl-C, or because its grace was over: it failed, but by intent."""
    course = Course([1, 0], [5, 9])
    asked = Ended(1, ["distrain: rank 1 was killed"])
    asked.asked.set()
    ended = run_with_restarts(lambda restart: asked, course.reached, before=Reached(), restarts=3, wait=course.wait)
    assert (ended.code, course.pauses) == (1, [])


def test_a_signal_after_the_end_stops() -> None:
    course = Course([1, 0], [5, 9])
    failed = Ended(1, [])

    def reached() -> Reached:
        failed.asked.set()
        return Reached(5, 3)

    ended = run_with_restarts(lambda restart: failed, reached, before=Reached(), restarts=3, wait=course.wait)
    assert (ended.code, course.pauses) == (1, [])


def test_pauses_have_an_end() -> None:
    assert [pause_before(restart) for restart in (1, 2, 6, 7, 50)] == [1, 2, 32, 60, 60]
