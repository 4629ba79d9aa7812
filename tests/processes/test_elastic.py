"""Workers of an elastic world fail, are killed, join and are turned away, and the run goes on to its end."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from distrain.launcher.execute import FAILED_SECONDS
from distrain.log import parts
from distrain.train.run import ELASTIC_FLUSH_SECONDS
from tests.processes.elastic import Elastic, drawn
from tests.processes.worlds import end, inspect, left_over, records, wait_for_record, write_job

pytestmark = pytest.mark.processes

EPOCHS = 30
STEPS = 8 * EPOCHS
# Beside the time that rows may wait to be written: what a step takes on a busy machine.
SLACK = 2.0

# Slow until it is told to be quick, so that workers come and go between steps; on hosts told so, it fails.
PROVIDER = """
import os
import time
from pathlib import Path

from distrain.data.circles import Circles
from distrain.errors import BadInput

HERE = Path(__file__).parent
HOST = os.environ["HOROVOD_HOSTNAME"]


class Slow(Circles):
    def read(self, index):
        if (HERE / f"fails-{HOST}").exists():
            raise RuntimeError("the roof is on fire")
        if not (HERE / "quick").exists():
            time.sleep(0.05)
        return super().read(index)


def provider():
    if (HERE / f"lacks-{HOST}").exists():
        raise BadInput("no pictures here")
    return Slow(examples=50, size=60, seed=1, discs=3, radius=(3, 9), border=5, noise=20.0)
"""


def test_workers_fail_die_and_join_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PROVIDER, encoding="utf-8")
    data = {"train": {"provider": "slow:provider"}, "reading": {"threads": 1}}
    log = {"examples": True, "predictions": 0, "tensorboard": True}
    # Gradients in 16 bits go by slices, which are others in each world.
    train = {"epochs": EPOCHS, "compression": "bfloat16"}
    job = write_job(tmp_path, data=data, train=train, checkpoint={"every": "20 epochs"}, log=log)
    elastic = Elastic(tmp_path, job, size=2)
    try:
        wait_for_record(elastic.run, "step", 5, elastic.process)
        first, second = sorted(elastic.workers(), key=list(elastic.workers()).index)
        assert {first, second} == {"localhost", "127.0.0.1"}
        failing = next(host for host, worker in elastic.workers().items() if worker.pid == elastic.pids()[1])
        staying = next(host for host in (first, second) if host != failing)
        failed_at = time.monotonic()
        (tmp_path / f"fails-{failing}").touch()
        elastic.wait_for_world(2)

        unfit, fit = elastic.unused[:2]
        (tmp_path / f"lacks-{unfit}").touch()
        elastic.announce([staying, unfit, fit])
        elastic.wait_for_world(3)
        assert sorted(elastic.workers()) == sorted([staying, fit])

        elastic.steps(1)
        # Long enough for the launcher to end the others too, if it did.
        time.sleep(max(ELASTIC_FLUSH_SECONDS, failed_at + FAILED_SECONDS - time.monotonic()) + SLACK)
        killed_at = time.time()
        psutil.Process(elastic.pids()[0]).kill()
        elastic.announce([fit])
        elastic.wait_for_world(4)
        elastic.steps(2)
        (tmp_path / "quick").touch()
        ended = end(elastic.process)
    except BaseException:
        elastic.process.terminate()
        raise
    assert ended.code == 0, ended
    assert elastic.worlds() == [2, 1, 2, 1]
    assert "distrain: rank 1, after step " in ended.errors
    assert "RuntimeError: the roof is on fire" in ended.errors
    turned_away = [line for line in ended.errors.splitlines() if "no pictures here" in line]
    assert len(turned_away) == 1
    assert turned_away[0].startswith("distrain: rank ")

    summary = inspect(elastic.run)
    assert (summary["step"], summary["position"], summary["finished"]) == (STEPS, 50 * EPOCHS, True)
    steps = records(elastic.run, "step")
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    assert drawn(elastic.run) == sorted(list(range(50)) * EPOCHS)
    # What a rank 0 that was killed had not yet written is lost, of the last seconds before.
    late = {
        record["step"] for record in steps if killed_at - ELASTIC_FLUSH_SECONDS - SLACK < record["time"] < killed_at
    }
    for seen in (measured_steps(elastic.run), drawn_steps(elastic.run)):
        assert max(seen.values()) == 1
        assert set(range(1, STEPS + 1)) - set(seen) <= late
    assert left_over(elastic.run) == []


def measured_steps(run: Path) -> Counter[int]:
    """How often each step is in the gradients' statistics, over all variables."""
    table = parts.read(run / "gradients" / "variables", ["step", "variable"])
    assert table is not None
    rows = table.to_pylist()
    return Counter(row["step"] for row in rows if row["variable"] == "(all)")


def drawn_steps(run: Path) -> Counter[int]:
    """How often each step's loss is in TensorBoard's events."""
    events = [
        event_pb2.Event.FromString(record.numpy())
        for path in (run / "events").glob("events.out.tfevents.*")
        for record in tf.data.TFRecordDataset(str(path))
    ]
    return Counter(event.step for event in events for value in event.summary.value if value.tag == "train/loss")
