"""What users are told of a mistake: the file or key, what was seen, what was expected, and the name that was meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from distrain.cli.main import main
from distrain.data.select import make_provider
from distrain.errors import BadInput
from distrain.factory import call_factory
from distrain.job.load import load_job
from distrain.log.folder import RunFolder
from distrain.nearest import nearest, nearest_path, one_of
from tests.support import make_job

JOB = "data: {train: {provider: circles}}\n"


def refused(arguments: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a command line is refused with."""
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("distrain: ")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.best=iou", "'checkpoint.best' is 'iou', expected 'data.validation' beside it"),
        ("train.remainder=kep", "'train.remainder': expected 'keep' or 'drop', got 'kep', did you mean 'keep'?"),
        ("train.remainder=no", "'train.remainder': expected 'keep' or 'drop', got 'false'"),
        ("train.epochs=ten", "'train.epochs': expected a whole number, got 'ten'"),
        ("train.clip_norm=much", "'train.clip_norm': expected a number, got 'much'"),
        ("log.examples=often", "'log.examples': expected true or false, got 'often'"),
        ("data.train.radius=5", "'data.train.radius': expected a list, got '5'"),
        ("data.train.radius=[]", "'data.train.radius': expected 2 values, got '[]'"),
        ("data.train.radius=[1,2,3]", "'data.train.radius': expected 2 values, got '[1, 2, 3]'"),
        ("data.train={provider: image_pairs, images: 5, labels: x}", "'data.train.images': expected text, got '5'"),
        (
            "data.train={provider: image_pairs}",
            "'data.train.images' is missing, expected: Images: a folder, a glob, a file, a URL, or a list of these.",
        ),
        (
            "data.train={provider: callable, factory: mine, examples: 3}",
            "'data.train.factory': expected package.module:factory, got 'mine'",
        ),
        (
            "data.train={provider: arrays, images: x.npy}",
            "'data.train': expected images and labels (NPY), or files (NPZ), got images",
        ),
        (
            "data.train={provider: arrays}",
            "'data.train': expected images and labels (NPY), or files (NPZ), got neither",
        ),
        (
            "optimizer.decay_every=1 epoc",
            "'optimizer.decay_every': unknown unit 'epoc', did you mean 'epochs'? "
            "Expected one of steps, epochs, examples, seconds, minutes, hours, got '1 epoc'",
        ),
        ("log.mlflow.url=x", "unknown key 'log.mlflow.url', did you mean 'uri'? Expected one of uri, experiment"),
        (
            "log.wandb.mode=of",
            "'log.wandb.mode': expected 'online' or 'offline', got 'of'",
        ),
    ],
)
def test_of_a_job(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    with pytest.raises(BadInput) as raised:
        load_job(path, [override])
    assert str(raised.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "job.yaml"], "argument COMMAND: 'trian', did you mean 'train'? Expected one of train, launch, "),
        (["data", "chek", "job.yaml"], "argument ACTION: 'chek', did you mean 'check'? Expected one of index, check, "),
        (["train", "job.yaml", "--fesh"], "unrecognized arguments: --fesh, did you mean '--fresh'?"),
        (
            ["launch", "--controler=mpi", "-n", "2"],
            "unrecognized arguments: --controler=mpi, did you mean '--controller'?",
        ),
        (
            ["launch", "--controller", "mpj", "-n", "2"],
            "argument --controller: 'mpj', did you mean 'mpi'? Expected one of gloo, mpi",
        ),
        (
            ["train", "jbo.yaml"],
            "jbo.yaml: cannot be read (No such file or directory), expected a job file, did you mean 'job.yaml'?",
        ),
        (
            ["inspect", "runs/circle"],
            "runs/circle: no run here, expected a folder with a job.yaml, did you mean 'circles'?",
        ),
        (["inspect", "runs/squares"], "runs/squares: no run here, expected a folder with a job.yaml"),
        (
            ["report", "runs/circle"],
            "runs/circle: no run here, expected a folder with a job.yaml, did you mean 'circles'?",
        ),
        (
            ["launch", "-n", "2", "--", "trian", "job.yaml"],
            "launch: expected '-- train JOB.yaml ...', evaluate or predict, "
            "or '-- PROGRAM.py ...', got 'trian job.yaml', did you mean 'train'?",
        ),
        (
            ["launch", "-n", "2", "--", "porg.py"],
            "launch: porg.py: no such file, expected a program, did you mean 'prog.py'?",
        ),
        (
            ["launch", "-n", "3", "--hosts", "a:2", "--", "train", "job.yaml"],
            "launch: -n is 3, expected at most the 2 slots of the hosts",
        ),
        (
            ["launch", "--hostfile", "none", "--", "train", "job.yaml"],
            "--hostfile: none: cannot be read (No such file or directory), expected a file of hosts",
        ),
        (
            ["launch", "--elastic", "1:2", "--", "train", "job.yaml"],
            "launch: expected --discover SCRIPT beside --elastic",
        ),
        (
            ["launch", "--discover", "x", "--", "train", "job.yaml"],
            "launch: expected --elastic MIN:MAX beside --discover",
        ),
        (
            [
                "launch",
                "--elastic",
                "1:2",
                "--discover",
                "x",
                "--hosts",
                "a",
                "--controller",
                "mpi",
                "--",
                "train",
                "job.yaml",
            ],
            "launch: --elastic has its hosts from --discover and is carried by gloo, "
            "expected no --hosts, --controller mpi",
        ),
        (
            ["launch", "--slurm", "-n", "2", "--hosts", "a", "--", "train", "job.yaml"],
            "launch: --slurm has hosts and numbers from the Slurm job, expected no --hosts and no -n",
        ),
    ],
)
def test_of_a_command_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "prog.py").touch()
    for name in ("circles", "circle_pictures"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "circles" / "job.yaml").write_text(JOB)
    assert refused(arguments, capsys).startswith(message)


def function(spec: object, features: int = 8, *, depth: int = 3) -> int:
    return 5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            f"{__name__}:functoin",
            {},
            f"'model': module '{__name__}' has no function 'functoin', did you mean 'function'?",
        ),
        (
            f"{__name__}:function",
            {"featurs": 4},
            f"'model': {__name__}:function cannot be called like this (got an unexpected keyword argument 'featurs'), "
            "expected from spec, features, depth, did you mean 'features'?",
        ),
        (
            f"{__name__}:function",
            {"zzz": 4},
            f"'model': {__name__}:function cannot be called like this (got an unexpected keyword argument 'zzz'), "
            "expected from spec, features, depth",
        ),
    ],
)
def test_of_a_factory(monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object], message: str) -> None:
    import sys

    monkeypatch.setitem(sys.modules, __name__, sys.modules[function.__module__])
    with pytest.raises(BadInput) as raised:
        call_factory(name, dict(options), "the spec", key="model")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"provider": "image_pairs", "images": "imags", "labels": "labels"},
            "'data.train': images: imags: no such file or folder, expected images to read, did you mean 'images'?",
        ),
        (
            {"provider": "callable", "factory": "tests.test_messages:constant", "examples": 3},
            "'data.train': tests.test_messages:constant returned int, expected a function provider(n) -> (x, y)",
        ),
        (
            {"provider": "tests.test_messages:constant"},
            "'data.train': tests.test_messages:constant returned int, expected a provider: spec, len and read(index)",
        ),
    ],
)
def test_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: dict[str, object], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    with pytest.raises(BadInput) as raised:
        make_provider(make_job(data={"train": train}).data.train, key="data.train", seed=1)
    assert str(raised.value) == message


def constant() -> int:
    return 5


def test_a_name_far_from_all_is_no_hint(tmp_path: Path) -> None:
    assert nearest("xyz", ["train", "launch"]) == ""
    assert one_of("xyz", ["train", "launch"]) == ", expected one of train, launch"
    assert one_of("xyz", []) == ""
    assert nearest_path(tmp_path / "nowhere" / "file") == ""
    (tmp_path / "run").mkdir()
    assert nearest_path(tmp_path / "rnu") == ", did you mean 'run'?"
    assert nearest_path(tmp_path / "rnu", holding="job.yaml") == ""
    assert nearest_path(tmp_path / "run") == ""
    with pytest.raises(BadInput, match=r"run: no run here, expected a folder with a job\.yaml$"):
        RunFolder(tmp_path / "run").require()
