"""`distrain check`: the doctor. What is installed, what works when tried, and what to do about the rest."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distrain.errors import EXIT_DONE, EXIT_FAILED
from distrain.launcher.command import World, start_program
from distrain.world.cores import cores
from distrain.world.versions import versions

SUPPORTED = ((3, 11), (3, 13))
TENSORFLOW = "2.21"
SECONDS = 180
REBUILD = "make it anew: rm -rf .venv && make train"

PROBE = """
import os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
from distrain.world.start import start
started = start(os.environ)
import tensorflow as tf
from distrain.world.collectives import HorovodCollectives
rank, size = started.world.rank, started.world.size
total = HorovodCollectives(started.horovod).sum_group([tf.Variable([rank + 1.0])])[0].numpy()[0]
assert size == 2 and total == 3.0, (size, total)
assert started.control.gather(rank) == [0, 1]
started.close()
"""

# What TensorFlow sees; then what Horovod was built with, by its own word: it is the likelier one not to be loadable.
LIBRARIES = """
from distrain.world.quick_import import import_tensorflow
import_tensorflow()
import tensorflow as tf
print(len(tf.config.list_physical_devices("GPU")), tf.test.is_built_with_cuda(), flush=True)
import horovod.tensorflow as h
print(*map(int, (h.mpi_built(), h.gloo_built(), h.nccl_built(), h.cuda_built())))
"""

DRIVER = """
import ctypes
version = ctypes.c_int()
if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0:
    print(version.value)
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was seen, and what to do about it where it is wrong.

    `needed` is False for what only some runs need.
    """

    name: str
    good: bool
    seen: str
    advice: str = ""
    needed: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments beside --help."""


def main(arguments: argparse.Namespace) -> int:
    """Print a line for each finding; returns 0 where all that every run needs is there, else 1."""
    good = True
    for finding in _findings():
        mark = "ok" if finding.good else "--" if not finding.needed else "NO"
        print(f"{mark:3} {finding.name:22} {finding.seen}", flush=True)
        if not finding.good and finding.advice:
            print(f"    {'':22} -> {finding.advice}")
        good = good and (finding.good or not finding.needed)
    print("everything that a run needs is there" if good else "something that every run needs is missing (NO)")
    return EXIT_DONE if good else EXIT_FAILED


def _findings() -> Iterator[Finding]:
    yield _python()
    found = versions()
    yield _package("tensorflow", found, lambda version: version.startswith(TENSORFLOW), f"{TENSORFLOW}.x")
    yield _package("keras", found, lambda version: version.startswith("3."), "3.x")
    yield _package("numpy", found, lambda version: True, "any")
    yield _package("mpi4py", found, lambda version: True, "any")
    yield _package("horovod", found, lambda version: True, "0.28.1 with this project's patches")
    yield _open_mpi()
    tensorflow, horovod = _libraries()
    yield from _features(horovod)
    yield _cores()
    yield _driver()
    yield from _gpus(tensorflow)
    for controller in ("gloo", "mpi"):
        yield _controller(controller)
    yield _ssh()


def _python() -> Finding:
    version = platform.python_version()
    good = SUPPORTED[0] <= sys.version_info[:2] <= SUPPORTED[1]
    return Finding("Python", good, f"{version} at {sys.prefix}", "TensorFlow 2.21 runs on Python 3.11 to 3.13")


def _package(name: str, found: dict[str, str], accept: Callable[[str], bool], expected: str) -> Finding:
    version = found[name]
    good = version != "absent" and accept(version)
    return Finding(name, good, version, f"expected {expected}; {REBUILD}")


def _open_mpi() -> Finding:
    program = shutil.which("mpirun", path=f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        return Finding("Open MPI", False, "no mpirun", f"needed for --controller mpi only; {REBUILD}", needed=False)
    line = (_output([program, "--version"]) or "does not run").splitlines()[0]
    return Finding("Open MPI", " 4.1" in line, f"{line} at {program}", "tried with 4.1.x", needed=False)


def _libraries() -> tuple[str | None, str | None]:
    """What TensorFlow and Horovod say of themselves, None where one cannot be loaded; in a process of its own."""
    # One that crashes has said what it had to say before.
    lines = _run([sys.executable, "-c", LIBRARIES])[1].splitlines()
    return (lines[0] if lines else None), (lines[1] if len(lines) > 1 else None)


def _features(line: str | None) -> Iterator[Finding]:
    """What Horovod was built with."""
    if line is None:
        yield Finding("Horovod's library", False, "cannot be loaded", f"it fits another TensorFlow or MPI; {REBUILD}")
        return
    mpi, gloo, nccl, cuda = (int(word) for word in line.split())
    yield Finding("Horovod with Gloo", bool(gloo), _yes(gloo), REBUILD)
    yield Finding("Horovod with MPI", bool(mpi), _yes(mpi), "needed for mpirun and --controller mpi only", needed=False)
    yield _nccl(nccl if cuda else 0)


def _nccl(code: int) -> Finding:
    """Whether Horovod reduces on GPUs; `code` is the version of NCCL it was built with, as NCCL writes it, or 0."""
    seen = f"yes, NCCL {code // 10000}.{code // 100 % 100}.{code % 100}" if code else "no"
    advice = "needed on GPUs only: python3 docker/environment.py --group gpu"
    return Finding("Horovod with NCCL", bool(code), seen, advice, needed=False)


def _cores() -> Finding:
    return Finding("cores", True, f"{cores()} of {os.cpu_count() or 1} for this process; workers share them evenly")


def _driver() -> Finding:
    """NVIDIA's driver: its library comes with the machine, all else of CUDA with the packages."""
    line = _output([sys.executable, "-c", DRIVER])
    if line is None:
        return Finding("NVIDIA driver", False, "no libcuda.so.1 that works", "needed on GPUs only", needed=False)
    newest = f"{int(line) // 1000}.{int(line) % 1000 // 10}"
    return Finding("NVIDIA driver", True, f"for CUDA up to {newest}", needed=False)


def _gpus(line: str | None) -> Iterator[Finding]:
    """What TensorFlow sees of GPUs."""
    if line is None:
        yield Finding("TensorFlow's library", False, "cannot be loaded", REBUILD)
        return
    count, cuda = line.split()
    advice = "the CPU is used" + ("" if cuda == "True" else "; this TensorFlow was built without CUDA")
    yield Finding("GPUs", int(count) > 0, count, advice, needed=False)


def _controller(controller: str) -> Finding:
    """Start 2 workers that add a number on the CPU, of which there is one for both, as `launch` would start them."""
    command = start_program(World(2, controller=controller), [sys.executable, "-c", PROBE], dict(os.environ))
    try:
        done = subprocess.run(
            command.arguments,
            env={**os.environ, **command.environment, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except FileNotFoundError:
        return Finding(f"2 workers by {controller}", False, f"{command.arguments[0]} is not there", REBUILD)
    except subprocess.TimeoutExpired:
        return Finding(
            f"2 workers by {controller}", False, f"no answer within {SECONDS} s", "is a firewall in the way?"
        )
    if done.returncode == 0:
        return Finding(f"2 workers by {controller}", True, "start, and add numbers", needed=controller == "gloo")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1][:100] if lines else f"exit code {done.returncode}"
    return Finding(f"2 workers by {controller}", False, last, REBUILD, needed=controller == "gloo")


def _ssh() -> Finding:
    program = shutil.which("ssh")
    return Finding("ssh", program is not None, program or "not there", "needed for several hosts only", needed=False)


def _output(command: list[str]) -> str | None:
    """What a program prints, or None where it cannot be run or fails."""
    code, output = _run(command)
    return output.strip() or None if code == 0 else None


def _run(command: list[str]) -> tuple[int | None, str]:
    """A program's exit code, None where it cannot be run, and what it prints."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return done.returncode, done.stdout


def _yes(value: int) -> str:
    return "yes" if value else "no"
