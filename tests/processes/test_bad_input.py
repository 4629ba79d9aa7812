"""Bad input of many kinds: exit code 2, one line that names it, no traceback, no process left; on 1 worker and on 2."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.processes.worlds import begin, end, left_over, train, trained, wait_for_record, write_job

pytestmark = pytest.mark.processes

SIZE = 60


def images(folder: Path, count: int = 12) -> dict[str, Any]:
    """Small image and label files, and a job's data section for them."""
    random = np.random.default_rng(1)
    for kind, high in (("image", 256), ("label", 2)):
        (folder / kind).mkdir()
        for number in range(count):
            pixels = random.integers(0, high, (SIZE, SIZE), np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number:02d}.png")
    return {"train": {"provider": "image_pairs", "images": str(folder / "image"), "labels": str(folder / "label")}}


def spoil(folder: Path, name: str, spoiling: Callable[[Path], object]) -> dict[str, Any]:
    """A data section whose file `name` is spoilt."""
    data = images(folder)
    spoiling(folder / name)
    return {"data": {**data, "validation": None}}


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def other_size(path: Path) -> None:
    Image.fromarray(np.zeros((SIZE, SIZE + 2), np.uint8)).save(path)


def class_7(path: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 7, np.uint8)).save(path)


def not_a_number(path: Path) -> None:
    path.unlink()
    np.save(path.with_suffix(".npy"), np.full((SIZE, SIZE), np.nan, np.float32))


# What is wrong -> (how to make the job's sections in a folder, what the line must hold).
Case = tuple[Callable[[Path], dict[str, Any]], list[str]]
CASES: dict[str, Case] = {
    "unknown key": (lambda folder: {"train": {"batchsize": 4}}, ["train.batchsize", "batch_size"]),
    "unknown section": (lambda folder: {"trian": {"epochs": 2}}, ["trian", "'train'"]),
    "wrong type": (lambda folder: {"train": {"batch_size": "many"}}, ["train.batch_size", "'many'", "whole number"]),
    "out of range": (lambda folder: {"model": {"keep_probability": 1.5}}, ["model.keep_probability", "1.5"]),
    "bad duration": (lambda folder: {"checkpoint": {"every": "2 moons"}}, ["checkpoint.every", "moon"]),
    "two spellings": (lambda folder: {"train": {"batch_size_per_worker": 3}}, ["train", "both"]),
    "unknown provider": (lambda folder: {"data": {"train": {"provider": "circle"}}}, ["'circle'", "'circles'"]),
    "MLflow nowhere": (lambda folder: {"log": {"mlflow": {}}}, ["log.mlflow.uri", "MLFLOW_TRACKING_URI"]),
    "a password in the job": (
        lambda folder: {"log": {"mlflow": {"uri": "http://me:secret@there"}}},
        ["log.mlflow.uri", "MLFLOW_TRACKING_PASSWORD"],
    ),
    "no such factory": (lambda folder: {"model": {"name": "nowhere:model"}}, ["model", "nowhere"]),
    "no such folder": (lambda folder: spoil(folder, "image", lambda path: path.rename(folder / "x")), ["image"]),
    "empty folder": (lambda folder: spoil(folder, "label", empty), ["label"]),
    "file for a folder": (
        lambda folder: {"data": {"train": {**images(folder)["train"], "images": str(folder / "job.yaml")}}},
        ["job.yaml"],
    ),
    "one label missing": (lambda folder: spoil(folder, "label/03.png", Path.unlink), ["12", "11"]),
    "sizes differ": (lambda folder: spoil(folder, "label/04.png", other_size), ["04.png", "62"]),
    "class outside": (lambda folder: spoil(folder, "label/05.png", class_7), ["05.png", "7"]),
    "corrupt image": (
        lambda folder: spoil(folder, "image/06.png", lambda path: path.write_bytes(path.read_bytes()[:900])),
        ["06.png"],
    ),
    "not an image": (lambda folder: spoil(folder, "image/07.png", lambda path: path.write_text("hi")), ["07.png"]),
    "NaN pixels": (lambda folder: spoil(folder, "image/11.png", not_a_number), ["11.npy"]),
    "fewer examples than workers need": (
        lambda folder: {"train": {"batch_size": 51, "remainder": "drop"}},
        ["train.batch_size", "51", "50"],
    ),
    "image too small": (
        lambda folder: {"data": {"train": {"provider": "circles", "size": 12, "border": 1, "radius": [1, 2]}}},
        ["12"],
    ),
    "wrong class weights": (
        lambda folder: {"loss": {"name": "cross_entropy", "class_weights": [1.0]}},
        ["class_weights", "2"],
    ),
}


def refused(way: str, ended: Any, run: Path, *words: str) -> None:
    assert ended.code == 2, ended
    lines = ended.errors.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("distrain: ")
    for word in words:
        assert word in lines[0], lines[0]
    assert left_over(run) == []


# Every day one for each way that a refusal comes to all ranks: the launcher reads the job before it starts any, and
# sees whether the environment fits it; all ranks find what the job names; one rank reads a broken file. All else goes
# one of these ways, and its words are seen by the tests of the modules that refuse it.
DAILY = ("unknown key", "MLflow nowhere", "no such folder", "corrupt image")


def cases() -> list[Any]:
    """Two workers are the harder case: none of them may wait for the other."""
    return [
        pytest.param(way, case, marks=() if way == "launch" and case in DAILY else pytest.mark.soak)
        for way in ("alone", "launch")
        for case in CASES
    ]


@pytest.mark.parametrize(("way", "case"), cases())
def test_is_refused(way: str, case: str, tmp_path: Path) -> None:
    make, words = CASES[case]
    (tmp_path / "job.yaml").touch()
    job = write_job(tmp_path, **make(tmp_path))
    refused(way, train(way, job, "--run-dir", tmp_path / "run"), tmp_path, *words)


def test_batch_smaller_than_the_workers(tmp_path: Path) -> None:
    job = write_job(tmp_path, train={"batch_size": 1})
    refused("launch", train("launch", job, "--run-dir", tmp_path / "run"), tmp_path, "train.batch_size", "2 workers")


@pytest.mark.parametrize("way", ["alone", "launch"])
def test_no_job_file(way: str, tmp_path: Path) -> None:
    refused(way, train(way, tmp_path / "nothing.yaml"), tmp_path, "nothing.yaml")


@pytest.mark.parametrize(
    ("holder", "way"),
    [("alone", "launch"), *(pytest.param(way, way, marks=pytest.mark.soak) for way in ("alone", "launch", "mpirun"))],
)
def test_run_folder_of_another_job_or_in_use(holder: str, way: str, tmp_path: Path) -> None:
    """Two workers hear of it from rank 0. `--fresh` moves the old run aside, whatever its job."""
    job, run = write_job(tmp_path, train={"batch_size": 7, "epochs": 400}, log={"every": 1}), tmp_path / "run"
    first = begin(holder, job, "--run-dir", run)
    wait_for_record(run, "epoch", 1, first)
    second = train(way, job, "--run-dir", run)
    assert second.code == 2, second
    assert "another run is using it" in second.errors
    assert len(second.errors.splitlines()) == 1
    # mpirun passes this one on and waits; SIGTERM it answers by killing its workers.
    first.send_signal(signal.SIGUSR1 if holder == "mpirun" else signal.SIGTERM)
    assert end(first, 60).code == 75
    other = ["--run-dir", str(run), "-o", "optimizer.learning_rate=0.1"]
    refused(holder, train(holder, job, *other), tmp_path, "another job", "optimizer.learning_rate: 0.2 -> 0.1")
    trained("alone", job, *other, "--fresh", "-o", "train.epochs=1")
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("run")]) == 2


def test_a_wrong_job_on_one_rank_only(tmp_path: Path) -> None:
    """Ranks of one world with different jobs refuse to start, whoever started them."""
    job = write_job(tmp_path)
    script = tmp_path / "worker.sh"
    script.write_text(
        'exec "$0" -m distrain train "$1" --run-dir "$2" -o seed=$OMPI_COMM_WORLD_RANK\n', encoding="utf-8"
    )
    from tests.processes.worlds import WAYS, begin_program

    command = WAYS["mpirun"]
    program = ["sh", "-c", script.read_text(encoding="utf-8"), command[-3], str(job), str(tmp_path / "run")]
    ended = end(begin_program([*command[:-3], *program]))
    refused("mpirun", ended, tmp_path / "run", "rank 1 and rank 0 differ in the job")
