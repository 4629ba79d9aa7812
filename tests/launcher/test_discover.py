"""The script that lists the hosts of an elastic world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distrain.cli.launch import check_elastic
from distrain.errors import BadInput
from distrain.launcher.command import World, parse_elastic, start_command
from distrain.launcher.discover import discovered, is_local
from tests.support import make_job


def script(folder: Path, text: str, mode: int = 0o755) -> Path:
    path = folder / "discover.sh"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(mode)
    return path


def test_hosts_with_and_without_workers(tmp_path: Path) -> None:
    assert discovered(script(tmp_path, "echo h1:2; echo h2")) == ["h1", "h2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("exit 3", "exit code 3"), ("true", "printed nothing"), ("echo h1:x", "printed 'h1:x'"), ("echo :2", "':2'")],
)
def test_what_lists_no_hosts_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        discovered(script(tmp_path, text))


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be run"):
        discovered(script(tmp_path, "", mode=0o644))
    with pytest.raises(BadInput, match="cannot be run"):
        discovered(tmp_path / "none")


def test_names_of_this_machine() -> None:
    assert is_local("localhost")
    assert is_local("127.1")
    assert not is_local("192.0.2.1")


@pytest.mark.parametrize("text", ["", "2", "2:1", "0:3", "a:b", "1:2:3", "-1:2"])
def test_bounds_that_are_none(text: str) -> None:
    with pytest.raises(BadInput, match="MIN:MAX"):
        parse_elastic(text)


def test_the_command_has_bounds_and_script(tmp_path: Path) -> None:
    world = World(2, elastic=parse_elastic("1:4"), discover=tmp_path / "d", discovered_local=True)
    line = " ".join(start_command(world, ["train", "job.yaml"], {}).arguments)
    assert f"-np 2 --min-np 1 --max-np 4 --host-discovery-script {tmp_path}/d" in line
    assert "--network-interfaces lo" in line


@pytest.mark.parametrize(
    "train", [{"batch_size_per_worker": 2}, {"batch_size": 3}, {"batch_size": 4, "reduction": "adasum"}]
)
def test_a_job_that_would_change_with_its_workers_is_refused(train: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=list(train)[-1]):
        check_elastic(make_job(train=train, gradients=False), most=4)
    check_elastic(make_job(train={"batch_size": 4}), most=4)
