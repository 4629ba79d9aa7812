"""The extras: an environment for the CPU that is given them, as the page on monitoring says, and keeps them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tools

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

MODULES = ("s3fs", "gcsfs", "aiohttp", "mlflow", "wandb")
SEEN = f"import importlib.util; print([name for name in {MODULES} if importlib.util.find_spec(name) is None])"
USED = f"import {', '.join(MODULES)}, distrain.keras; print(s3fs.S3FileSystem.protocol)"


def test_an_environment_is_given_the_extras_and_keeps_them(tmp_path: Path) -> None:
    venv = tmp_path / "venv"

    def set_up(*arguments: str) -> str:
        script = str(tools.ROOT / "docker" / "environment.py")
        command = [sys.executable, script, "--venv", str(venv), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr

    def said(program: str) -> str:
        command = [str(venv / "bin" / "python"), "-c", program]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    set_up()
    assert said(SEEN) == str(list(MODULES))
    assert "requirements/extras.txt" in set_up("--extras")
    assert said(SEEN) == "[]"
    assert "s3" in said(USED)
    # As `make train` does: nothing is left to do, and nothing is taken away.
    assert set_up() == ""
    assert said(SEEN) == "[]"
