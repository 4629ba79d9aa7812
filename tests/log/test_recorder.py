"""What a step's statistics leave in a run's folder: log, TensorBoard, tables, advice; and what a full disk does."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from distrain.bench.job import job_to_measure
from distrain.checkpoint import saver
from distrain.checkpoint.retention import Retention
from distrain.checkpoint.saver import Saver
from distrain.checkpoint.state import State
from distrain.checkpoint.store import Progress
from distrain.data.batches import Plan
from distrain.data.order import Batch
from distrain.gradients.measures import MEASURES, measures
from distrain.job.duration import Cursor
from distrain.job.schema import Log
from distrain.log.display import Display
from distrain.log.folder import RunFolder
from distrain.log.gradient_table import GradientTable
from distrain.log.recorder import Pace, Recorder
from distrain.log.records import IN_STEPS, read
from distrain.step.settlement import FLAGS, StepResult
from distrain.train.saving import Saving
from distrain.train.schedule import Schedule
from distrain.train.watch import Watch
from distrain.world.control import AloneControl
from tests.measured import NAMES, moments, ranks

EPOCH = 20  # steps, of 8 examples


def _recorder(folder: Path, shown: io.StringIO | None = None, **options: Any) -> Recorder:
    display = Display(100, 0, shown or io.StringIO())
    table = GradientTable(folder / "gradients", NAMES, "float32")
    return Recorder(
        RunFolder(folder), Log(**options), rank=0, epoch_examples=8 * EPOCH, display=display, gradients=table
    )


def _result(*, applied: bool = True, overflowed: bool = False, loss_scale: float = 0.0) -> StepResult:
    return StepResult(
        loss=tf.constant(0.5),
        applied=tf.constant(applied),
        overflowed=tf.constant(overflowed),
        loss_scale=tf.constant(loss_scale),
        flags=tf.zeros([FLAGS]),
        learning_rate=tf.constant(0.1),
        gradient_squares=tf.constant([4.0, 1.0, 9.0]),
        moments=tf.zeros([0, 3], tf.float64),
        groups=tf.constant(2.0),
        examples=tf.constant(8.0),
        reports=tf.zeros([0, 3]),
        turn=tf.zeros([], tf.int64),
    )


def _steps(recorder: Recorder, first: int, last: int, every: int = 1, **changed: Any) -> None:
    for step in range(first, last + 1):
        measured = (moments(step, **changed), ranks(step)) if step % every == 0 else None
        before, after = Cursor(step - 1, 8 * (step - 1)), Cursor(step, 8 * step)
        recorder.step(before, after, Batch(8 * (step - 1), 8), [], _result(), 0.0, measured)


def _records(folder: Path, kind: str) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line, parse_constant=refuse))["kind"] == kind]


def _tags(folder: Path) -> dict[str, list[int]]:
    accumulator = EventAccumulator(str(folder / "events"), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {tag: [event.step for event in accumulator.Tensors(tag)] for tag in accumulator.Tags()["tensors"]}


def test_the_loss_scale_is_recorded_where_there_is_one(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    results = [_result(), _result(loss_scale=64.0), _result(applied=False, overflowed=True, loss_scale=64.0)]
    for number, result in enumerate(results):
        before, after = Cursor(min(number, 2), 8 * number), Cursor(min(number + 1, 2), 8 * number + 8)
        recorder.step(before, after, Batch(8 * number, 8), [], result, 0.0)
    recorder.close()
    steps, events = _records(tmp_path, "step"), _records(tmp_path, "event")
    assert ["loss_scale" in record for record in steps] == [False, True]
    assert [(event["event"], event["step"], event["position"], event["loss_scale"]) for event in events] == [
        ("overflow", 2, 24, 64.0)
    ]


def test_a_steps_record_tells_the_measures_over_all_variables(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    _steps(recorder, 1, 6, every=3)
    recorder.close()
    records = _records(tmp_path, "step")
    assert [set(IN_STEPS) <= record.keys() for record in records] == [False, False, True] * 2
    expected = measures(moments(6))
    assert {name: records[5][name] for name in IN_STEPS} == {name: expected[name][-1] for name in IN_STEPS}
    assert not set(IN_STEPS) & records[4].keys()


def test_what_cannot_be_told_is_absent(tmp_path: Path) -> None:
    unknown = np.full(3, np.nan)
    recorder = _recorder(tmp_path)
    _steps(recorder, 1, 1, groups=1, signal=unknown, noise=unknown, previous_squares=np.zeros(3), products=np.zeros(3))
    recorder.distributions(1)
    _steps(recorder, 2, 2, signal=np.array([-3.0, 1.0, 1.0]))  # no signal above the noise: an infinite noise scale
    recorder.close()
    first, second = _records(tmp_path, "step")
    assert {"update_ratio", "coherence"} == set(IN_STEPS) & first.keys()
    assert set(IN_STEPS) - second.keys() == {"noise_scale"}
    assert second["snr"] == 0
    tags = {tag for tag in _tags(tmp_path) if tag.startswith("gradients/variables/")}
    assert tags == {f"gradients/variables/{name}" for name in ("norm", "mean_norm", "update_ratio", "coherence")}
    frame = pd.read_parquet(tmp_path / "gradients" / "variables")
    assert frame.alignment[frame.step == 1].isna().all()
    assert np.isinf(frame.noise_scale[(frame.step == 2) & (frame.variable == "(all)")]).all()


def test_tensorboard_has_scalars_at_steps_and_distributions_when_asked(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path, every="2 steps")
    _steps(recorder, 1, 6)
    recorder.distributions(6)
    recorder.close()
    tags = _tags(tmp_path)
    assert {tag for tag in tags if tag.startswith("gradients/")} == {
        f"gradients/{place}/{name}" for place in ("all", "variables") for name in MEASURES
    }
    assert tags["gradients/all/noise_scale"] == [2, 4, 6]
    assert tags["gradients/variables/snr"] == [6]


def test_events_are_in_their_file_at_a_checkpoint(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    _steps(recorder, 1, 3)
    recorder.flush()
    assert _tags(tmp_path)["train/loss"] == [1, 2, 3]
    recorder.close()


def _saving(folder: Path, recorder: Recorder, watch: Watch) -> Saving:
    schedule = Schedule(8 * EPOCH, Plan(0, 8, "keep"), 1, None)
    retention = Retention(1, None, schedule.examples)
    state = Saver(folder / "checkpoints", State({}), retention=retention, world_size=1, versions={})
    return Saving(job_to_measure(None, [], workers=1), 0, AloneControl(), schedule, state, recorder, watch)


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch(600, rank=0)
    yield watch
    watch.close()


def test_a_checkpoint_beside_the_steps_finds_its_events_and_rows_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    found: list[tuple[str, list[int], list[int]]] = []

    def write(arrays: object, folder: Path) -> None:
        rows = pd.read_parquet(tmp_path / "gradients" / "variables")
        found.append((threading.current_thread().name, _tags(tmp_path)["train/loss"], list(rows.step.unique())))

    monkeypatch.setattr(saver, "write", write)
    recorder = _recorder(tmp_path)
    saving = _saving(tmp_path, recorder, watch)
    _steps(recorder, 1, 3)
    saving.begin(Progress(3, 24))
    assert saving.saver.wait() is None
    recorder.close()
    assert recorder.failure is None
    ((thread, losses, rows),) = found
    assert thread.startswith("checkpoint")
    assert losses == rows == [1, 2, 3]


def test_there_is_no_checkpoint_whose_rows_could_not_be_written(tmp_path: Path, watch: Watch) -> None:
    (tmp_path / "gradients").write_text("a file where a folder must be")
    recorder = _recorder(tmp_path)
    saving = _saving(tmp_path, recorder, watch)
    _steps(recorder, 1, 3)
    saving.begin(Progress(3, 24))
    error = saving.saver.wait()
    recorder.close()
    assert error is recorder.failure
    assert "gradients" in str(error)
    assert not (tmp_path / "checkpoints").exists()


def test_each_measured_step_is_in_the_table_whatever_the_log_leaves_out(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path, every="50 steps", tensorboard=False)
    _steps(recorder, 1, 9, every=3)
    recorder.flush()
    assert list(pd.read_parquet(tmp_path / "gradients" / "variables").step.unique()) == [3, 6, 9]
    recorder.close()


def test_advice_is_one_line_and_one_event(tmp_path: Path) -> None:
    shown = io.StringIO()
    recorder = _recorder(tmp_path, shown)
    _steps(recorder, 1, EPOCH)
    recorder.advise(EPOCH, 0, 8 * EPOCH, batch_size=8, workers=2, epoch_steps=EPOCH)
    recorder.close()
    (event,) = _records(tmp_path, "event")
    assert (event["event"], event["step"], event["epoch"], event["batch_size"]) == ("advice", EPOCH, 0, 8)
    signal, noise = (
        np.mean([measures(moments(step))[name][-1] for step in range(1, 21)]) for name in ("signal", "noise")
    )
    assert event["noise_scale"] == pytest.approx(noise / signal, rel=1e-6)
    assert event["noise_scale_low"] <= event["noise_scale"] <= event["noise_scale_high"]
    assert event["useful_examples_per_second"] == pytest.approx(event["examples_per_second"] * event["efficiency"])
    (line,) = shown.getvalue().splitlines()
    assert line == f"epoch 0: {event['text']}"


def test_advice_is_the_same_after_a_run_was_killed_in_the_epoch(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    _steps(recorder, 1, EPOCH + 3)
    recorder.close()
    recorder = _recorder(tmp_path)
    _steps(recorder, EPOCH + 4, 2 * EPOCH)
    whole = _recorder(tmp_path / "whole")
    _steps(whole, 1, 2 * EPOCH)
    for one, folder in ((recorder, tmp_path), (whole, tmp_path / "whole")):
        one.advise(2 * EPOCH, 1, 16 * EPOCH, batch_size=8, workers=2, epoch_steps=EPOCH)
        one.close()
        assert len(_records(folder, "event")) == 1
    timed = ("time", "text", "examples_per_second")
    left, right = (
        {
            name: value
            for name, value in _records(folder, "event")[0].items()
            if name not in timed and not name.startswith("useful")
        }
        for folder in (tmp_path, tmp_path / "whole")
    )
    assert left == right


def test_one_group_is_told_once_what_it_lacks(tmp_path: Path) -> None:
    shown = io.StringIO()
    recorder = _recorder(tmp_path, shown)
    for epoch in range(2):
        _steps(recorder, 1 + EPOCH * epoch, EPOCH * (epoch + 1), groups=1)
        recorder.advise(EPOCH * (epoch + 1), epoch, 0, batch_size=8, workers=1, epoch_steps=EPOCH)
    recorder.close()
    (line,) = shown.getvalue().splitlines()
    assert "two workers, or train.accumulate: 2" in line
    assert _records(tmp_path, "event") == []


def test_no_statistics_no_advice(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    _steps(recorder, 1, 3, every=100)
    recorder.advise(3, 0, 24, batch_size=8, workers=2, epoch_steps=EPOCH)
    recorder.distributions(3)
    recorder.close()
    assert list(read(tmp_path / "metrics.jsonl"))[3:] == []
    assert not (tmp_path / "gradients").exists()


def test_a_table_that_cannot_be_written_is_noted_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "gradients").write_text("a file where a folder must be")
    recorder = _recorder(tmp_path)
    _steps(recorder, 1, 2)
    assert recorder.failure is None
    recorder.flush()
    assert recorder.failure is not None
    assert "gradients" in str(recorder.failure)
    recorder.close()
    assert len(_records(tmp_path, "step")) == 2


def test_pace_leaves_out_what_comes_before_the_first_step() -> None:
    pace = Pace()
    assert pace.examples_per_second() is None
    pace.step(100.0, 8)
    assert pace.examples_per_second() is None
    pace.step(101.0, 8)
    pace.step(104.0, 8)
    assert pace.examples_per_second() == 4.0
