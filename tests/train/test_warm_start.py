"""Beginning with weights that are there already: what is taken, and what is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from distrain.checkpoint.retention import Retention
from distrain.checkpoint.saver import Saver
from distrain.checkpoint.state import ReplicaState
from distrain.checkpoint.store import Progress
from distrain.errors import BadInput
from distrain.job.load import resolved
from distrain.log.folder import RunFolder, write_job
from distrain.model.build import Trained
from distrain.train.opening import Request, open_run
from distrain.train.warm_start import warm_start
from tests.small_models import bits, make_trained
from tests.support import make_job


def _trained(seed: int, precision: str = "float32", model: str = "batch_norm") -> Trained:
    """A model of which every weight, buffers included, is another with another seed."""
    trained = make_trained(model, precision=precision, seed=seed)
    random = np.random.default_rng(seed)
    trained.model.set_weights([random.random(weight.shape) for weight in trained.model.weights])
    return trained


def _saver(path: Path, trained: Trained) -> Saver:
    retention = Retention(3, None, 8)
    return Saver(path / "checkpoints", ReplicaState(trained, None), retention=retention, world_size=1, versions={})


def _run(path: Path, trained: Trained) -> Path:
    """A run's folder with two checkpoints, the newer one of the weights as they are."""
    path.mkdir()
    write_job(RunFolder(path), resolved(make_job()), {})
    saver, weights = _saver(path, trained), trained.model.get_weights()
    trained.model.set_weights([0 * weight for weight in weights])
    saver.save(Progress(step=1, position=8), epoch=0, finished=False)
    trained.model.set_weights(weights)
    saver.save(Progress(step=2, position=16), epoch=0, finished=True)
    return path


def _file(path: Path, trained: Trained) -> Path:
    trained.model.save(path.with_suffix(".keras"))
    return path.with_suffix(".keras")


def _newest_checkpoint(path: Path, trained: Trained) -> Path:
    return _run(path, trained) / "checkpoints" / "step_00000002"


@pytest.mark.parametrize("make", [_run, _newest_checkpoint, _file])
def test_all_weights_are_taken_over_bit_for_bit(make: Callable[[Path, Trained], Path], tmp_path: Path) -> None:
    source = _trained(1)
    path = make(tmp_path / "source", source)
    expected = bits([weight.value for weight in source.model.weights])
    target = _trained(2)
    said = warm_start(target.model, str(path))
    assert said.startswith(str(path))
    assert bits([weight.value for weight in target.model.weights]) == expected


def test_an_older_checkpoint_may_be_named(tmp_path: Path) -> None:
    path = _run(tmp_path / "source", _trained(1))
    target = _trained(2)
    warm_start(target.model, str(path / "checkpoints" / "step_00000001"))
    assert not any(weight.any() for weight in target.model.get_weights())


def test_float32_weights_begin_a_run_of_float64(tmp_path: Path) -> None:
    path = _run(tmp_path / "source", _trained(1))
    expected = _trained(1).model.get_weights()
    target = _trained(2, precision="float64")
    warm_start(target.model, str(path))
    for weight, value in zip(target.model.get_weights(), expected, strict=True):
        assert weight.dtype == np.float64
        np.testing.assert_array_equal(weight, value)


def _damaged(path: Path, trained: Trained) -> Path:
    for folder in (_run(path, trained) / "checkpoints").iterdir():
        (folder / "state.index").write_bytes(b"")
    return path


def _torn(path: Path, trained: Trained) -> Path:
    file = _file(path, trained)
    file.write_bytes(file.read_bytes()[:500])
    return file


def _lambda(path: Path, trained: Trained) -> Path:
    inputs = keras.Input((6, 6, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda values: values + 1)(inputs)).save(path.with_suffix(".keras"))
    return path.with_suffix(".keras")


def _folder(path: Path, trained: Trained) -> Path:
    path.mkdir()
    return path


REFUSED: dict[str, tuple[Callable[[Path, Trained], Path], str]] = {
    "nowhere": (lambda path, trained: path, "no such folder, expected a run's folder"),
    "no file": (lambda path, trained: path.with_suffix(".keras"), "no such file, expected"),
    "no run": (_folder, "no run, expected a run's folder"),
    "no valid checkpoint": (_damaged, r"no valid checkpoint \(step_00000002: state.index has 0 bytes"),
    "a torn file": (_torn, "Keras cannot load it"),
    "a file with code in it": (_lambda, "Keras cannot load it"),
    "another model": (
        lambda path, trained: _run(path, _trained(1, model="convolution")),
        "has 4 weights, expected the 8 of the job's model",
    ),
    "other shapes": (
        lambda path, trained: _run(path, make_trained({"name": "tests.small_models:convolution", "features": 3})),
        r"'weights/0000/convolution/kernel' is \[3, 3, 1, 3\], expected \[3, 3, 1, 2\] as 'convolution/kernel'",
    ),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_is_refused_in_one_line_and_leaves_the_weights_alone(case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    path = make(tmp_path / "source", _trained(1))
    target = _trained(2, model="convolution" if case == "other shapes" else "batch_norm")
    before = bits([weight.value for weight in target.model.weights])
    with pytest.raises(BadInput, match=words) as caught:
        warm_start(target.model, str(path))
    assert str(caught.value).startswith("'model.init_from': ")
    assert "\n" not in str(caught.value)
    assert bits([weight.value for weight in target.model.weights]) == before


def test_a_run_that_goes_on_needs_them_no_more_and_a_fresh_one_reads_them_before_the_old_is_moved(
    tmp_path: Path,
) -> None:
    trained = _trained(1)
    path = _run(tmp_path / "run", trained)
    asked: list[bool] = []

    def weights() -> str:
        asked.append((path / "job.yaml").exists())
        return "theirs"

    opened = open_run(Request(make_job(), path), _saver(path, trained), weights)
    assert (opened.weights, asked) == (None, [])
    opened.release()
    opened = open_run(Request(make_job(), path, fresh=True), _saver(path, trained), weights)
    assert (opened.weights, asked) == ("theirs", [True])
    assert opened.aside is not None
    opened.release()


def test_what_is_refused_leaves_the_old_run_and_an_empty_folder_usable(tmp_path: Path) -> None:
    trained = _trained(1)

    def refuse() -> str:
        raise BadInput("no")

    old = _run(tmp_path / "old", trained)
    with pytest.raises(BadInput, match="no"):
        open_run(Request(make_job(), old, fresh=True), _saver(old, trained), refuse)
    assert (old / "job.yaml").exists()
    new = tmp_path / "new"
    with pytest.raises(BadInput, match="no"):
        open_run(Request(make_job(), new), _saver(new, trained), refuse)
    open_run(Request(make_job(seed=3), new), _saver(new, trained), lambda: None).release()
