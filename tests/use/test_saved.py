"""Which checkpoint of a run is meant, and what may be set otherwise than the run has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrain.checkpoint.store import Manifest, Progress, save
from distrain.data.provider import ExampleSpec
from distrain.errors import BadInput
from distrain.job.load import resolved
from distrain.log.folder import RunFolder, write_job
from distrain.use.saved import choose, load, open_saved, read_run
from tests.support import in_world, make_job

FORM = {"image_shape": [6, 6, 1], "label_shape": [], "classes": 3, "class_names": ["a", "b", "c"]}


def _run(
    path: Path,
    steps: tuple[int, ...] = (1, 2, 3),
    form: dict[str, Any] = FORM,
    best: int | None = 2,
    **job: Any,
) -> RunFolder:
    folder = RunFolder(path)
    path.mkdir()
    write_job(folder, resolved(make_job(**job)), {})
    for step in steps:
        progress = Progress(step=step, best=best and 0.5, best_step=best)
        manifest = Manifest(progress, 0, False, 1, 1, "a", "b", "c", examples=form)
        save(folder.checkpoints, manifest, lambda temporary: None)
    return folder


def test_newest_best_or_a_step(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    assert [choose(folder, which) for which in ("newest", "best", "1")] == [3, 2, 1]


def test_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    (folder.checkpoints / "step_00000003" / "manifest.json").unlink()
    assert choose(folder, "newest") == 2


@pytest.mark.parametrize(
    ("steps", "which", "words"),
    [
        ((), "newest", "no valid checkpoint"),
        ((1,), "latest", "--checkpoint: 'latest', expected newest, best, or the step"),
        ((1,), "-1", "--checkpoint: '-1'"),
    ],
)
def test_what_cannot_be_chosen(steps: tuple[int, ...], which: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words):
        choose(_run(tmp_path / "run", steps), which)


def test_a_run_without_a_best_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"run: has no best checkpoint, expected a run with checkpoint\.best"):
        choose(_run(tmp_path / "run", best=None), "best")


def test_a_step_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    with pytest.raises(BadInput, match=r"step_00000007: no such checkpoint; expected one of step_00000001, step_"):
        load(folder, read_run(folder.path), 7)


def test_the_checkpoint_tells_what_the_model_is_for(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    saved = load(folder, read_run(folder.path), 2)
    assert (saved.spec, saved.class_names) == (ExampleSpec((6, 6, 1), (), 3), ("a", "b", "c"))
    assert saved.manifest.progress.step == 2


def test_of_one_that_does_not_tell_the_data_is_asked(tmp_path: Path) -> None:
    data = {"train": {"provider": "tests.support:reading", "shape": [4, 4, 1]}}
    folder = _run(tmp_path / "run", form={}, data=data)
    assert load(folder, read_run(folder.path), 1).spec == ExampleSpec((4, 4, 1), (), 3)


def test_all_ranks_take_the_one_that_rank_0_finds(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    job = read_run(folder.path)
    found = in_world(3, lambda world, control: open_saved(folder.path, job, "best", world, control))
    assert [one.result().manifest.progress.step for one in found] == [2, 2, 2]


def test_all_ranks_hear_that_there_is_none(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", ())
    job = read_run(folder.path)
    for one in in_world(2, lambda world, control: open_saved(folder.path, job, "newest", world, control)):
        with pytest.raises(BadInput, match="no valid checkpoint") as caught:
            one.result()
        assert caught.value.agreed


def test_validation_data_can_be_given_where_the_run_has_none(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    assert read_run(folder.path).data.validation is None
    job = read_run(folder.path, ["data.validation={provider: circles, examples: 3}", "parallel.threads=1"])
    assert job.data.validation is not None
    assert job.parallel.threads == 1


@pytest.mark.parametrize("override", ["model.features=3", "seed=1", "train.precision=float64", "nonsense"])
def test_nothing_else_can_be_set(override: str, tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    with pytest.raises(BadInput, match=rf"-o {override}: expected a key that begins with 'data\.' or"):
        read_run(folder.path, [override])


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no run here"):
        read_run(tmp_path)


def test_weights_that_a_run_began_with_are_not_looked_for(tmp_path: Path) -> None:
    model = {"name": "application", "architecture": "MobileNetV2", "weights": "/gone/weights.h5"}
    folder = _run(tmp_path / "run", model=model)
    assert read_run(folder.path).model.weights is None  # type: ignore[union-attr]
