"""Command lines that cannot be meant: exit code 2 and one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distrain.cli.main import main

JOB = str(Path(__file__).parents[2] / "launch" / "jobs" / "circles.yaml")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "COMMAND"),
        (["fly"], "'fly'"),
        (["train"], "JOB.yaml"),
        (["train", JOB, "--bogus"], "--bogus"),
        (["launch", "--", "train", JOB], "-n N"),
        (["launch", "-n", "0", "--", "train", JOB], "-n is 0"),
        (["launch", "-n", "x", "--", "train", JOB], "'x'"),
        (["launch", "-n", "2"], "nothing"),
        (["launch", "-n", "2", "--", "fly"], "'fly'"),
        (["launch", "-n", "2", "--", "train", JOB, "--bogus"], "--bogus"),
        (["launch", "-n", "2", "--", "train"], "JOB.yaml"),
        (["launch", "-n", "2", "--", "train", JOB, "-o", "train.foo=1"], "train.foo"),
        (["launch", "-n", "3", "--hosts", "a:1,b:1", "--", "train", JOB], "2 slots"),
        (["launch", "--hosts", "a", "--hostfile", "b", "--", "train", JOB], "both"),
        (["launch", "-n", "2", "--hostfile", "/nowhere", "--", "train", JOB], "/nowhere"),
        (["inspect", "/nowhere"], "no run here"),
        (["bench", "--turns", "0"], "--turns 0"),
        (["bench", "--network", "10Gbit"], "'10Gbit'"),
        (["bench", "--network", "1.2.3us:1Gbit"], "'1.2.3us:1Gbit'"),
        (["bench", "-n", "1", "--only", "simulation"], "-n 2"),
        (["bench", "--fails-every", "0"], "--fails-every 0"),
        (["bench", "--plot", "figures.pdf"], "figures.pdf"),
        (["bench", "--only", "scaling", "-o", "train.batch_size=5"], "'train.batch_size' is 5"),
        (["bench", "-o", "train.bach_size=5"], "train.bach_size"),
        (["bench", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_is_refused_in_one_line(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert len(errors.splitlines()) == 1
    assert errors.startswith("distrain: ")
    assert word in errors


def test_a_dry_run_prints_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "-n", "2", "--dry-run", "--", "train", JOB, "-o", "seed=3"]) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"-m distrain train {JOB} -o seed=3")


LOADED = """
import sys
from distrain.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("loaded", *sorted(name for name in sys.modules if "." not in name))
"""
SLOW = {"tensorflow", "keras", "pandas", "matplotlib", "cv2", "pyfive"}


@pytest.mark.parametrize(
    ("arguments", "not_loaded"),
    [
        (["--help"], SLOW | {"numpy", "pydantic"}),
        (["fly"], SLOW | {"numpy", "pydantic"}),
        (["inspect", "/nowhere"], SLOW | {"numpy"}),
        (["train", "/nowhere"], SLOW),
        (["launch", "-n", "2", "--", "train", "/nowhere"], SLOW),
        (["launch", "-n", "2", "--", "predict", "/nowhere", "in", "out"], SLOW),
        (["evaluate", "/nowhere"], SLOW),
        (["export", "/nowhere", "out"], SLOW),
        (["data", "check", "/nowhere"], SLOW),
    ],
)
def test_answers_without_loading_what_it_does_not_need(arguments: list[str], not_loaded: set[str]) -> None:
    ended = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=False)
    loaded = set(ended.stdout.splitlines()[-1].split())
    assert "distrain" in loaded
    assert not loaded & not_loaded
