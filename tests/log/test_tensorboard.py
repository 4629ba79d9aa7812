"""TensorBoard's events, read back as TensorBoard reads them, and cut back to a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorflow.core.util import event_pb2

from distrain.log.tensorboard import EventLog, cut


def _write(folder: Path, *steps: int) -> None:
    log = EventLog(folder)
    for step in steps:
        log.scalars(step, {"train/loss": step / 4, "train/learning_rate": 0.5})
        log.histogram(step, "gradients/norm", np.arange(3.0) * step)
    log.close()


def _read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def _steps(folder: Path, tag: str = "train/loss") -> list[int]:
    accumulator = _read(folder)
    return [event.step for event in accumulator.Tensors(tag)] if tag in accumulator.Tags()["tensors"] else []


def test_scalars_and_histograms_are_there_under_their_names(tmp_path: Path) -> None:
    _write(tmp_path, 1, 2)
    accumulator = _read(tmp_path)
    assert set(accumulator.Tags()["tensors"]) == {"train/loss", "train/learning_rate", "gradients/norm"}
    values = [np.frombuffer(event.tensor_proto.tensor_content, "<f4") for event in accumulator.Tensors("train/loss")]
    assert [float(value[0]) if len(value) else None for value in values] == [0.25, 0.5]


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).standard_normal(1000),
        np.array([0.1, 0.3, 0.3, 1e9], np.float32),
        np.array([2.5]),
        np.full(7, -3.0, np.float32),
        np.array([-1.0, 1.0]),
        np.arange(31.0),
    ],
)
def test_a_histogram_is_that_of_tensorboard(tmp_path: Path, values: npt.NDArray[np.floating]) -> None:
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb  # type: ignore[import-untyped]

    log = EventLog(tmp_path)
    log.histogram(3, "gradients/norm", values)
    log.close()
    (path,) = tmp_path.iterdir()
    *_, record = tf.data.TFRecordDataset(str(path))
    (own,) = event_pb2.Event.FromString(record.numpy()).summary.value
    (expected,) = histogram_pb("gradients/norm", values).value
    assert own.tag == expected.tag
    assert own.metadata.SerializeToString() == expected.metadata.SerializeToString()
    np.testing.assert_array_equal(tf.make_ndarray(own.tensor), tf.make_ndarray(expected.tensor), strict=True)


@pytest.mark.parametrize(("step", "left"), [(0, []), (2, [1, 2]), (9, [1, 2, 3, 4])])
def test_what_is_after_the_checkpoint_is_cut_off(tmp_path: Path, step: int, left: list[int]) -> None:
    _write(tmp_path, 1, 2, 3, 4)
    cut(tmp_path, step)
    assert _steps(tmp_path) == _steps(tmp_path, "gradients/norm") == left
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_goes_on_twice_draws_one_line(tmp_path: Path) -> None:
    for steps in ((1, 2, 3), (2, 3, 4), (4, 5)):
        cut(tmp_path, steps[0] - 1)
        _write(tmp_path, *steps)
    cut(tmp_path, 4)
    assert sorted(_steps(tmp_path)) == [1, 2, 3, 4]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_event_that_a_kill_left_unfinished_goes(tmp_path: Path, step: int) -> None:
    _write(tmp_path, 1, 2, 3)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    cut(tmp_path, step)
    (path,) = tmp_path.iterdir()
    for _ in tf.data.TFRecordDataset(str(path)):  # would raise at a part of one
        pass
    assert _steps(tmp_path) == list(range(1, step + 1))


def test_events_are_in_the_file_after_a_flush_and_once_it_is_time(tmp_path: Path) -> None:
    now = 0.0
    log = EventLog(tmp_path, flush_seconds=60, clock=lambda: now)
    log.scalars(1, {"train/loss": 1.0})
    assert _steps(tmp_path) == []
    log.flush()
    assert _steps(tmp_path) == [1]
    for step in (2, 3, 4):
        now += 30
        log.scalars(step, {"train/loss": 1.0})
    assert _steps(tmp_path) == [1, 2, 3]
    log.close()
    assert _steps(tmp_path) == [1, 2, 3, 4]


def test_no_folder_has_nothing_to_cut(tmp_path: Path) -> None:
    cut(tmp_path / "none", 3)
    assert list(tmp_path.iterdir()) == []
