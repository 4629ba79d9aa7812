"""Makes the project's virtual environment, or brings it up to date; does nothing, quickly, where it is.

    python3 docker/environment.py --group cpu|docs|dev|gpu [--extras] [--venv DIR]

Everything is pinned by version and hash in requirements/; Horovod's wheel is built where the cache has none for it.
An environment of the group docs serves as one of cpu too, one of dev as either. One that was given the extras (clients
of object stores and of tracking services) keeps them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path

PYTHONS = ((3, 11), (3, 13))  # the first and the last that TensorFlow's wheels and ours are for


def _check_machine() -> None:
    """Ends the script where it cannot work; before the imports, which older Pythons do not understand."""
    problem = ""
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        known = f"Python 3.{PYTHONS[0][1]} to 3.{PYTHONS[1][1]}"
        problem = f"{known} is needed, this is {platform.python_version()}; name another: make PYTHON=python3.12 ..."
    elif sys.platform != "linux":
        problem = f"Linux is needed (TensorFlow, Open MPI and Horovod as pinned), this is {sys.platform}"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


_check_machine()

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "horovod"))

import build  # noqa: E402
import kernels  # noqa: E402
import tools  # noqa: E402
from tools import SetupError, say  # noqa: E402

GROUPS = ("cpu", "docs", "dev", "gpu")
# What an environment may be to serve as one of a group.
SERVING = {"cpu": ("cpu", "docs", "dev"), "docs": ("docs", "dev"), "dev": ("dev",), "gpu": ("gpu",)}
STAMP = "distrain-environment.json"
Stamp = dict[str, str]

# Gigabytes, in uv's cache and in the environment; hard links save most of the latter where both are on one disk.
CACHE_GB = {"cpu": 2.5, "docs": 2.6, "dev": 3.0, "gpu": 10.0}
VENV_GB = {"cpu": 0.5, "docs": 0.5, "dev": 0.5, "gpu": 1.0}
VENV_COPIED_GB = {"cpu": 2.0, "docs": 2.1, "dev": 2.5, "gpu": 8.0}


def _requirements(group: str) -> Path:
    return tools.ROOT / "requirements" / f"{group}.txt"


def _wanted(group: str, venv: Path, *, extras: bool = False) -> Stamp:
    """What the stamp of a complete environment says."""
    stamp = {
        "group": group,
        "python": platform.python_version(),
        "venv": str(venv),
        "requirements": hashlib.sha256(_requirements(group).read_bytes()).hexdigest(),
        "horovod": build.inputs_digest(gpu=group == "gpu"),
        "kernels": kernels.source_digest(),
        # Entry points and package folders are written into the environment, the sources are not.
        "project": hashlib.sha256((tools.ROOT / "pyproject.toml").read_bytes()).hexdigest(),
        "root": str(tools.ROOT),
    }
    if extras:
        stamp["extras"] = hashlib.sha256(_requirements("extras").read_bytes()).hexdigest()
    return stamp


def _read_stamp(venv: Path) -> Stamp:
    """The environment's stamp; empty where there is none or it is not complete."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(venv: Path, stamp: Stamp) -> None:
    partial = venv / (STAMP + ".partial")
    partial.write_text(json.dumps(stamp, indent=1) + "\n")
    partial.replace(venv / STAMP)


def _up_to_date(venv: Path, groups: tuple[str, ...], *, extras: bool = False) -> bool:
    stamp = _read_stamp(venv)
    has_extras = "extras" in stamp
    if stamp.get("group") not in groups or (extras and not has_extras):
        return False
    # The interpreter is a link to one that may have been removed.
    return stamp == _wanted(stamp["group"], venv, extras=has_extras) and (venv / "bin/python").exists()


def _can_be_updated(venv: Path, stamp: Stamp, wanted: Stamp) -> bool:
    """Whether the environment is whole, and differs in nothing but packages."""
    return all(stamp.get(key) == wanted[key] for key in ("python", "venv", "root")) and (venv / "bin/python").exists()


def _check_space(group: str, venv: Path) -> None:
    needs = {tools.uv_cache_folder(): CACHE_GB[group], venv: VENV_GB[group]}
    if not _on_one_disk(tools.uv_cache_folder(), venv):
        needs[venv] = VENV_COPIED_GB[group]
    if build.cached_wheel(gpu=group == "gpu") is not None:
        # The cache is warm: most packages are there already.
        needs[tools.uv_cache_folder()] = 0.2
    tools.require_space(needs)


def _on_one_disk(first: Path, second: Path) -> bool:
    return tools.existing_parent(first).stat().st_dev == tools.existing_parent(second).stat().st_dev


def _remove(venv: Path) -> None:
    """Removes an environment of ours. Renamed first, so that a kill leaves none that looks whole."""
    for leftover in venv.parent.glob(f"{venv.name}.old-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if not venv.exists():
        return
    if not (venv / STAMP).exists() and any(venv.iterdir()):
        raise SetupError(f"{venv} exists and was not made by this script: remove it, or name another with --venv")
    old = venv.with_name(f"{venv.name}.old-{os.getpid()}")
    venv.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _create(uv: str, venv: Path, log: Path) -> None:
    _remove(venv)
    tools.make_folder(venv)
    # The stamp comes first, empty: it says whose folder this is, and that it is not complete.
    _write_stamp(venv, {})
    interpreter = str(getattr(sys, "_base_executable", sys.executable))
    command = [uv, "venv", "--allow-existing", "--python", interpreter, str(venv)]
    tools.run_logged(command, log, f"make the environment {venv}", tools.index_environment())


def _install(uv: str, groups: list[str], venv: Path, wheel: Path, log: Path) -> None:
    variables = tools.index_environment()
    python = ["--python", str(venv / "bin" / "python")]
    files = [_requirements(group) for group in groups]
    named = " and ".join(f"requirements/{path.name}" for path in files)
    say(f"installing the packages of {named}")
    # Compiled now, by all cores: otherwise every process of a first run compiles TensorFlow's modules for itself.
    command = [uv, "pip", "sync", "--require-hashes", "--compile-bytecode", *python, *map(str, files)]
    tools.run_logged(command, log, f"install the packages of {named}", variables)
    install = [uv, "pip", "install", "--no-deps", "--no-index", "--compile-bytecode", *python]
    tools.run_logged([*install, str(wheel)], log, f"install {wheel.name}", variables)
    tools.run_logged([*install, str(kernels.wheel(venv))], log, "install distrain's kernels", variables)
    command = [*install, "--no-build-isolation", "--editable", str(tools.ROOT)]
    tools.run_logged(command, log, "install distrain", variables)


def _set_up(group: str, venv: Path, *, extras: bool) -> None:
    start = time.monotonic()
    stamp = _read_stamp(venv)
    # Brought up to date as what it is, not made smaller.
    if stamp.get("group") in SERVING[group]:
        group = stamp["group"]
    extras = extras or "extras" in stamp
    wanted = _wanted(group, venv, extras=extras)
    _check_space(group, venv)
    gpu = group == "gpu"
    if build.cached_wheel(gpu) is None:
        build.check(gpu)
    tools.make_folder(venv.parent)
    say(f"setting up {venv} ({group}, Python {platform.python_version()})")
    uv = tools.get_uv()
    wheel = build.wheel(uv, gpu=gpu)
    log = tools.new_log("environment")
    if _can_be_updated(venv, stamp, wanted):
        _write_stamp(venv, {})
    else:
        _create(uv, venv, log)
    _install(uv, [group, "extras"] if extras else [group], venv, wheel, log)
    _write_stamp(venv, wanted)
    say(f"{venv} is ready, after {tools.elapsed(start)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the project's virtual environment, or bring it up to date.")
    parser.add_argument("--group", choices=GROUPS, default="cpu", help="which requirements (default: cpu)")
    parser.add_argument("--extras", action="store_true", help="clients of s3, gcs, http, mlflow and wandb, too")
    parser.add_argument("--venv", metavar="DIR", type=Path, default=tools.ROOT / ".venv", help="default: .venv")
    parser.add_argument("--print-uv", action="store_true", help="only print the path of uv, installed if need be")
    return parser.parse_args()


def main() -> int:
    """The command line."""
    arguments = _arguments()
    if arguments.print_uv:
        print(tools.get_uv())
        return 0
    venv = arguments.venv.resolve()
    groups = SERVING[arguments.group]
    if _up_to_date(venv, groups, extras=arguments.extras):
        return 0
    lock = hashlib.sha256(str(venv).encode()).hexdigest()[:16]
    with tools.locked(tools.cache_folder() / "locks" / lock, f"waiting for another set-up of {venv}"):
        if not _up_to_date(venv, groups, extras=arguments.extras):
            _set_up(arguments.group, venv, extras=arguments.extras)
    return 0


if __name__ == "__main__":
    sys.exit(tools.guarded(main))
