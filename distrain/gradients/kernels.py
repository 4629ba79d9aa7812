"""The compiled operation of kernels.cc, where the installation has it; TensorFlow's own do the same, slower."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Any

import tensorflow as tf

PACKAGE = "distrain_kernels"


@functools.cache
def library() -> Any | None:
    """The module with the operation `distrain_advance`, or None where none is installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return tf.load_op_library(str(Path(spec.submodule_search_locations[0]) / "kernels.so"))


def serves(variable: tf.Variable) -> bool:
    """True where the operation is there, for the variable's device and dtype."""
    on_cpu = not tf.config.list_physical_devices("GPU") or "CPU" in variable.device
    return on_cpu and variable.dtype in (tf.float32, tf.float64) and library() is not None
