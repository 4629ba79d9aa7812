"""A run's folder: one run at a time, one job, and nothing of anybody's is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distrain.errors import BadInput
from distrain.job.load import load_job, resolved
from distrain.log.folder import RunFolder, check_job, claim, last_record, move_aside, write_job
from distrain.log.records import RecordLog
from tests.support import make_job

HOLD = """
import sys
from pathlib import Path
from distrain.log.folder import claim
lock = claim(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def _job(**sections: Any) -> dict[str, Any]:
    return resolved(make_job(**sections))


def _run(path: Path, **sections: Any) -> RunFolder:
    """A folder as a run of this job leaves it."""
    claim(path).close()
    write_job(RunFolder(path), _job(**sections), {"distrain": "0.1.0"})
    return RunFolder(path)


def test_a_second_run_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    lock = claim(tmp_path / "runs" / "one")
    with pytest.raises(BadInput, match="another run is using it"):
        claim(tmp_path / "runs" / "one")
    claim(tmp_path / "runs" / "two").close()
    lock.close()
    claim(tmp_path / "runs" / "one").close()


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BadInput, match="another run"):
            claim(tmp_path)
        with pytest.raises(BadInput, match="another run"):
            move_aside(tmp_path)
        process.kill()
    claim(tmp_path).close()


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_is_no_folder(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="expected a folder"):
        claim(tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_old_run_is_moved_aside_whole(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run")
    aside = [move_aside(folder.path)]
    _run(tmp_path / "run", seed=3)
    aside.append(move_aside(folder.path))
    assert not folder.path.exists()
    assert len(set(aside)) == 2
    seeds = [yaml.safe_load((path / "job.yaml").read_text())["seed"] for path in aside if path is not None]
    assert seeds == [0, 3]


def test_nothing_is_moved_where_nothing_is(tmp_path: Path) -> None:
    assert move_aside(tmp_path / "none") is None
    assert move_aside(tmp_path) is None
    assert tmp_path.exists()


@pytest.mark.parametrize("name", ["file", "project"])
def test_what_is_no_run_is_not_moved(tmp_path: Path, name: str) -> None:
    (tmp_path / "project").mkdir()
    for path in (tmp_path / "file", tmp_path / "project" / "thesis.tex"):
        path.write_text("mine")
    with pytest.raises(BadInput, match=r"expected a (folder for the run|run's folder)"):
        move_aside(tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name != ".lock") == [
        "file",
        "project",
        "thesis.tex",
    ]


def test_what_cannot_be_moved_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _run(tmp_path / "run")

    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(BadInput, match=r"cannot be moved aside .*No space left"):
        move_aside(folder.path)


def test_a_run_from_before_a_key_was_there_goes_on(tmp_path: Path) -> None:
    folder = _run(tmp_path)
    old = yaml.safe_load(folder.job.read_text())
    del old["optimizer"]["nesterov"], old["gradients"]["smoothing"]
    folder.job.write_text(yaml.safe_dump(old))
    assert check_job(folder, _job()) == []


def test_the_folder_of_the_command_itself_is_moved_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--run-dir . --fresh` within a run's folder."""
    _run(tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    try:
        aside = move_aside(Path())
    except BadInput:
        return
    assert aside is not None
    assert (aside / "job.yaml").exists()


def test_a_new_folder_and_one_of_the_same_job_are_welcome(tmp_path: Path) -> None:
    claim(tmp_path).close()
    assert check_job(RunFolder(tmp_path), _job()) == []
    assert check_job(_run(tmp_path / "run"), _job()) == []


def test_what_may_change_is_told(tmp_path: Path) -> None:
    folder = _run(tmp_path, train={"epochs": 2})
    assert check_job(folder, _job(train={"epochs": 4})) == ["train.epochs: 2 -> 4"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"model": {"layers": 2}}, "model.layers: 3 -> 2"),
        ({"train": {"batch_size": 4}}, "train.batch_size: None -> 4"),
        ({"gradients": False}, "gradients.enabled: True -> False"),
        ({"seed": 3, "train": {"epochs": 9}}, r"\(seed: 0 -> 3\)"),
    ],
)
def test_another_job_is_refused_with_the_difference(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    folder = _run(tmp_path)
    before = folder.job.read_bytes()
    with pytest.raises(BadInput, match=words):
        check_job(folder, _job(**sections))
    assert folder.job.read_bytes() == before


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match=r"'thesis\.tex' but no job\.yaml"):
        check_job(RunFolder(tmp_path), _job())


def test_a_job_file_that_was_damaged_is_refused(tmp_path: Path) -> None:
    folder = _run(tmp_path)
    folder.job.write_text("seed: [1")
    with pytest.raises(BadInput, match="not valid YAML"):
        check_job(folder, _job())


def test_a_start_that_was_killed_while_it_wrote_the_job_can_be_repeated(tmp_path: Path) -> None:
    claim(tmp_path).close()
    (tmp_path / "tmp_job.yaml").write_text("# distrain: 0.1.0\nname: jo")
    assert check_job(RunFolder(tmp_path), _job()) == []


def test_the_written_job_is_a_job_file_itself(tmp_path: Path) -> None:
    folder = _run(tmp_path, seed=5, optimizer={"name": "adam", "learning_rate": 1e-7})
    assert folder.job.read_text().startswith("# distrain: 0.1.0\n")
    assert resolved(load_job(folder.job)) == _job(seed=5, optimizer={"name": "adam", "learning_rate": 1e-7})


@pytest.mark.parametrize("folder", ["1e5", "1e-3", "12", "on", "2024-01-01", "0x10", "1:30", "~", "a: b"])
def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path, folder: str) -> None:
    """A folder of images may be called 1e5; the run must go on all the same."""
    job = _job(data={"train": {"provider": "image_pairs", "images": folder, "labels": "labels"}})
    claim(tmp_path).close()
    write_job(RunFolder(tmp_path), job, {})
    assert check_job(RunFolder(tmp_path), job) == []


def test_the_newest_record_of_a_kind(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert last_record(folder, "step") is None
    log = RecordLog(folder.metrics)
    for kind, step in (("step", 1), ("epoch", 1), ("step", 2), ("event", 2)):
        log.write(kind=kind, step=step)
    log.close()
    assert last_record(folder, "step") == {"kind": "step", "step": 2}
    assert last_record(folder, "validation") is None
