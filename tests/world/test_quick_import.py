"""What a worker does without when it imports TensorFlow, and gets back after."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
from distrain.world.quick_import import OPTIONAL, import_tensorflow
import_tensorflow()
assert {"tensorflow", "keras"} <= set(sys.modules), "not imported"
print(sorted(name for name in OPTIONAL if name in sys.modules))
import cv2, matplotlib.pyplot, pandas, keras
print(keras.Sequential([keras.layers.Dense(1)])(keras.ops.ones((2, 3))).shape)
"""


def test_what_keras_can_do_without_is_imported_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["[]", "(2, 1)"]
