"""An environment of TensorFlow and what it requires, and nothing else: what others have who load a model of ours."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

TENSORFLOW = ("tensorflow-cpu", "tensorflow")


def make_bare_environment(folder: Path) -> Path:
    """Make it from links to the installed packages; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    for installed in _with_requirements():
        here = Path(str(installed.locate_file("")))
        for name in {file.parts[0] for file in installed.files or ()}:
            if name not in ("..", "__pycache__") and not (packages / name).exists():
                (packages / name).symlink_to(here / name)
    return python


def run_bare(python: Path, program: Path, *arguments: str | Path) -> str:
    """What a program prints in it. It must end well."""
    environment = {"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [str(python), "-I", str(program), *map(str, arguments)],
        cwd=program.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _with_requirements() -> list[Distribution]:
    """TensorFlow, and all that it needs as installed here."""
    waiting, seen = [name for name in TENSORFLOW if _installed(name)][:1], dict[str, Distribution]()
    while waiting:
        name = waiting.pop()
        found = _installed(name)
        if found is None or found.metadata["Name"].lower() in seen:
            continue
        seen[found.metadata["Name"].lower()] = found
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    assert "distrain" not in seen
    assert len(seen) > 5, sys.path
    return list(seen.values())


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None
