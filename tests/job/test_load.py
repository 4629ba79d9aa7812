"""Job files: defaults, overrides, and one line for every mistake, naming file and key, what was seen and expected."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from distrain.errors import BadInput
from distrain.job.load import check_job, conflicts, differences, digest, load_job, resolved
from distrain.job.schema import Adam, Circles, CustomOptimizer, ImagePairs, Momentum, UNet

JOBS = Path(__file__).parents[2] / "launch" / "jobs"
SMALL = "data: {train: {provider: circles}}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(BadInput) as caught:
        load_job(write(folder, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_origins_job() -> None:
    job = load_job(JOBS / "circles.yaml")
    assert isinstance(job.data.train, Circles)
    assert isinstance(job.model, UNet)
    assert isinstance(job.optimizer, Momentum)
    assert (job.seed, job.train.batch_size, job.train.epochs) == (7, 8, 4)
    assert (job.optimizer.learning_rate, str(job.optimizer.decay_every)) == (0.2, "1 epoch")


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_repositorys_jobs_are_good_and_resolve_to_themselves(path: Path) -> None:
    job = load_job(path)
    assert check_job(resolved(job), source="resolved") == job


def test_defaults_stand_where_nothing_is_said(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL))
    assert isinstance(job.model, UNet)
    assert (job.model.layers, job.model.features, job.model.padding) == (3, 16, "valid")
    assert (job.checkpoint.keep, job.parallel.verify_every, job.train.max_bad_steps) == (3, 100, 3)
    assert job.gradients.enabled


def test_overrides_are_yaml_with_dotted_keys(tmp_path: Path) -> None:
    overrides = ["optimizer.learning_rate=1e-3", "data.train.radius=[2, 9]", "gradients=off", "optimizer.name=adam"]
    job = load_job(write(tmp_path, SMALL), overrides)
    assert isinstance(job.optimizer, Adam)
    assert isinstance(job.data.train, Circles)
    assert (job.optimizer.learning_rate, job.data.train.radius, job.gradients.enabled) == (0.001, (2, 9), False)


def test_a_model_without_a_name_is_the_default(tmp_path: Path) -> None:
    model = load_job(write(tmp_path, SMALL), ["model={layers: 2}"]).model
    assert isinstance(model, UNet)
    assert model.layers == 2


def test_a_factorys_options_are_kept(tmp_path: Path) -> None:
    optimizer = load_job(write(tmp_path, SMALL), ["optimizer={name: 'a.b:c', rate: 3}"]).optimizer
    assert isinstance(optimizer, CustomOptimizer)
    assert optimizer.options == {"rate": 3}


def test_paths_may_be_a_list(tmp_path: Path) -> None:
    train = "{provider: image_pairs, images: [a, b], labels: c}"
    options = load_job(write(tmp_path, SMALL), [f"data.train={train}"]).data.train
    assert isinstance(options, ImagePairs)
    assert options.images == ("a", "b")


@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("null", None),
        ("9464", ("127.0.0.1", 9464)),
        ("'0'", ("127.0.0.1", 0)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),  # noqa: S104 (what is asked for)
        ("'[::1]:80'", ("::1", 80)),
    ],
)
def test_where_a_run_answers(tmp_path: Path, value: str, endpoint: tuple[str, int] | None) -> None:
    job = load_job(write(tmp_path, SMALL), [f"log.serve={value}"])
    assert job.log.endpoint == endpoint
    assert check_job(resolved(job), source="resolved").log.endpoint == endpoint


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.batchsize=3", ["unknown key 'train.batchsize'", "did you mean 'batch_size'"]),
        ("trian.epochs=2", ["unknown key 'trian'", "did you mean 'train'"]),
        ("data.train.exampels=3", ["'data.train.exampels'", "did you mean 'examples'"]),
        ("data.train.provider=circle", ["'data.train.provider' is 'circle'", "did you mean 'circles'"]),
        ("model.name=unett", ["'model.name' is 'unett'", "did you mean 'unet'"]),
        ("optimizer.momentum=x", ["'optimizer.momentum'", "number", "'x'"]),
        ("train.epochs=2.5", ["'train.epochs'", "whole number", "'2.5'"]),
        ("train.batch_size='8'", ["'train.batch_size'", "whole number"]),
        ("train.batch_size=true", ["'train.batch_size'", "whole number", "'true'"]),
        ("data.train.radius=[9,3]", ["'data.train.radius'", "smallest <= largest", "[9, 3]"]),
        ("checkpoint.every=3 foo", ["'checkpoint.every'", "'foo'", "epochs"]),
        ("train=3", ["'train'", "section", "'3'"]),
        ("optimizer.decay_every=3 minutes", ["'optimizer.decay_every'", "steps, epochs or examples"]),
        ("seed=-1", ["'seed'", "greater than or equal to 0", "'-1'"]),
        ("name=a/b", ["'name'", "'a/b'"]),
        ("optimizer.learning_rate=.inf", ["'optimizer.learning_rate'", "finite"]),
        ("data.train={}", ["'data.train.provider' is missing", "circles"]),
        ("data=", ["'data'", "section"]),
        ("data.train={provider: image_pairs, images: a}", ["'data.train.labels' is missing"]),
        ("name.foo=1", ["'name' holds 'job'"]),
        ("x", ["KEY=VALUE"]),
        ("data.train=[1", ["not valid YAML"]),
        ("train.reduction=adasum", ["train.reduction is 'adasum'", "expected gradients: off"]),
        ("train={reduction: adasum, sync_batch_norm: true}", ["'train'", "expected sync_batch_norm or reduction"]),
        ("parallel.jit_compile=maybe", ["'parallel.jit_compile'", "expected True, False or 'auto'", "got 'maybe'"]),
        ("log.serve=65536", ["'log.serve'", "ADDRESS:PORT", "'65536'"]),
        ("log.serve=example.org:80", ["'log.serve'", "ADDRESS:PORT", "'example.org:80'"]),
        ("log.serve=::1:80", ["'log.serve'", "[::1]:9464", "'::1:80'"]),
        ("log.serve=true", ["'log.serve'", "ADDRESS:PORT"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path: Path, override: str, words: list[str]) -> None:
    message = refusal(tmp_path, "name: job\n" + SMALL, override)
    assert str(tmp_path / "job.yaml") in message or message.startswith(f"-o {override}")
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["mapping"]),
        ("- 1\n", ["mapping", "[1]"]),
        ("a: [1\n", ["line 2", "not valid YAML"]),
        (SMALL + SMALL, ["'data' given twice", "line 2"]),
        ("a: !!python/object:os.system {}\n", ["not valid YAML"]),
        ("train: {epochs: 2, steps: 3}\n" + SMALL, ["'train'", "epochs or steps", "both"]),
        ("train: {batch_size: 2, batch_size_per_worker: 3}\n" + SMALL, ["'train'", "both"]),
        (
            "train: {sync_batch_norm: true}\nparallel: {jit_compile: true}\n" + SMALL,
            ["train.sync_batch_norm is true", "expected parallel.jit_compile: auto"],
        ),
        ("seed: 3\n", ["'data' is missing"]),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refusal(tmp_path, text)
    assert str(tmp_path / "job.yaml") in message
    for word in words:
        assert word in message, message


def test_no_file_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.yaml: cannot be read \(No such file"):
        load_job(tmp_path / "nothing.yaml")
    with pytest.raises(BadInput, match="cannot be read"):
        load_job(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not UTF-8"):
        load_job(tmp_path / "binary.yaml")


def test_a_job_is_frozen(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL))
    with pytest.raises(ValidationError):
        job.train.epochs = 3  # type: ignore[misc]  # what is tested


def test_the_digest_tells_jobs_apart_and_spellings_not(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL))
    assert digest(job) == digest(load_job(write(tmp_path, SMALL + "seed: 0\ncheckpoint: {every: 1 epochs}\n")))
    assert digest(job) != digest(load_job(write(tmp_path, SMALL + "seed: 1\n")))


def test_what_makes_another_job(tmp_path: Path) -> None:
    old = resolved(load_job(write(tmp_path, SMALL)))
    new = resolved(load_job(write(tmp_path, SMALL), ["train.epochs=9", "seed=1", "log.every=5"]))
    assert differences(old, new) == ["log.every: 1 step -> 5 steps", "seed: 0 -> 1", "train.epochs: None -> 9"]
    assert conflicts(old, new) == ["seed: 0 -> 1"]
