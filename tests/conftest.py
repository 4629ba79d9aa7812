"""Settings that must be there before TensorFlow is: quiet, one thread, and no garbage collected meanwhile."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

# Until all tests are collected: what is imported for them stays, and looking through it takes a quarter of the time.
gc.disable()

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _single_precision() -> Iterator[None]:
    """A job of float64 leaves Keras at float64, for the whole process."""
    yield
    if "keras" in sys.modules:
        import keras

        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.fixture(params=["kernels", "tensorflow"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By the compiled operations, and by TensorFlow's own."""
    from distrain.kernels import compiled

    if request.param == "kernels":
        assert compiled.operations() is not None, "the environment lacks distrain-kernels: run make check"
    else:
        monkeypatch.setattr(compiled, "serve", lambda value: False)
    return str(request.param)
