"""Kills the process that it is loaded into at a chosen touch of a file, as no clock could.

With this folder on PYTHONPATH, `DISTRAIN_TEST_FAULT` is a JSON list [event, pattern, count, mark]: the process ends by
SIGKILL just before the `count`-th audit event of this name whose first argument matches the pattern. Only once: the
file `mark` is made before, and where it is there already nothing happens.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

VARIABLE = "DISTRAIN_TEST_FAULT"


def _install(event: str, pattern: str, count: int, mark: str) -> None:
    left = count

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name != event or not arguments or not re.search(pattern, str(arguments[0])):
            return
        left -= 1
        if left == 0 and not Path(mark).exists():
            os.close(os.open(mark, os.O_CREAT | os.O_WRONLY))
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


if VARIABLE in os.environ:
    _install(*json.loads(os.environ[VARIABLE]))
