"""`distrain inspect`: what a folder holds, said in full and without TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distrain.checkpoint.store import Manifest, Progress, save
from distrain.cli.main import main
from distrain.job.load import resolved
from distrain.log.folder import RunFolder, claim, write_job
from distrain.log.records import RecordLog
from tests.support import make_job

# What design.md, section 7, promises of --json.
PROMISED = {
    *("step", "epoch", "position", "world_size", "finished", "weights_sha256", "optimizer_sha256"),
    *("gradient_mean_sha256", "parameters", "checkpoints", "loss", "validation"),
}


def _write(folder: Path) -> None:
    (folder / "x").write_bytes(b"x")


def _run(path: Path, *steps: int) -> RunFolder:
    folder = RunFolder(path)
    claim(path).close()
    write_job(folder, resolved(make_job()), {"distrain": "0"})
    log = RecordLog(folder.metrics)
    for step in steps:
        progress = Progress(step=step, position=8 * step, skipped=1)
        manifest = Manifest(progress, step // 10, step == 40, 2, 123, "a", "b", "c", {"distrain": "0"})
        save(folder.checkpoints, manifest, _write)
        log.write_timed("step", step=step, epoch=0, position=8 * step, loss=1 / step)
        log.write_timed("validation", step=step, epoch=0, position=8 * step, loss=0.5, pixel_error=0.25)
    log.close()
    return folder


def _inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, 10, 20, 30, 40)
    found = _inspected(tmp_path, capsys)
    assert found.keys() >= PROMISED
    assert (found["step"], found["epoch"], found["position"], found["finished"]) == (40, 4, 320, True)
    assert (found["world_size"], found["parameters"], found["weights_sha256"]) == (2, 123, "a")
    assert (found["optimizer_sha256"], found["gradient_mean_sha256"]) == ("b", "c")
    assert [(one["step"], one["valid"], one["why_not"]) for one in found["checkpoints"]] == [
        (step, True, None) for step in (10, 20, 30, 40)
    ]
    assert (found["loss"], found["validation"]) == (1 / 40, {"loss": 0.5, "pixel_error": 0.25})


def test_what_is_broken_is_told_and_the_newest_valid_one_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _run(tmp_path, 10, 20, 30)
    (folder.checkpoints / "step_00000030" / "x").write_bytes(b"y")
    found = _inspected(tmp_path, capsys)
    assert (found["step"], found["finished"]) == (20, False)
    assert found["checkpoints"][-1] == {"step": 30, "valid": False, "why_not": "x does not match its sha256"}


def test_a_run_that_has_only_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path)
    found = _inspected(tmp_path, capsys)
    assert found.keys() >= PROMISED
    assert (found["step"], found["finished"], found["checkpoints"], found["loss"]) == (0, False, [], None)


def test_a_log_cut_in_the_middle_of_a_line_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As another process sees the log of a run that goes on."""
    folder = _run(tmp_path, 10)
    with folder.metrics.open("a") as file:
        file.write('{"kind": "step", "st')
    assert _inspected(tmp_path, capsys)["loss"] == 0.1


def test_for_people_it_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, 10, 40)
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  step 40: valid" in lines
    assert any("validation" in line and "pixel_error 0.25" in line for line in lines)
    assert any(line.split() == ["finished", "yes"] for line in lines)


@pytest.mark.parametrize("place", ["empty", "nowhere", "job.yaml"])
def test_where_no_run_is_it_says_so(tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "job.yaml").write_text("")
    assert main(["inspect", str(tmp_path / place), "--json"]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("distrain: ")
    assert len(errors.splitlines()) == 1


def test_it_does_not_wait_for_tensorflow(tmp_path: Path) -> None:
    _run(tmp_path, 10)
    code = "import sys; from distrain.cli.main import main; main(sys.argv[1:]); print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "inspect", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
