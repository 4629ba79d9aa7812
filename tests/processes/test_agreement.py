"""Ranks that no longer train the same model stop; and the running mean is what it says it is, on every rank."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes.worlds import WAYS, begin_program, end, write_job

pytestmark = pytest.mark.processes

PROGRAMS = Path(__file__).parent / "programs"


def in_two_workers(program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    command = [*WAYS["horovodrun-mpi"][:4], sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    return begin_program(command)


def test_broken_averaging_is_found(tmp_path: Path) -> None:
    job = write_job(tmp_path, parallel={"verify_every": 5})
    ended = end(in_two_workers("broken_averaging.py", job, tmp_path / "run"))
    assert ended.code == 1
    assert "step 5: rank 0 and rank 1 differ in weights/0000/" in ended.errors
    assert "Traceback" not in ended.errors


def test_running_mean_after_500_steps_is_the_origins(tmp_path: Path) -> None:
    # Nothing is wanted of it but its steps.
    job = write_job(
        tmp_path,
        data={"validation": None},
        train={"batch_size": 4, "epochs": None, "steps": 500},
        checkpoint={"every": 500},
        log={"tensorboard": False},
    )
    ended = end(in_two_workers("running_mean_500.py", job, tmp_path))
    assert ended.code == 0, ended.errors[-2000:]
    ranks = [json.loads((tmp_path / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert ranks[0]["steps"] == 500
    assert len(ranks[0]["errors"]) == 16
    assert all(max(rank["errors"]) < 1e-5 for rank in ranks)
    assert ranks[0]["sha256"] == ranks[1]["sha256"]
