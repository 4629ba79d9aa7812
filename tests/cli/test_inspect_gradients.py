"""`distrain inspect --gradients`: variables with what needs attention first, the odd rank by its number, plots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from distrain.cli.main import main
from distrain.gradients.measures import measures
from distrain.log.folder import RunFolder
from distrain.log.gradient_table import GradientTable
from distrain.log.records import RecordLog
from tests.measured import NAMES, make_run, moments, ranks


def _run(path: Path, steps: int = 60, losses: tuple[float, ...] = (0.5, 0.5), **changed: Any) -> RunFolder:
    folder = make_run(path)
    table = GradientTable(folder.gradients, NAMES, "float32")
    for step in range(1, steps + 1):
        table.write(step, step // 20, measures(moments(step, **changed)), ranks(step, losses))
    table.close()
    return folder


def _json(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(path), "--gradients", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def _text(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["inspect", str(path), "--gradients"]) == 0
    return capsys.readouterr().out.splitlines()


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["inspect", *arguments]) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    return errors


def test_what_needs_attention_comes_first_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, norm_squares=np.array([4.0, 1.0, 0.0]), update_squares=np.array([1e-6, 0.01, 0.0]))
    lines = [line.split() for line in _text(tmp_path, capsys)]
    names = [line[0] for line in lines if line and line[0] in (*NAMES, "(all)")]
    assert names == ["up/kernel", "down/bias", "down/kernel", "(all)"]
    found = _json(tmp_path, capsys)
    assert [one["variable"] for one in found["variables"]] == names
    rules = [[reason["rule"] for reason in one["attention"]] for one in found["variables"]]
    assert rules == [["dead"], ["moving fast"], [], []]
    assert found["variables"][2]["norm"] == pytest.approx(2.0)
    assert found["step"] == 60


def test_a_rank_that_stands_out_is_named_of_two_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, losses=(0.5, 0.75))
    assert any(line.startswith("rank 1: its loss is 1.5 times the others'") for line in _text(tmp_path, capsys))
    found = _json(tmp_path, capsys)
    assert [(one["rank"], one["measure"]) for one in found["odd_ranks"]] == [(1, "loss")]
    assert [one["loss_to_others"] for one in found["ranks"]] == pytest.approx([1 / 1.5, 1.5], rel=0.02)
    assert [one["examples"] for one in found["ranks"]] == [240, 240]


def test_sound_ranks_are_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path)
    assert "no rank stands out" in _text(tmp_path, capsys)
    assert _json(tmp_path, capsys)["odd_ranks"] == []


def test_one_worker_is_told_without_what_needs_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = np.full(3, np.nan)
    _run(tmp_path, losses=(0.5,), groups=1, signal=unknown, noise=unknown)
    lines = _text(tmp_path, capsys)
    assert not any("stands out" in line for line in lines)
    found = _json(tmp_path, capsys)
    assert found["variables"][-1]["noise_scale"] is None
    assert found["ranks"] == []


def test_the_newest_advice_is_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _run(tmp_path)
    log = RecordLog(folder.metrics)
    for event, text in (("advice", "old"), ("advice", "new"), ("skipped", "no")):
        log.write_timed("event", event=event, step=3, epoch=0, position=24, text=text)
    log.close()
    assert _text(tmp_path, capsys)[-1] == "new"
    assert _json(tmp_path, capsys)["advice"] == "new"


def test_the_newest_steps_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A variable that died long ago is dead, whatever it did before."""
    folder = _run(tmp_path, 300)
    table = GradientTable(folder.gradients, NAMES, "float32")
    for step in range(301, 502):
        table.write(step, 9, measures(moments(step, norm_squares=np.array([4.0, 0.0, 9.0]))), ranks(step))
    table.close()
    assert _json(tmp_path, capsys)["variables"][0]["variable"] == "down/bias"


def test_a_norm_that_has_grown_is_compared_with_the_steps_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path)
    table = GradientTable(folder.gradients, NAMES, "float32")
    for step in range(1, 301):
        squares = np.array([4.0, 1.0 if step <= 100 else 1e4, 9.0])
        table.write(step, 0, measures(moments(step, norm_squares=squares)), ranks(step))
    table.close()
    worst = _json(tmp_path, capsys)["variables"][0]
    assert worst["variable"] == "down/bias"
    assert worst["attention"][0] == {"rule": "exploding", "text": "norm 1e+02 times that of before"}


def test_a_run_without_statistics_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "run")
    assert "gradients.enabled" in _refused([str(tmp_path / "run"), "--gradients"], capsys)
    (tmp_path / "empty").mkdir()
    assert "no run here" in _refused([str(tmp_path / "empty"), "--gradients", "--json"], capsys)


def test_a_damaged_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _run(tmp_path)
    (folder.gradients / "ranks" / "00000001.parquet").write_bytes(b"no")
    assert "00000001.parquet" in _refused([str(tmp_path), "--gradients"], capsys)


@pytest.mark.parametrize("losses", [(0.5, 0.75), (0.5,)])
def test_a_plot_is_a_picture(tmp_path: Path, losses: tuple[float, ...], capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, 300, losses)
    assert main(["inspect", str(tmp_path), "--gradients", "--plot", str(tmp_path / "plot.svg")]) == 0
    words = " ".join(ElementTree.parse(tmp_path / "plot.svg").getroot().itertext())  # noqa: S314
    assert "down/kernel" in words
    assert "noise scale" in words
    assert ("rank 1" in words) == (len(losses) > 1)


def test_a_plot_may_be_a_png(tmp_path: Path) -> None:
    _run(tmp_path)
    assert main(["inspect", str(tmp_path), "--gradients", "--plot", str(tmp_path / "plot.png")]) == 0
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size == (1040, 720)
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gradients", "--plot", "plot.pdf"], "expected a name that ends in .png or .svg"),
        (["--plot", "plot.png"], "expected --gradients"),
        (["--gradients", "--plot", "nowhere/plot.png"], "nowhere/plot.png: cannot be written"),
    ],
)
def test_a_plot_that_cannot_be_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _run(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert words in _refused([".", *arguments], capsys)


def test_neither_tensorflow_nor_matplotlib_is_waited_for(tmp_path: Path) -> None:
    _run(tmp_path)
    code = (
        "import sys; from distrain.cli.main import main; main(sys.argv[1:]); "
        "print(*({'tensorflow', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "inspect", str(tmp_path), "--gradients"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
