"""The reference page and the JSON schema say what the job file's keys are."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from distrain.job.load import read_yaml
from distrain.job.reference import page, schema
from tests.processes.worlds import JOB

ROOT = Path(__file__).parents[2]


def test_both_files_are_as_they_would_be_written_now() -> None:
    assert (ROOT / "docs" / "job.md").read_text(encoding="utf-8") == page(), "make reference"
    assert json.loads((ROOT / "docs" / "job.schema.json").read_text(encoding="utf-8")) == schema(), "make reference"


@pytest.mark.parametrize("path", sorted((ROOT / "launch" / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_takes_the_job_files_of_this_project(path: Path) -> None:
    jsonschema.validate(read_yaml(path), schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"trian": {}},
        {"train": {"batch_size": "8"}},
        {"train": {"batch_sizes": 8}},
        {"data": {"train": {"provider": "circles", "examples": 0}}},
        {"model": {"name": "unet", "layers": "3"}},
    ],
)
def test_and_refuses_what_a_run_would_refuse(wrong: dict[str, object]) -> None:
    jsonschema.validate({**JOB, "gradients": False}, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**JOB, **wrong}, schema())


def test_each_key_has_its_row() -> None:
    text = page()
    for words in ("## data.augment", "### provider: tfrecords", "### name: adam", "| `stall_timeout` | duration |"):
        assert words in text
