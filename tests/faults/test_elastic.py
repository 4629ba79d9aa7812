"""A world whose workers leave and join while the run goes on, against the run that nothing befell."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.processes.elastic import Elastic, drawn
from tests.processes.worlds import end, inspect, left_over, records, trained, wait_for_record, write_job

pytestmark = pytest.mark.soak

SECONDS_TO_GO_ON = 20


def weights(run: Path, step: int) -> np.ndarray:
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"step_{step:08d}" / "state"))
    names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith("weights/"))
    return np.concatenate([reader.get_tensor(name).ravel() for name in names])


def test_workers_leave_and_join_and_nothing_is_lost(tmp_path: Path) -> None:
    epochs = 60
    log = {"examples": True, "predictions": 0, "tensorboard": False}
    train = {"epochs": epochs, "precision": "float64"}
    job = write_job(tmp_path, train=train, checkpoint={"every": 20, "keep": 2}, log=log)
    trained("alone", job, "--run-dir", tmp_path / "whole")

    elastic = Elastic(tmp_path, job)
    try:
        wait_for_record(elastic.run, "step", 10, elastic.process)
        seconds = [elastic.kill(2), elastic.kill(0)]
        assert elastic.worlds() == [3, 2, 1]
        (left,) = elastic.workers()
        for hosts, count in ((2, 4), (0, 5), (2, 6)):
            elastic.steps(10)
            elastic.announce([left, *(elastic.unused.pop(0) for _ in range(hosts))])
            elastic.wait_for_world(count)
        ended = end(elastic.process)
    except BaseException:
        subprocess.run(["kill", str(elastic.process.pid)], check=False)
        raise
    assert ended.code == 0, ended
    assert elastic.worlds() == [3, 2, 1, 3, 1, 3]
    print(f"seconds from a kill to the next step: {seconds}")
    assert max(seconds) < SECONDS_TO_GO_ON
    summary, whole = inspect(elastic.run), inspect(tmp_path / "whole")
    steps = 8 * epochs
    assert (summary["step"], summary["position"], summary["finished"]) == (steps, 50 * epochs, True)
    assert [record["step"] for record in records(elastic.run, "step")] == list(range(1, steps + 1))
    for kind in ("epoch", "validation"):
        own, other = records(elastic.run, kind), records(tmp_path / "whole", kind)
        assert [record["epoch"] for record in own] == list(range(epochs))
        assert [record["loss"] for record in own] == pytest.approx([record["loss"] for record in other], rel=1e-9)
    assert drawn(elastic.run) == sorted(list(range(50)) * epochs)
    expected = weights(tmp_path / "whole", whole["step"])
    difference = np.linalg.norm(weights(elastic.run, steps) - expected) / np.linalg.norm(expected)
    print(f"relative difference of the weights: {difference}")
    assert difference < 1e-10
    assert left_over(elastic.run) == []


@pytest.mark.parametrize("seconds", [0.0, 3.0, 5.0, 7.0])
def test_a_worker_that_is_lost_before_the_first_step_is_not_missed(seconds: float, tmp_path: Path) -> None:
    log = {"examples": True, "predictions": 0, "tensorboard": False}
    job = write_job(tmp_path, train={"epochs": 3}, log=log)
    elastic = Elastic(tmp_path, job)
    deadline = time.monotonic() + 60
    while len(elastic.workers()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(seconds)
    list(elastic.workers().values())[1].kill()
    ended = end(elastic.process)
    assert ended.code == 0, ended
    assert drawn(elastic.run) == sorted(list(range(50)) * 3)
    assert inspect(elastic.run)["finished"]
