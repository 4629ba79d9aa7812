"""The commands of the documentation do, as they stand, what the pages say of them.

They are collected from the pages and run by bash in a copy of the repository, in the order in which a reader gets to
them; a page goes on from what the pages before have made. A command that stands on several pages runs once. There, jobs
are made shorter and programs that need other machines have stand-ins: `accounted.py` lists both.
"""

from __future__ import annotations

import csv
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import environment
import pytest

from distrain.cli.inspect import summarise
from distrain.errors import EXIT_STOPPED
from tests.documentation.accounted import STAND_INS, THESE
from tests.documentation.markdown import ROOT, bare, blocks, interrupted, pages, trains
from tests.documentation.sandbox import Done, Sandbox
from tests.processes.worlds import BIN

pytestmark = pytest.mark.processes
# What the commands of a page listen at, or talk to where they are not to be answered.
PORTS = {"docs/monitoring.md": (9464, 5000)}


def run_page(sandbox: Sandbox, page: str, done: dict[str, Done]) -> list[str]:
    """Run a page's commands that have not run yet; returns those that ended otherwise than the page says."""
    wrong = []
    if page == "CONTRIBUTING.md":
        sandbox.put_away()
    for block in blocks(page):
        if block.file:
            sandbox.write(block)
        for command in block.commands:
            does = bare(command)
            if does in done or does in THESE:
                continue
            done[does] = ended = sandbox.run(command)
            print(f"{ended.seconds:6.1f} s {ended.steps:4} steps  {command}")
            if ended.code != (EXIT_STOPPED if interrupted(command) else 0):
                wrong.append(f"{block.place}: {command}\nended with {ended.code}:\n{ended.output[-2000:]}")
            elif trains(command) and not ended.steps:
                wrong.append(f"{block.place}: {command}\nmade no step:\n{ended.output[-2000:]}")
    return wrong


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    # `make` brings the environment up to date first, which must have nothing to do here: tests run in it.
    assert environment._up_to_date(Path(sys.prefix).resolve(), ("dev",), extras=True), "make check"
    # `make format` must have nothing to write in what the sandbox has links to.
    for command in (("format", "--check"), ("check",)):
        subprocess.run([BIN / "ruff", *command, ROOT / "docker"], check=True)
    return Sandbox(tmp_path_factory.mktemp("sandbox"))


@pytest.fixture(scope="module")
def done() -> dict[str, Done]:
    """What has run, by command."""
    return {}


@pytest.fixture
def ready(sandbox: Sandbox, done: dict[str, Done]) -> Sandbox:
    """A sandbox with the run that all pages go on from: that of the README's first command."""
    if not (sandbox.folder / "runs" / "circles").exists():
        done["make train"] = ended = sandbox.run("make train")
        assert ended.code == 0, ended.output
        assert ended.steps, ended.output
    return sandbox


@pytest.mark.parametrize("page", [page for page in pages() if any(block.commands for block in blocks(page))])
def test_the_commands_of_a_page_work(page: str, ready: Sandbox, done: dict[str, Done]) -> None:
    # What is somebody else's must be seen as that: not as a mistake of the page, and never written to.
    assert all(map(_free, PORTS.get(page, ()))), f"a port of {PORTS[page]}, which the page names, is somebody else's"
    wrong = run_page(ready, page, done)
    assert not wrong, "\n\n".join(wrong)


def _free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def test_every_stand_in_was_needed(ready: Sandbox, done: dict[str, Done]) -> None:
    pages = ("ssh", "slurm", "containers", "kubernetes", "gpus")
    run_pages(ready, done, {f"docs/{page}.md" for page in pages})
    assert ready.called() == set(STAND_INS)


def run_pages(sandbox: Sandbox, done: dict[str, Done], wanted: set[str]) -> None:
    for page in pages():
        if page in wanted:
            run_page(sandbox, page, done)


def test_every_way_of_starting_two_workers_here_comes_to_the_same_model(ready: Sandbox, done: dict[str, Done]) -> None:
    """To the bit, over Gloo and over MPI. (Workers of several hosts have more threads each.)"""
    run_pages(ready, done, {"README.md", "docs/horovodrun.md"})
    ways = ("circles", "two", "gloo", "mpi", "horovodrun", "mpirun")
    found = {way: summarise(ready.folder / "runs" / way) for way in ways}
    for way, summary in found.items():
        assert (summary["world_size"], summary["finished"]) == (2, True), way
        for name in ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256"):
            assert summary[name] == found["circles"][name], (way, name)


def test_a_stopped_run_comes_to_the_same_model(ready: Sandbox, done: dict[str, Done]) -> None:
    """As the tutorial says."""
    run_pages(ready, done, {"docs/tutorial.md"})
    shown = []
    for run in ("circles", "stopped"):
        shown.append(json.loads(ready.run(f"distrain inspect runs/{run} --json").output))
    assert shown[0]["finished"]
    assert shown[0]["weights_sha256"] == shown[1]["weights_sha256"]


def test_the_digits_are_learnt(ready: Sandbox, done: dict[str, Done]) -> None:
    """As the page on Keras programs says."""
    import keras

    run_pages(ready, done, {"docs/keras.md"})
    (output,) = [ended.output for command, ended in done.items() if "-n 2 -- digits.py" in command]
    # Rank 0 alone shows its progress.
    assert output.count("Epoch 1/4") == 1
    folder = ready.folder / "digits"
    newest = max((folder / "checkpoints").iterdir())
    assert json.loads((newest / "manifest.json").read_text(encoding="utf-8"))["progress"]["step"] == 100
    with (folder / "epochs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["accuracy"]) > 0.9
    assert 0 < float(rows[-1]["mean_norm"])
    assert keras.models.load_model(folder / "model.keras").count_params() > 0


def test_the_pages_in_the_sandbox_are_those_of_the_repository(ready: Sandbox, done: dict[str, Done]) -> None:
    """`make reference` has written what is there."""
    run_pages(ready, done, {"CONTRIBUTING.md"})
    for name in ("job.md", "job.schema.json", "command-line.md"):
        assert (ready.folder / "docs" / name).read_bytes() == (ROOT / "docs" / name).read_bytes()


def test_the_site_asks_for_nothing_from_elsewhere(ready: Sandbox, done: dict[str, Done]) -> None:
    """`make docs` has built it; links that a reader may follow are no requests."""
    run_pages(ready, done, {"CONTRIBUTING.md"})
    site = ready.folder / "build" / "site"
    written = {path: path.read_text(encoding="utf-8") for path in site.rglob("*") if path.suffix in (".html", ".css")}
    asked = [
        (path.name, tag)
        for path, text in written.items()
        for tag in re.findall(r"<(?!a\b)[^>]*(?:src|href)=\"(?:https?:)?//[^>]*>|url\(['\"]?https?:[^)]*\)", text)
    ]
    assert not asked
    assert 'http-equiv="refresh" content="0; url=docs/index.html"' in written[site / "index.html"]
    assert "weights_sha256" in written[site / "docs" / "tutorial.html"]
