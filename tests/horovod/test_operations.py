"""Horovod's operations for TensorFlow, from the built wheel: types, shapes, gradients, process sets, join, refusals."""

from __future__ import annotations

import pytest

from tests.horovod.worlds import PROGRAMS, run_program

pytestmark = pytest.mark.processes

CASES = (PROGRAMS / "operations.py").read_text(encoding="utf-8").count("\n@case\n")


# Horovod's thread asks the others each millisecond, or waits for something to do.
ASKING, WAITING = {"HOROVOD_IDLE_CYCLE_TIME": "0"}, {"HOROVOD_IDLE_CYCLE_TIME": "1000"}


@pytest.mark.parametrize(
    ("launcher", "size", "environment"),
    [
        ("gloo", 3, WAITING),
        pytest.param("mpi", 2, ASKING, marks=pytest.mark.soak),
        pytest.param("gloo", 3, ASKING, marks=pytest.mark.soak),
        pytest.param("gloo", 2, ASKING, marks=pytest.mark.soak),
        pytest.param("mpi", 3, ASKING, marks=pytest.mark.soak),
        pytest.param("mpi", 3, WAITING, marks=pytest.mark.soak),
    ],
)
def test_every_operation_gives_what_it_should_or_refuses_on_every_rank(
    launcher: str, size: int, environment: dict[str, str]
) -> None:
    ended = run_program(launcher, size, "operations.py", environment=environment)
    assert ended.code == 0, (ended.output[-3000:], ended.errors[-3000:])
    for rank in range(size):
        assert f"{rank} of {size}: {CASES} cases" in ended.output
