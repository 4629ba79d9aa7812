"""Opening a run's folder, as a rank 0 does that takes the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from distrain.checkpoint.store import Progress
from distrain.errors import BadInput
from distrain.job.load import resolved
from distrain.log.folder import claim, write_job
from distrain.train.opening import Request, reopen
from tests.support import make_job


def test_a_folder_that_is_not_shared_is_refused_and_left_alone(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(BadInput, match=r"holds no job.yaml, expected the run's folder, which all hosts must share"):
            reopen(Request(make_job(), folder), Progress(), Progress())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty"]


def test_a_folder_of_another_job_is_refused(tmp_path: Path) -> None:
    request = Request(make_job(seed=1), tmp_path)
    write_job(request.folder, resolved(make_job(seed=2)), {})
    with pytest.raises(BadInput, match="another job"):
        reopen(request, Progress(), Progress())


def test_the_runs_own_folder_is_taken(tmp_path: Path) -> None:
    request = Request(make_job(seed=1), tmp_path)
    write_job(request.folder, resolved(request.job), {})
    progress = Progress(step=3, position=12)
    opened = reopen(request, progress, progress)
    assert opened.progress == progress
    with pytest.raises(BadInput, match="another run is using it"):
        claim(tmp_path)
    opened.release()
