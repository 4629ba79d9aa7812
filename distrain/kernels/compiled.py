"""The compiled operations of this folder, where the installation has them; TensorFlow's own do the same, slower."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import tensorflow as tf

PACKAGE = "distrain_kernels"

_LEFT_OUT = ContextVar("left_out", default=False)


@functools.cache
def operations() -> Any | None:
    """The module of the operations, such as `distrain_advance`, or None where none is installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return tf.load_op_library(str(Path(spec.submodule_search_locations[0]) / "kernels.so"))


@contextmanager
def left_out() -> Iterator[None]:
    """Whatever is traced within has none of them, as XLA needs it, which does not know them."""
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def serve(value: tf.Variable | tf.Tensor) -> bool:
    """True where the operations are there, for the device and dtype of what they are to work on."""
    if _LEFT_OUT.get():
        return False
    on_cpu = not tf.config.list_physical_devices("GPU") or "CPU" in value.device
    return on_cpu and value.dtype in (tf.float32, tf.float64) and operations() is not None
