"""The versions that a run depends on, read without importing what is slow to import."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from distrain import __version__

PACKAGES = ("tensorflow", "keras", "horovod", "openmpi", "mpi4py", "numpy", "distrain-kernels")
OTHER_NAMES = {"tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-cpu-aws")}


def versions() -> dict[str, str]:
    """Names and versions of distrain, Python and the packages a run depends on; "absent" where one is not there."""
    found = {"distrain": __version__, "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    for candidate in OTHER_NAMES.get(name, (name,)):
        try:
            return version(candidate)
        except PackageNotFoundError:
            continue
    return "absent"
