"""Every block of code on the documentation's pages is something: commands, a program, a job, or plain text."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distrain.cli import launch
from distrain.cli.parser import Parser
from distrain.cli.reference import page as command_line
from distrain.job.load import check_job
from distrain.train.schedule import make_schedule
from tests.documentation.accounted import THESE
from tests.documentation.markdown import ROOT, Block, blocks, commands, pages, text_of, trains

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
# Of a job's file, what a page leaves out.
REST = {"data": {"train": {"provider": "circles"}}}
FOLDERS = ("distrain", "docker", "docs", "k8s", "launch", "requirements", "tests")


def of(language: str) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.language == language]


def test_all_pages_are_reached() -> None:
    there = {
        str(path.relative_to(ROOT)) for folder in ("docs", "docker", "k8s") for path in (ROOT / folder).rglob("*.md")
    }
    assert set(PAGES) == there | {path.name for path in ROOT.glob("*.md")}


def test_every_block_says_what_it_is() -> None:
    """No command hides in a block that says nothing, or in an indented one."""
    known = ("sh", "python", "yaml", "text", "{toctree}", "{eval-rst}")
    assert [block.place for block in BLOCKS if block.language not in known] == []


def test_what_runs_these_tests_is_what_a_reader_runs() -> None:
    standing = {command for page in PAGES for command in commands(page)}
    assert set(THESE) <= standing
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1] == "exec make test"
    assert re.search(r"^test: check ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(standing) > 50
    assert len([command for command in standing if trains(command)]) > 12


# Elastic ones are refused by the launcher itself, which the tests of commands see.
LAUNCHED = {
    command
    for page in PAGES
    for command in commands(page)
    if command.startswith("distrain launch ") and trains(command) and "--elastic" not in command
}


@pytest.mark.parametrize("command", sorted(LAUNCHED))
def test_a_batch_has_an_example_for_each_worker(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parser = Parser(prog="distrain launch")
    launch.add_arguments(parser)
    found = parser.parse_args(shlex.split(command.replace("\\\n", ""), comments=True)[2:])
    _, job = launch._checked(found.worker[1:])
    make_schedule(job.train, examples=sys.maxsize, seed=job.seed, size=launch._world(found).count)


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, block.place)


@pytest.mark.parametrize("block", of("yaml"))
def test_yaml_is_of_a_job(block: Block) -> None:
    node = yaml.compose(block.text)
    if node is None:
        assert not re.search(r"^[^#]", block.text, re.MULTILINE)
        return
    for job in (*parts(node), yaml.safe_load(block.text)):
        data = {**REST["data"], **job.get("data", {})}
        check_job({**REST, **job, "data": data}, source=block.place)


def parts(node: yaml.Node) -> Iterator[Any]:
    """Each line that a block has for a key: a page shows several values of one key below each other."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        yield yaml.safe_load(yaml.serialize(node))
        return
    for key, value in node.value:
        for part in parts(value):
            yield {key.value: part}


def test_the_readmes_job_is_the_one_that_is_trained() -> None:
    (job,) = [block for block in BLOCKS if block.page == "README.md" and block.language == "yaml"]
    assert yaml.safe_load(job.text) == yaml.safe_load((ROOT / "launch/jobs/circles.yaml").read_text(encoding="utf-8"))


def test_the_command_lines_page_is_as_it_would_be_written_now() -> None:
    assert text_of("docs/command-line.md") == command_line(), "make reference"


@pytest.mark.parametrize("page", PAGES)
def test_what_prose_names_is_there(page: str) -> None:
    """Files of the repository, and the Makefile's targets."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    missing = []
    for span in re.findall(r"`([^`\n]+)`", prose):
        for word in span.split():
            inside = re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]+", word)
            if (
                inside
                and "NAME" not in word
                and not (ROOT / word).exists()
                and not (Path(ROOT / page).parent / word).exists()
            ):
                missing.append(word)
        made = re.match(r"make ([a-z-]+)", span)
        if made and made[1] not in targets:
            missing.append(span)
    assert missing == []
