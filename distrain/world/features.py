"""What Horovod was built with; asking does not start it."""

from __future__ import annotations

from distrain.world.start import imported_horovod


def horovod_feature(name: str) -> bool:
    """Whether Horovod was built with it: "mpi", "gloo", "nccl", "ddl", "ccl", "cuda" or "rocm"."""
    return bool(getattr(imported_horovod(), f"{name}_built")())
