"""The shell scripts of the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = (b"#!/bin/sh\n", b"#!/usr/bin/env bash\n")


def test_the_scripts_are_what_shellcheck_wants() -> None:
    files = [path for folder in ("launch", "docker", ".ci") for path in (ROOT / folder).rglob("*") if path.is_file()]
    scripts = [path for path in files if path.read_bytes().startswith(SHELLS)]
    assert {"slurm.sbatch", "local.sh", "image.sh", "distrain-worker", "run"} <= {path.name for path in scripts}
    command = [Path(sys.prefix) / "bin" / "shellcheck", *scripts]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
