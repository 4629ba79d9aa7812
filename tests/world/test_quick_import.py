"""What a worker does without when it imports TensorFlow, and gets back after."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.world.quick_import import CUSOLVER

PROGRAM = """
import gc, os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
from distrain.world.quick_import import OPTIONAL, import_tensorflow
import_tensorflow()
assert {"tensorflow", "keras"} <= set(sys.modules), "not imported"
print(sorted(name for name in OPTIONAL if name in sys.modules))
print(gc.isenabled(), gc.get_freeze_count() > 100_000 > len(gc.get_objects()))
import cv2, matplotlib.pyplot, pandas, scipy.sparse, sklearn, keras
print(keras.Sequential([keras.layers.Dense(1)])(keras.ops.ones((2, 3))).shape)
"""


def test_what_keras_can_do_without_is_imported_when_it_is_asked_for() -> None:
    """And what is imported stays, so that Python need not look through it for what does not."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["[]", "True True", "(2, 1)"]


SPEAKING = """
import os, sys, types
os.write(2, b"before\\n")
from distrain.world import quick_import

class Import:
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
            os.write(2, b"I0000 00:00:1.2 7 port.cc:153] oneDNN custom operations are on. You may see slightly\\n")
            os.write(2, b"I0000 00:00:1.2 7 port.cc:153] something else\\n")
            END
        return None

sys.meta_path.insert(0, Import())
quick_import.import_tensorflow()
os.write(2, b"after\\n")
"""


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [("pass", 0, "after"), ("os.abort()", -6, "port.cc"), ("os.kill(os.getpid(), 9)", -9, "port.cc")],
)
def test_nothing_but_the_greeting_is_kept_from_standard_error(end: str, code: int, last: str) -> None:
    """Also where the import ends the process: TensorFlow says why before."""
    program = SPEAKING.replace("END", end)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    lines = done.stderr.splitlines()
    assert done.returncode == code
    assert lines[0] == "before"
    assert lines[1].endswith("something else")
    assert last in lines[-1]
    assert not any("InitializeLog" in line or "oneDNN" in line for line in lines)


FINDING = """
import ctypes, sys
sys.modules["tensorflow"] = object()  # it has been imported: by a program of Keras, for one
from distrain.world.quick_import import import_tensorflow
def found():
    try:
        return bool(ctypes.CDLL("libcusolver.so.11"))
    except OSError:
        return False
before = found()
import_tensorflow()
print(before, found())
"""


@pytest.mark.parametrize("state", ["whole", "damaged", "absent"])
def test_tensorflow_finds_the_library_that_it_does_not_look_for(state: str, tmp_path: Path) -> None:
    """As it looks for it: by its name. One that cannot be loaded is left to TensorFlow, too."""
    library = tmp_path / "nvidia" / CUSOLVER
    library.parent.mkdir(parents=True)
    if state == "damaged":
        library.write_bytes(b"no library")
    if state == "whole":
        command = ["c++", "-shared", "-x", "c++", "-", "-o", str(library), f"-Wl,-soname,{library.name}"]
        subprocess.run(command, input="int one;", text=True, check=True)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}"}
    command = [sys.executable, "-c", FINDING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", str(state == "whole")]
