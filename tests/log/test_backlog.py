"""What a service has still to be told: every record once, whatever befell the run and whoever tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distrain.log.backlog import Backlog, Sent, load_sent, save_sent
from distrain.log.folder import RunFolder
from distrain.log.records import RecordLog, cut


def _write(folder: RunFolder, *records: dict[str, Any]) -> None:
    log = RecordLog(folder.metrics, clock=lambda: 5.0)
    for record in records:
        log.write_timed(record["kind"], **{name: value for name, value in record.items() if name != "kind"})
    log.close()


def _step(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "step", "step": step, "epoch": 0, "position": 8 * step, **(values or {"loss": step / 4})}


def _summary(kind: str, step: int, **values: float) -> dict[str, Any]:
    return {"kind": kind, "step": step, "epoch": 0, "position": 8 * step, **values}


def _event(event: str, step: int, position: int) -> dict[str, Any]:
    return {"kind": "event", "event": event, "step": step, "epoch": 0, "position": position, "reason": "x"}


def _drain(backlog: Backlog, sent: Sent, most: int = 100) -> tuple[list[tuple[str, int]], Sent]:
    """Kinds and steps of all that is told, and what was sent then."""
    told = []
    while points := backlog.points(sent, most):
        assert len(points) <= most
        told += [(point.kind, point.step) for point in points]
        sent = sent.after(points)
    return told, sent


def test_numbers_have_the_names_that_tensorboard_has_for_them(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _write(
        folder,
        _event("started", 0, 0),
        _step(1, loss=0.5, learning_rate=0.1, noise_scale=7.0),
        _summary("epoch", 1, loss=0.25),
        _summary("validation", 1, loss=0.75, iou=0.5),
        _event("skipped", 1, 16),
        _event("skipped", 1, 24),
        _event("advice", 1, 24),
    )
    points = Backlog(folder).points(Sent(), 100)
    assert [(point.step, point.position, point.values) for point in points] == [
        (1, 8, {"train/loss": 0.5, "train/learning_rate": 0.1, "gradients/all/noise_scale": 7.0}),
        (1, 8, {"epoch/loss": 0.25}),
        (1, 8, {"validation/loss": 0.75, "validation/iou": 0.5}),
        (1, 16, {"events/skipped": 1.0}),
        (1, 24, {"events/skipped": 2.0}),
    ]
    assert {point.time for point in points} == {5.0}


@pytest.mark.parametrize("most", [1, 2, 100])
def test_each_record_is_told_once_over_kills_and_checkpoints(tmp_path: Path, most: int) -> None:
    folder = RunFolder(tmp_path)
    begun = [_step(1), _step(2), _summary("epoch", 2, loss=1.0), _event("bad_example", 2, 17), _step(3)]
    _write(folder, *begun)
    first, sent = _drain(Backlog(folder), Sent("there", "it"), most)
    assert first == [("step", 1), ("step", 2), ("epoch", 2), ("bad_example 1", 2), ("step", 3)]
    # It goes on from a checkpoint after the first step, and does all that again and more.
    cut(folder.metrics, 8)
    _write(folder, *begun[1:], _event("bad_example", 3, 24), _step(4))
    again, sent = _drain(Backlog(folder), sent, most)
    assert again == [("bad_example 2", 3), ("step", 4)]
    assert (sent.where, sent.run, sent.step) == ("there", "it", 4)


def test_a_position_that_was_told_in_part_is_told_to_its_end(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    backlog = Backlog(folder)
    assert backlog.points(Sent(), 100) == []
    _write(folder, _step(1), _step(2))
    told, sent = _drain(backlog, Sent())
    assert told == [("step", 1), ("step", 2)]
    _write(folder, _summary("epoch", 2, loss=1.0), _summary("validation", 2, loss=1.0))
    assert _drain(backlog, sent)[0] == [("epoch", 2), ("validation", 2)]
    assert _drain(Backlog(folder), sent)[0] == [("epoch", 2), ("validation", 2)]


def test_what_was_not_sent_comes_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _write(folder, *[_step(number) for number in range(1, 6)])
    backlog = Backlog(folder)
    assert [point.step for point in backlog.points(Sent(), 2)] == [1, 2]
    assert [point.step for point in backlog.points(Sent(), 3)] == [1, 2, 3]
    assert [point.step for point in backlog.points(Sent(position=16, kinds=("step",)), 9)] == [3, 4, 5]


def test_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    _write(folder, _step(1))
    line = json.dumps({**_step(2), "time": 6.0}) + "\n"
    backlog = Backlog(folder)
    with folder.metrics.open("a") as file:
        file.write(line[:20])
        file.flush()
        told, sent = _drain(backlog, Sent())
        assert told == [("step", 1)]
        file.write(line[20:])
    assert _drain(backlog, sent)[0] == [("step", 2)]


def test_pictures_are_told_once_and_not_before_they_are_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    backlog = Backlog(folder)
    assert backlog.pictures(Sent()) == []
    folder.predictions.mkdir()
    for name in ("epoch_0001.png", "epoch_0000.png", "tmp_epoch_0002.png"):
        (folder.predictions / name).touch()
    assert [path.name for path in backlog.pictures(Sent())] == ["epoch_0000.png", "epoch_0001.png"]
    assert [path.name for path in backlog.pictures(Sent(pictures=("epoch_0000.png",)))] == ["epoch_0001.png"]


def test_what_was_sent_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.json"
    assert load_sent(path) == Sent()
    sent = Sent("there", "it", 3, 24, ("step", "epoch"), ("epoch_0000.png",))
    save_sent(path, sent)
    assert load_sent(path) == sent
    assert list(tmp_path.iterdir()) == [path]
