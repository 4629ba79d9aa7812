"""`hvd.elastic.run` and its states: whichever collective a worker dies in, the others go on from the last commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.horovod.worlds import run_elastic, told

pytestmark = pytest.mark.processes

EVERY = 5
OPERATIONS = ["single_eager", "grouped_eager", "single_function", "grouped_function"]


def sum_of_steps(step: int) -> float:
    return step * (step + 1) / 2


@pytest.mark.parametrize(
    ("state", "operations"),
    [
        ("variables", ["grouped_function", "single_eager"]),
        pytest.param("keras", ["grouped_eager"], marks=pytest.mark.soak),
        pytest.param("variables", OPERATIONS, marks=pytest.mark.soak),
        pytest.param("keras", OPERATIONS, marks=pytest.mark.soak),
    ],
)
def test_training_goes_on_from_the_last_commit(tmp_path: Path, state: str, operations: list[str]) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    killed_at = [13 + 20 * death for death in range(len(operations))]
    steps = killed_at[-1] + 3
    plan = [logs, state, ",".join(map(str, killed_at)), steps, EVERY, ",".join(operations)]
    ended = run_elastic(tmp_path, len(operations) + 1, "elastic_loop.py", *plan)
    assert ended.code == 0, (ended.output[-3000:], ended.errors[-3000:])

    workers = told(logs)
    begun = [entry for entries in workers.values() for entry in entries if "begun" in entry]
    for death, step in enumerate([0, *(step - step % EVERY for step in killed_at)]):
        size = len(operations) + 1 - death
        world = [entry for entry in begun if entry["size"] == size]
        assert sorted(entry["rank"] for entry in world) == list(range(size))
        for entry in world:
            # 1000 more on all but rank 0 where the variables were not sent.
            assert (entry["begun"], entry["variable"], entry["slot"]) == (step, sum_of_steps(step), sum_of_steps(step))
            assert entry["counted"] == size
    last = [entries[-1] for entries in workers.values()]
    assert sorted(entry["killed"] for entry in last if "killed" in entry) == killed_at
    expected = {"result": "trained", "step": steps, "variable": sum_of_steps(steps), "slot": sum_of_steps(steps)}
    assert [entry for entry in last if "result" in entry] == [expected]
