"""A real run that answers while it trains."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes.worlds import begin, end, train, wait_for_record, write_job

pytestmark = pytest.mark.processes

JOB = {"train": {"batch_size": 8, "epochs": None, "steps": 1_000_000}, "log": {"tensorboard": False, "serve": "0"}}


def _ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (a URL that the run has told)
        content: bytes = answer.read()
    return content.decode()


def test_a_run_of_two_workers_answers_and_a_port_that_is_taken_is_bad_input(tmp_path: Path) -> None:
    job, run = write_job(tmp_path, **JOB), tmp_path / "run"
    process = begin("launch", job, "--run-dir", run)
    wait_for_record(run, "step", 3, process)
    assert process.stdout is not None
    url = next(found[1] for line in process.stdout if (found := re.search(r"live at (http://\S+/)", line)))
    families = text_string_to_metric_families(_ask(f"{url}metrics"))
    told = {sample.name: sample.value for family in families for sample in family.samples}
    assert told["distrain_workers"] == 2
    assert told["distrain_steps_total"] >= 3
    assert 0 < told["distrain_loss"] < 10
    assert re.fullmatch(r"step \d+ of 1000000, \d+ s since the last one\n", _ask(f"{url}healthz"))
    assert "<html" in _ask(url)

    port = url.rstrip("/").rpartition(":")[2]
    second = train("launch", job, "--run-dir", tmp_path / "second", "-o", f"log.serve={port}")
    assert (second.code, len(second.errors.splitlines())) == (2, 1)
    assert f"'log.serve': 127.0.0.1 port {port} cannot be had" in second.errors

    process.terminate()
    assert end(process).code == 75
