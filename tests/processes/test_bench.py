"""`distrain bench` on real worlds: small ones, so that it is the way that is tested, not the speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes.worlds import WAYS, begin_program, end, write_job

pytestmark = pytest.mark.processes

ALONE = WAYS["alone"]


def _bench(folder: Path, *arguments: str) -> dict[str, dict[str, dict[str, Any]]]:
    job = write_job(folder, model={"layers": 2, "features": 2})
    path = folder / "figures.json"
    # Each step proves that the ranks are alike: what is measured must leave them so.
    overrides = ["-o", "train.batch_size=4", "-o", "parallel.verify_every=1"]
    command = [*ALONE, "bench", str(job), *overrides, "--turns", "2", "--json", str(path), *arguments]
    ended = end(begin_program(command))
    assert ended.code == 0, ended.errors
    content = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for figure in content["figures"]:
        assert figure["low"] <= figure["median"] <= figure["high"]
        assert f"  {figure['name']} " in ended.output
        found.setdefault(figure["part"], {})[figure["name"]] = figure
    assert content["job"]["train"]["batch_size"] == 4
    return found


def test_what_is_measured_inside_a_world(tmp_path: Path) -> None:
    parts = [word for part in ("step", "service", "epoch", "allreduce", "checkpoint") for word in ("--only", part)]
    found = _bench(tmp_path, *parts, "--controller", "mpi", "--plot", str(tmp_path / "figures.png"))
    assert list(found) == ["step", "service", "epoch", "allreduce", "checkpoint"]
    step = {name: figure["median"] for name, figure in found["step"].items()}
    assert set(step) == {"whole", "forward and backward", "allreduce", "statistics", "optimizer, norms, the rest"}
    assert step["whole"] > 0
    assert step["forward and backward"] > 0
    assert found["service"]["examples of all workers"]["median"] > 0
    assert found["epoch"]["bare loop / service"]["median"] > 0
    assert found["epoch"]["bare loop of Keras's layers / service"]["median"] > 0
    assert {"copy 4 KiB", "Horovod 4 KiB", "mpi4py 4 KiB", "mpi4py 100 MB"} <= set(found["allreduce"])
    assert found["checkpoint"]["copy of the state"]["median"] > 0
    assert (tmp_path / "figures.png").exists()


@pytest.mark.soak
def test_what_is_measured_by_starting_worlds(tmp_path: Path) -> None:
    found = _bench(tmp_path, "--only", "scaling", "--only", "startup", "--only", "simulation")
    assert {"weak, 1", "weak, 2", "strong, 1", "strong, 2", "side by side, 2"} <= set(found["scaling"])
    assert 0 < found["scaling"]["weak efficiency, 2 / side by side"]["median"] < 2
    assert found["start-up"]["distrain launch / mpirun"]["median"] > 0
    worlds = [figure["median"] for name, figure in found["simulation"].items() if name.startswith("efficiency")]
    assert len(worlds) == 12
    assert worlds == sorted(worlds, reverse=True)
    assert found["simulation"]["2 workers here, predicted / measured"]["median"] > 0
