"""How the process keeps its memory: large arrays of one step are used again in the next."""

from __future__ import annotations

import ctypes

# mallopt's names and numbers, of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGE = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed instead of giving it back. To be called before TensorFlow is imported.

    A training step allocates and frees the same arrays each time. As glibc does it unasked, each of 64 MB and more is
    new pages every time, which the system fills with zeros one fault at a time: for a model of 25 million parameters
    35 000 faults in Keras's momentum alone, two thirds of its time. False where the C library has no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One arena: those of threads are of 64 MB each and cannot hold larger arrays at all.
    settings = ((M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE), (M_ARENA_MAX, 1))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
