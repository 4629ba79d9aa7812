"""What a Slurm job has been given, from its environment."""

from __future__ import annotations

import pytest

from distrain.errors import BadInput
from distrain.launcher.slurm import allocated, tasks_of


@pytest.mark.parametrize(
    ("text", "counts"), [("2", [2]), ("8(x3)", [8, 8, 8]), ("2(x2),1", [2, 2, 1]), ("1,2(x1)", [1, 2])]
)
def test_numbers_of_tasks(text: str, counts: list[int]) -> None:
    assert tasks_of(text) == counts


@pytest.mark.parametrize("text", ["", "x", "2(x", "2(3)", "2,"])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="SLURM_TASKS_PER_NODE"):
        tasks_of(text)


def test_each_node_with_its_tasks() -> None:
    environment = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_TASKS_PER_NODE": "8,4"}
    assert allocated(environment, lambda nodes: {"n[1-2]": ["n1", "n2"]}[nodes]) == [("n1", 8), ("n2", 4)]


def test_outside_of_a_job() -> None:
    with pytest.raises(BadInput, match="expected a Slurm job"):
        allocated({}, lambda nodes: [])


def test_nodes_that_do_not_match() -> None:
    with pytest.raises(BadInput, match=r"1 nodes .* tasks for 2"):
        allocated({"SLURM_JOB_NODELIST": "n1", "SLURM_TASKS_PER_NODE": "1(x2)"}, lambda nodes: ["n1"])
