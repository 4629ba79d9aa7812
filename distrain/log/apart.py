"""What a process is started with that rank 0 has beside its training: it gives way, and is none of the workers."""

from __future__ import annotations

import os

NICENESS = 19
# What a process must not be taken for one of the run's workers by.
OF_WORKERS = ("HOROVOD_", "OMPI_", "PMIX_", "PMI_", "SLURM_", "DISTRAIN_")


def environment() -> dict[str, str]:
    """This process's environment, without what makes it one of the workers."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OF_WORKERS)}
