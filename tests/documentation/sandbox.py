"""A copy of the repository for the documentation's commands: short jobs, images, and stand-ins for what is elsewhere.

What a command may write to (pages, jobs, sources) is copied, the rest is linked; so `make` finds the environment that
is there, and takes it for that of the repository. In the cache lies a Horovod for GPUs, which takes half an hour to
compile: the one for CPUs stands in for it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import build
import numpy as np
import psutil
import tools
import yaml
from PIL import Image

from tests.documentation.accounted import SHORTER, STAND_INS
from tests.documentation.markdown import ROOT, Block, interrupted
from tests.processes.worlds import MPI_AS_ROOT

SECONDS = 180.0
COPIED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "distrain", "docs", "k8s", "launch", "tests")
LINKED = ("LICENSE", "Makefile", "pyproject.toml", "requirements")


@dataclass(frozen=True)
class Done:
    """What a command left behind, how long it took, and how many steps more all runs have recorded since."""

    code: int
    output: str
    seconds: float
    steps: int


class Sandbox:
    """A folder in which the documentation's commands find what they name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)
        # Its pages are those of the site; its scripts know the repository by where they are.
        shutil.copytree(ROOT / "docker", folder / "docker", copy_function=_copy_page)
        (folder / ".venv").symlink_to(sys.prefix)
        for name, changes in SHORTER.items():
            _shorten(folder / "launch" / "jobs" / name, changes)
        _draw_images(folder)
        self._cache = folder / "cache"
        _fill_cache(self._cache)
        self._written: set[Path] = set()
        self._calls = folder / "calls.jsonl"
        self._programs = folder / "programs"
        self._programs.mkdir()
        for name in STAND_INS:
            program = self._programs / name
            program.write_text(
                f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("stand_in.py")}" {name} "$@"\n'
            )
            program.chmod(0o755)

    def write(self, block: Block) -> None:
        """Put a page's file where its commands look for it."""
        assert block.file is not None
        path = self.folder / block.file
        path.write_text(block.text, encoding="utf-8")
        self._written.add(path)

    def put_away(self) -> None:
        """Remove the pages' files: who changes the project has none of them in it."""
        for path in self._written:
            path.unlink()
        self._written.clear()

    def run(self, command: str, seconds: float = SECONDS) -> Done:
        """Run a command as it stands; one whose comment says Ctrl-C gets that after its first steps."""
        before, steps = time.monotonic(), self._steps()
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        if interrupted(command):
            self._interrupt(process)
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                each.kill()
            output, _ = process.communicate()
            output += f"\nno end within {seconds} s"
        return Done(process.returncode, output, time.monotonic() - before, self._steps() - steps)

    def called(self) -> set[str]:
        """Which stand-ins were called."""
        return {json.loads(line)[0] for line in self._calls.read_text(encoding="utf-8").splitlines()}

    def _steps(self) -> int:
        """How many steps stand in the records of all runs, those that were moved aside included."""
        return sum(_recorded(path) for path in self.folder.glob("runs/*/metrics.jsonl"))

    def _environment(self) -> dict[str, str]:
        # As `source .venv/bin/activate` has it, the stand-ins before.
        path = os.pathsep.join([str(self._programs), str(Path(sys.prefix) / "bin"), os.environ.get("PATH", os.defpath)])
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TF_NUM_", "PYTEST_", "MAKE"))
        }
        stand_ins = {"STAND_IN_CALLS": str(self._calls), "STAND_IN_UV": tools.get_uv()}
        elsewhere = {"XDG_CACHE_HOME": str(self._cache), "TF_CPP_MIN_LOG_LEVEL": "3"}
        return {**kept, **MPI_AS_ROOT, **stand_ins, **elsewhere, "PATH": path}

    def _interrupt(self, process: subprocess.Popen[str]) -> None:
        """What Ctrl-C in a terminal does: SIGINT to all processes of the command, once a step was made."""
        before = set(self.folder.glob("runs/*/metrics.jsonl"))
        deadline = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            new = set(self.folder.glob("runs/*/metrics.jsonl")) - before
            if any(map(_recorded, new)):
                os.killpg(process.pid, signal.SIGINT)
                return
            time.sleep(0.02)


def _recorded(metrics: Path) -> int:
    """How many steps a run has recorded."""
    return metrics.read_text(encoding="utf-8").count('"kind": "step"')


def _copy_page(source: str, target: str) -> None:
    """A copy of a page, a link to any other file."""
    if source.endswith(".md"):
        shutil.copy(source, target)
    else:
        Path(target).symlink_to(source)


def _fill_cache(folder: Path) -> None:
    """The caches that are there, and a wheel of Horovod for GPUs."""
    ours = folder / "distrain"
    gpu = ours / "horovod" / build.inputs_digest(gpu=True)
    gpu.mkdir(parents=True)
    wheel = build.cached_wheel()
    assert wheel is not None, "what set up the environment of the tests has kept it"
    (gpu / wheel.name).symlink_to(wheel)
    (gpu.parent / wheel.parent.name).symlink_to(wheel.parent)
    (ours / "kernels").symlink_to(tools.cache_folder() / "kernels")
    for cache in tools.cache_folder().parent.iterdir():
        if cache.name != ours.name:
            (folder / cache.name).symlink_to(cache)


def _shorten(path: Path, changes: dict[str, Any]) -> None:
    job = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(_merged(job, changes)), encoding="utf-8")


def _merged(job: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return job | {key: _merged(job[key], value) if isinstance(value, dict) else value for key, value in changes.items()}


def _draw_images(folder: Path) -> None:
    """The reader's own images: 30, and a few more, with labels of 0 and 255."""
    random = np.random.default_rng(1)
    for images, labels, count in (("IMAGES", "LABELS", 30), ("NEW/image", "NEW/label", 3)):
        for name in (images, labels):
            (folder / name).mkdir(parents=True)
        for number in range(count):
            label = np.kron(random.integers(0, 2, (6, 6)), np.full((10, 10), 255)).astype(np.uint8)
            image = np.clip(label / 2 + random.normal(60, 20, label.shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / images / f"{number:02}.png")
            Image.fromarray(label).save(folder / labels / f"{number:02}.png")
