"""What the plots of a report hold: the numbers of the log, thinned where there are many, and the marks across them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.log.records import RecordLog
from distrain.report.collect import Run, arranged, collect
from distrain.report.figures import MOST, Figure, figures, marks
from tests.report.made_up import BATCH, STEPS, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return collect(make_run(tmp_path / "run").path, "run")


def _figure(runs: list[Run], key: str) -> Figure:
    return next(figure for figure in figures(runs) if figure.key == key)


def _trace(figure: Figure, name: str) -> dict[str, Any]:
    return next(trace for trace in figure.traces if trace["name"] == name)


def test_each_number_of_the_log_is_at_its_step_example_and_hour(run: Run) -> None:
    trace = _trace(_figure([run], "loss"), "each step")
    steps = list(range(1, STEPS + 1))
    assert trace["places"]["step"] == steps
    assert trace["places"]["examples"] == [step * BATCH for step in steps]
    assert trace["places"]["hours"] == pytest.approx([step / 60 for step in steps], abs=1e-5)
    assert trace["y"] == pytest.approx([1 / step for step in steps], rel=1e-5)
    validation = _trace(_figure([run], "loss"), "validation")
    assert validation["places"]["step"] == [10, 20, 30, 40]


def test_all_that_is_measured_has_its_plot(run: Run) -> None:
    keys = {"loss", "metric-pixel_error", "metric-iou", "learning-rate", "throughput", "norms", "noise-scale"}
    assert {figure.key for figure in figures([run])} == keys | {"agreement", "variables-0"}


def test_what_a_run_does_not_tell_has_none(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.metrics.write_text("", encoding="utf-8")
    for path in folder.gradients.rglob("*.parquet"):
        path.unlink()
    assert figures([collect(folder.path, "run")]) == []


def test_steps_that_do_not_tell_a_number_are_left_out(run: Run) -> None:
    assert _trace(_figure([run], "noise-scale"), "noise scale")["places"]["step"][0] == 3


def test_more_points_than_can_be_seen_become_medians(run: Run, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "long")
    log = RecordLog(folder.metrics)
    for step in range(STEPS + 1, 5000):
        # One step in ten is far off, and does not show.
        log.write_timed("step", step=step, epoch=9, position=step * BATCH, loss=100.0 if step % 10 == 0 else 0.5)
    log.close()
    figure = _figure([collect(folder.path, "long")], "loss")
    trace = _trace(figure, "each step")
    assert len(trace["y"]) <= MOST
    assert set(trace["y"][50:]) == {0.5}
    assert "Medians over up to 9 steps." in figure.about


def test_marks_are_restarts_and_ends_of_epochs(run: Run) -> None:
    found = marks(run, 0, epochs=True)
    assert [mark["step"] for mark in found if mark["kind"] == "epoch"] == [10, 20, 30, 40]
    (restart,) = [mark for mark in found if mark["kind"] == "restart"]
    assert (restart["step"], restart["examples"]) == (20, 20 * BATCH)
    assert restart["text"] == "resumed after step 20, 2 workers"
    assert {mark["kind"] for mark in marks(run, 0, epochs=False)} == {"restart"}


def test_the_heat_map_has_a_row_for_each_variable(run: Run) -> None:
    (trace,) = _figure([run], "variables-0").traces
    assert trace["y"] == ["down/kernel", "down/bias", "up/kernel"]
    assert np.shape(trace["z"]) == (3, STEPS)
    assert trace["z"][0][0] == pytest.approx(math.log10(math.sqrt(4.01)), rel=1e-5)


def test_several_runs_are_told_apart(run: Run, tmp_path: Path) -> None:
    other = collect(make_run(tmp_path / "other", rate=0.5).path, "other")
    traces = _figure([run, other], "learning-rate").traces
    assert [trace["name"] for trace in traces] == ["run: learning rate", "other: learning rate"]
    assert [trace["line"]["color"] for trace in traces] == ["--series-0", "--series-1"]
    assert [trace["y"][0] for trace in traces] == [0.1, 0.5]


def test_a_plot_says_in_words_what_it_shows(run: Run) -> None:
    assert "validation: from 0.12 to 0.03, between 0.03 and 0.12." in _figure([run], "loss").says


def test_numbers_that_only_some_records_have_are_nan_in_the_others() -> None:
    place = {"kind": "validation", "epoch": 0, "position": 1, "time": 0.0}
    records = arranged([{**place, "step": 1, "loss": 0.5}, {**place, "step": 2, "loss": 0.4, "note": "x", "iou": 1}])
    assert list(records.values) == ["loss", "iou"]
    assert math.isnan(records.values["iou"][0])
