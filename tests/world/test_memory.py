"""Freed memory is kept: arrays of one step are used again in the next, without new pages from the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from distrain.world.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def rounds():
    for _ in range(3):
        np.ones(25_000_000, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(25_000_000, np.float32)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=rounds)
thread.start()
thread.join()
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif("glibc" not in __import__("platform").libc_ver(), reason="a setting of glibc")
def test_large_arrays_of_a_thread_take_no_new_pages() -> None:
    kept, given_back = _faults("kept"), _faults("given back")
    assert kept < 50 < given_back
