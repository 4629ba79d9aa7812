"""What people see of the gradients of real runs: a rank with bad labels by its number, one table whatever befell it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.processes.worlds import WAYS, trained, write_job

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
NOISY = {"provider": "tests.processes.programs.noisy_rank:circles", "examples": 160, "size": 60, "noisy": 1}


def test_a_rank_with_shuffled_labels_is_named_of_two(tmp_path: Path) -> None:
    job = write_job(tmp_path, data={"train": NOISY, "validation": None}, train={"batch_size": 8, "epochs": 3})
    trained("launch", job, "--run-dir", tmp_path / "run", cwd=ROOT)
    command = [*WAYS["alone"], "inspect", str(tmp_path / "run"), "--gradients"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "\nrank 1: its loss is " in shown
    assert "\nrank 0: " not in shown
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert [one["rank"] for one in found["odd_ranks"]] == [1]
    assert found["odd_ranks"][0]["chance"] < 1e-3
