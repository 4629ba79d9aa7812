"""Importing TensorFlow without what training does not need: in every worker, at every start."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Keras takes these where it finds them, for plots, boxes on images, data frames in `fit`, wrappers of its models, and
# sparse arrays (what is left of it in TensorFlow): a third of the time that importing TensorFlow takes.
OPTIONAL = ("matplotlib", "pandas", "cv2", "sklearn", "scipy")

# What TensorFlow says on processors that oneDNN has more for, each time and whatever TF_CPP_MIN_LOG_LEVEL asks for: it
# does so before that is read.
GREETING = r"^(WARNING: All log messages before absl::InitializeLog|I0000 .*\] oneDNN custom operations are on)"


# In NVIDIA's packages for CUDA 12. TensorFlow 2.21 looks in the folder of each of them but this one's, and uses no GPU
# where it does not find it; by its name alone it finds what has been loaded.
CUSOLVER = Path("cusolver") / "lib" / "libcusolver.so.11"


def import_tensorflow() -> None:
    """Import TensorFlow and Keras; to Keras what is `OPTIONAL` seems not to be installed, to all others it stays.

    Only TensorFlow's `GREETING` is kept from standard error. Where there are packages for GPUs they are made to work.
    """
    _load_cusolver()
    if "tensorflow" in sys.modules:
        return
    hidden = [name for name in OPTIONAL if name not in sys.modules]
    # How Python is told that a module cannot be imported.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is meant
    try:
        with _without_greeting(), _without_collections():
            import tensorflow as tf

            # Loaded at the first use, else.
            tf.keras.Variable  # noqa: B018
    finally:
        for name in hidden:
            del sys.modules[name]


def _load_cusolver() -> None:
    nvidia = importlib.util.find_spec("nvidia")
    folders = [] if nvidia is None else nvidia.submodule_search_locations or []
    for path in (Path(folder) / CUSOLVER for folder in folders):
        if path.exists():
            # A part of what it needs may be missing. TensorFlow then does without GPUs, and says so.
            with suppress(OSError):
                ctypes.CDLL(str(path), mode=os.RTLD_LAZY | os.RTLD_LOCAL)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Make what stays: Python does not look through it for what could be let go of, neither now nor later.

    That would be a fifth of the time that importing TensorFlow takes, and a pause in the training now and then.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Pass standard error through `grep`, which still passes on what a process says that crashes or hangs."""
    command = ["grep", "--text", "--line-buffered", "--invert-match", "--extended-regexp", GREETING]
    try:
        # In a group of its own: what is to interrupt this process shall not end it.
        grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, process_group=0)
    except FileNotFoundError:
        yield
        return
    assert grep.stdin is not None
    kept = os.dup(2)
    os.dup2(grep.stdin.fileno(), 2)
    grep.stdin.close()
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        grep.wait()
