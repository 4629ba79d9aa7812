"""MPI itself, without Horovod, to compare with: only in a world that it carries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sum_in_place(value: npt.NDArray[np.float32]) -> None:
    """Put the sum over all ranks in the place of each rank's value. Collective."""
    from mpi4py import MPI

    MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, value)
