"""What YAML and people's habits make of a job file behind their backs: no traceback, nothing taken for another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distrain.errors import BadInput
from distrain.job.duration import UNITS, Cursor, Duration
from distrain.job.load import check_job, conflicts, differences, digest, load_job, resolved
from distrain.job.schema import Job
from tests.support import make_job

CIRCLES = "data: {train: {provider: circles}}\n"


def _load(folder: Path, text: str, *overrides: str) -> Job:
    (folder / "job.yaml").write_text(text, encoding="utf-8")
    return load_job(folder / "job.yaml", overrides)


@pytest.mark.parametrize(
    "text", ["120 s", "10 S", "5 ss", "3 epochss", "1e3 steps", "2 e", "9" * 400, "1 step 2", "\u0661 step"]
)
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    """`120 s` above all: seconds to anybody, but no unit here."""
    with pytest.raises(ValueError, match=r"[Ee]xpected"):
        Duration.parse(text)


def test_a_number_beyond_all_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        Duration.parse(10**400)


@given(amount=st.integers(1, 10**15), unit=st.sampled_from(UNITS))
def test_every_duration_is_read_as_it_is_written(amount: int, unit: str) -> None:
    duration = Duration(float(amount), unit)
    assert Duration.parse(str(duration)) == duration


@given(every=st.integers(1, 20), steps=st.lists(st.integers(1, 7), min_size=1, max_size=30))
def test_what_is_due_is_due_as_often_as_it_fits(every: int, steps: list[int]) -> None:
    """However a run's positions are cut into steps, never two for one."""
    duration, position, due = Duration(every, "example"), 0, 0
    for size in steps:
        due += duration.due(Cursor(0, position), Cursor(0, position + size), epoch_examples=50)
        position += size
    assert due <= position // every
    assert (due == position // every) or every < 7


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "1e-03", "+1e-3", "0.1e-2", "10e-4", ".001"])
def test_scientific_notation_is_a_number(tmp_path: Path, text: str) -> None:
    job = _load(tmp_path, CIRCLES + f"optimizer: {{name: adam, learning_rate: {text}}}\n")
    assert resolved(job)["optimizer"]["learning_rate"] == 0.001


@pytest.mark.parametrize("name", ["e5", "1e5x", "a1e5", "1e", "v1e-3"])
def test_what_only_looks_like_it_stays_text(tmp_path: Path, name: str) -> None:
    assert _load(tmp_path, CIRCLES + f"name: {name}\n").name == name


@pytest.mark.parametrize(
    "line",
    [
        *("name: 2024-13-45", "name: 2024-01-01", "seed: 0x_", "name: !!binary x", "seed: !!int x", "name: !!float x"),
        *("seed: " + "9" * 5000, "name: *nowhere", "<<: 5", "? [a, b]\n: 1", "? {a: b}\n: 1", "train: {1: 2}"),
        *("train: {? [1] : 2}", "name: &a [*a]", "name: !own x", "%YAML 3.0", "name: \t x", "\0", "name: 'x"),
        *("log: {every: }", "train: [epochs, 2]", "null: 3", "optimizer: {learning_rate: .nan}", "seed: 1e400"),
        *("model: {name: ''}", "model: {name: null}", "loss: {class_weights: 3}", "loss: {class_weights: [1, .inf]}"),
    ],
)
def test_any_wrong_line_is_refused_in_one_line_that_names_the_file(tmp_path: Path, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        _load(tmp_path, CIRCLES + line + "\n")
    assert str(caught.value).startswith(str(tmp_path / "job.yaml"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_holds_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"job\.yaml"):
        _load(tmp_path, "data: &a {train: *a}\n")


@pytest.mark.parametrize("override", ["name=2024-13-45", "seed=0x_", "name=&a [*a]", "=3", "a..b=3", "name=[", "name"])
def test_a_wrong_override_is_refused_in_one_line_that_shows_it(tmp_path: Path, override: str) -> None:
    with pytest.raises(BadInput) as caught:
        _load(tmp_path, CIRCLES, override)
    assert "-o " + override in str(caught.value) or "'name'" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("train", "key"),
    [
        ("{provider: image_pairs, images: 5, labels: b}", "'data.train.images'"),
        ("{provider: image_pairs, images: [a, 5], labels: b}", r"'data.train.images(\.1)?'"),
        ("{provider: image_pairs, images: a, labels: b, crop: [1, x]}", r"'data.train.crop\.1'"),
        ("{provider: circles, radius: [5]}", r"'data.train.radius': expected 2 values, got '\[5\]'"),
        ("5", r"'data\.train\.provider' is missing"),
    ],
)
def test_the_key_is_the_users_without_any_word_of_the_checker(tmp_path: Path, train: str, key: str) -> None:
    with pytest.raises(BadInput, match=key):
        _load(tmp_path, f"data: {{train: {train}}}\n")


@pytest.mark.parametrize("key", ["data.train.radius[0]", "train.str", "str", "model.features(2)", "seed[int]"])
def test_an_unknown_key_is_named_whatever_it_is_made_of(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadInput) as caught:
        _load(tmp_path, CIRCLES, f"{key}=1")
    assert f"unknown key '{key}'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "override", "key", "expected"),
    [
        ("name: a=b\n", "name=c", "name", "c"),
        ("train: {epochs: 3}\n", "train.epochs=", "train.epochs", None),
        ("", "train={epochs: 3}", "train.epochs", 3),
        ("", "gradients.every=5", "gradients.every", 5),
        ("", "data.validation={provider: circles, seed: 9}", "data.validation.seed", 9),
    ],
)
def test_an_override_takes_the_place_of_what_stood_there(
    tmp_path: Path, text: str, override: str, key: str, expected: object
) -> None:
    value: Any = resolved(_load(tmp_path, text + CIRCLES, override))
    for part in key.split("."):
        value = value[part]
    assert value == expected


def test_the_later_override_counts_and_the_file_stays(tmp_path: Path) -> None:
    job = _load(tmp_path, CIRCLES + "seed: 1\n", "seed=2", "seed=3")
    assert job.seed == 3
    assert (tmp_path / "job.yaml").read_text() == CIRCLES + "seed: 1\n"


def test_a_key_given_twice_is_refused_at_any_depth(tmp_path: Path) -> None:
    for text in (
        "seed: 1\nseed: 2\n",
        "train: {epochs: 1, 'epochs': 2}\n",
        "model: {name: unet, layers: 2, layers: 2}\n",
    ):
        with pytest.raises(BadInput, match="given twice"):
            _load(tmp_path, CIRCLES + text)


SECTIONS: list[dict[str, Any]] = [
    {},
    {"gradients": False},
    {"train": {"steps": 3, "clip_norm": 1e-7, "precision": "float64"}, "log": {"every": "1.5 minutes"}},
    {"data": {"train": {"provider": "image_pairs", "images": ["a", "b"], "labels": "c", "crop": [3, 4]}}},
    {"data": {"train": {"provider": "my.own:data", "deep": {"list": [1, 2.5, None]}}}},
    {"model": {"name": "application", "architecture": "ResNet50", "options": {"alpha": 0.5}}},
    {"loss": {"class_weights": [1, 2.5]}, "optimizer": {"name": "my:own", "rate": 3}},
]


@pytest.mark.parametrize("sections", SECTIONS)
def test_a_resolved_job_is_a_job_file_of_the_same_job(tmp_path: Path, sections: dict[str, Any]) -> None:
    job = make_job(**sections)
    again = _load(tmp_path, yaml.safe_dump(resolved(job)))
    assert again == job
    assert digest(again) == digest(job)
    assert differences(resolved(again), resolved(job)) == []


def test_every_two_of_these_jobs_differ_in_digest_and_conflict() -> None:
    digests = {digest(make_job(**sections)) for sections in SECTIONS}
    assert len(digests) == len(SECTIONS)
    plain = resolved(make_job())
    assert all(conflicts(plain, resolved(make_job(**sections))) for sections in SECTIONS[1:])


@pytest.mark.parametrize(
    "sections",
    [
        {"name": "other"},
        {"train": {"steps": 9}},
        {"checkpoint": {"keep": 1}},
        {"log": {"examples": True}},
        {"parallel": {"threads": 2}},
    ],
)
def test_what_changes_no_weight_is_no_conflict(sections: dict[str, Any]) -> None:
    old, new = resolved(make_job()), resolved(make_job(**sections))
    assert differences(old, new)
    assert conflicts(old, new) == []


def test_defaults_are_as_the_design_has_them() -> None:
    job = resolved(check_job({"data": {"train": {"provider": "circles"}}}, source="test"))
    assert job["train"]["remainder"] == "keep"
    assert job["train"]["accumulate"] == 1
    assert (job["checkpoint"]["every"], job["checkpoint"]["keep"]) == ("1 epoch", 3)
    assert job["optimizer"]["decay_rate"] == 1
    assert job["data"]["validation"] is None
    assert job["log"]["examples"] is False
