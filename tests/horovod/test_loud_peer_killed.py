"""A rank is killed in the middle of it all: never exit code 0, never a wrong value, and all others hear of it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.horovod.worlds import run_program

pytestmark = pytest.mark.processes

KILLED = 128 + signal.SIGKILL
OPERATIONS = ["allreduce", "grouped_allreduce", "allreduce_in_process_set"]
OPERATIONS += ["allgather", "broadcast", "reducescatter", "alltoall"]
MODES, MOMENTS = ("eager", "function"), ("before", "during")
QUICK = [("gloo", 3, "grouped_allreduce", "function", "during"), ("mpi", 2, "allreduce", "eager", "during")]
QUICK += [("gloo", 3, "allreduce_in_process_set", "eager", "before")]


def cases() -> list[object]:
    """A few for every day, and all others."""
    found: list[object] = list(QUICK)
    for launcher, size in (("gloo", 2), ("gloo", 3), ("mpi", 2), ("mpi", 3), ("mpirun", 2)):
        for operation in OPERATIONS:
            for mode in MODES:
                for moment in MOMENTS:
                    case = (launcher, size, operation, mode, moment)
                    if case not in QUICK and (size > 2 or operation != "allreduce_in_process_set"):
                        found.append(pytest.param(*case, marks=pytest.mark.soak))
    return found


@pytest.mark.parametrize(("launcher", "size", "operation", "mode", "moment"), cases())
def test_all_ranks_hear_of_it(tmp_path: Path, launcher: str, size: int, operation: str, mode: str, moment: str) -> None:
    # The launcher ends all others as soon as one has ended: they are to tell first.
    patient = {"HOROVOD_TERMINATION_GRACE_SECONDS": "60"}
    ended = run_program(launcher, size, "peer_killed.py", tmp_path, operation, mode, moment, environment=patient)
    outcomes = {int(file.name): file.read_text() for file in tmp_path.iterdir()}
    assert ended.code != 0, outcomes
    assert not any(outcome.startswith(("a wrong value", "finished")) for outcome in outcomes.values()), outcomes
    killed, _, step = outcomes.pop(size - 1 - (operation == "allreduce_in_process_set")).rpartition(" ")
    assert killed == "killed in step"
    if launcher == "gloo":
        # Open MPI ends the others itself, before they come to say anything.
        assert ended.code == KILLED
        assert len(outcomes) == size - 1
        for outcome in outcomes.values():
            if operation == "allreduce_in_process_set":
                # The one outside has waited since its first step; the set may be gone before the next call.
                assert "Horovod collective failed" in outcome or "Process set" in outcome, outcome
            else:
                assert outcome.startswith(f"UnknownError in step {step}: "), outcome
                assert "Horovod collective failed" in outcome, outcome


def test_a_rank_that_is_gone_before_the_world_is_formed(tmp_path: Path) -> None:
    times = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "5", "HOROVOD_TERMINATION_GRACE_SECONDS": "60"}
    ended = run_program("gloo", 2, "gone_before_init.py", environment={**times, "READY": str(tmp_path / "ready")})
    assert ended.code == KILLED
    assert "Horovod could not be initialized" in ended.errors
    assert "ValueError: Horovod initialization failed" in ended.errors, ended.errors[-3000:]
