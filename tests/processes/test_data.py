"""Data of every kind under a real run: each example once an epoch, whoever reads it, whatever befalls it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.data.datasets import FORMATS, pixels
from tests.processes.worlds import (
    WAYS,
    begin,
    difference,
    end,
    inspect,
    records,
    train,
    trained,
    wait_for_record,
    write_job,
)

pytestmark = pytest.mark.processes

COUNT, SIZE = 23, 60
SMALL = {"model": {"features": 2}, "log": {"examples": True, "tensorboard": False}}
# What is for whole images, not for pixels.
CLASSIFIER = {"name": "tests.small_models:convolution", "features": 2}


def job_for(folder: Path, name: str, **sections: Any) -> Path:
    """The small job on the data set in one format."""
    data = folder / name
    data.mkdir(parents=True)
    options = FORMATS[name](data, *pixels(COUNT, SIZE))
    settings = {"data": {"train": options, "validation": None}, "train": {"batch_size": 5, "epochs": 2}, **SMALL}
    model = {"model": CLASSIFIER} if name == "class_folders" else {}
    return write_job(folder, **{**settings, **model, **sections})


def drawn(run: Path) -> list[int]:
    """All indices that were drawn, step by step, rank by rank."""
    lines = [
        (record["step"], rank, record["indices"])
        for rank, path in enumerate(sorted((run / "examples").glob("rank_*.jsonl")))
        for record in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]
    return [index for _, _, indices in sorted(lines) for index in indices]


def told(record: dict[str, Any]) -> dict[str, Any]:
    """What a record tells of the training, without what it tells of its time."""
    return {name: record[name] for name in record.keys() - {"time", "examples_per_second", "data_wait_seconds"}}


WAYS.setdefault("three", [*WAYS["launch"][:4], "-n", "3", "--"])


# By shard, the harder of the two orders; all formats have their turn in the soak.
KILLED = [
    "tfrecords_gzip",
    *(pytest.param(name, marks=pytest.mark.soak) for name in FORMATS if name != "tfrecords_gzip"),
]


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed_by_another_number_of_workers_each_example_is_drawn_once(tmp_path: Path, name: str) -> None:
    """Three workers, killed; then one, killed; then two to the end: the order of one who was never disturbed."""
    job = job_for(tmp_path, name, train={"batch_size": 5, "epochs": 8}, checkpoint={"every": 2})
    run = tmp_path / "run"
    for way, steps in (("three", 9), ("alone", 21)):
        process = begin(way, job, "--run-dir", run)
        wait_for_record(run, "step", steps, process)
        workers = [
            child
            for child in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            if child.cmdline()[1:4] == ["-m", "distrain", "train"]
        ]
        workers[-1].kill()
        assert end(process, 60).code not in (0, 2, 3, 75)
    trained("launch", job, "--run-dir", run)
    whole = tmp_path / "whole"
    trained("alone", job, "--run-dir", whole)
    assert inspect(run)["finished"]
    order = drawn(run)
    assert order == drawn(whole)
    for epoch in range(8):
        assert sorted(order[epoch * COUNT : (epoch + 1) * COUNT]) == list(range(COUNT))


def test_loss_and_weights_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    """50 steps in float64, batches of 7 of 23 examples, augmented: neither shares a factor with the workers."""
    job = job_for(
        tmp_path,
        "tfrecords",
        data={
            "train": FORMATS["hdf5_chunked"](_made(tmp_path / "h"), *pixels(COUNT, SIZE)),
            "validation": None,
            "augment": {"flip_left_right": True, "quarter_turns": True, "elastic": 2, "contrast": 0.2},
        },
        train={"batch_size": 7, "epochs": None, "steps": 50, "precision": "float64"},
        optimizer={"name": "momentum", "learning_rate": 0.05},
    )
    losses = []
    for way in ("alone", "launch", "three"):
        trained(way, job, "--run-dir", tmp_path / way)
        losses.append([record["loss"] for record in records(tmp_path / way, "step")])
    assert len(losses[0]) == 50
    assert losses[0][-1] < losses[0][0]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-10)
    for way, size in (("launch", 2), ("three", 3)):
        assert inspect(tmp_path / way)["world_size"] == size
        assert difference(tmp_path / way, tmp_path / "alone") < 1e-10


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_bad_examples_are_skipped_counted_and_listed(tmp_path: Path) -> None:
    job = job_for(tmp_path, "tfrecords", train={"batch_size": 5, "epochs": 2})
    shard = sorted((tmp_path / "tfrecords" / "packed").glob("*.tfrecord"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    skipping = ["-o", "data.on_bad_example=skip"]
    run = tmp_path / "run"
    trained("launch", job, "--run-dir", run, *skipping)
    bad = [record for record in records(run, "event") if record["event"] == "bad_example"]
    assert len(bad) == 2  # one in each epoch
    assert len({record["index"] for record in bad}) == 1
    for record in bad:
        assert f"{shard}: record" in record["reason"]
        assert "checksum" in record["reason"]
    assert sorted(drawn(run)) == sorted([*range(COUNT)] * 2)
    assert all(np.isfinite(record["loss"]) for record in records(run, "epoch"))
    too_many = train("launch", job, "--run-dir", tmp_path / "many", *skipping, "-o", "data.max_bad_examples=0")
    assert too_many.code == 2
    assert "'data.max_bad_examples' is 0" in too_many.errors
    assert len(too_many.errors.splitlines()) == 1
    # With more patience it goes on, and reads as if it had been there from the beginning.
    trained("launch", job, "--run-dir", tmp_path / "many", *skipping, "-o", "data.max_bad_examples=1")
    assert drawn(tmp_path / "many") == drawn(run)
    for kind in ("step", "epoch", "event"):
        went, was = ([told(record) for record in records(folder, kind)] for folder in (tmp_path / "many", run))
        assert [record for record in went if record.get("event") not in ("started", "resumed")] == [
            record for record in was if record.get("event") != "started"
        ]


def test_data_that_is_cut_short_under_a_run_ends_it_on_all_ranks(tmp_path: Path) -> None:
    job = job_for(tmp_path, "tfrecords", train={"batch_size": 5, "epochs": 4000})
    run = tmp_path / "run"
    process = begin("launch", job, "--run-dir", run)
    wait_for_record(run, "step", 3, process)
    for shard in (tmp_path / "tfrecords" / "packed").glob("*.tfrecord"):
        os.truncate(shard, 1000)
    ended = end(process, 60)
    assert ended.code == 2, ended
    assert len(ended.errors.splitlines()) == 1
    assert str(tmp_path / "tfrecords" / "packed") in ended.errors
    assert "has changed" in ended.errors
    assert inspect(run)["checkpoints"][-1]["valid"]
