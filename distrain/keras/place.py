"""This process's place in the world: `init` joins it, the rest asks for it. One world a process, as in Horovod."""

from __future__ import annotations

import os
import warnings
from typing import Any

import keras
import tensorflow as tf

from distrain.errors import BadInput
from distrain.world.collectives import AloneCollectives, Collectives, HorovodCollectives
from distrain.world.features import horovod_feature
from distrain.world.quick_import import import_tensorflow
from distrain.world.start import Started, start


class Place:
    """The world that the process is in. `generation` counts the worlds it has been in: elastic ones change."""

    def __init__(self, started: Started) -> None:
        self.started = started
        self.generation = 0
        self._numbers: tf.Variable | None = None
        self._silent = False
        self._let_rank_0_speak()

    @property
    def horovod(self) -> Any:
        """The module `horovod.tensorflow`, or None in a world that is and stays of one process."""
        return self.started.horovod

    @property
    def elastic(self) -> bool:
        """Whether the world may change."""
        return self.started.membership is not None

    def rejoin(self, seconds: float) -> None:
        """Leave a world that has changed for the one that comes after it. Raises as `Started.rejoin` does."""
        self.started.rejoin(seconds)
        self.generation += 1
        self._let_rank_0_speak()
        if self._numbers is not None:
            self._numbers.assign([self.started.world.rank, self.started.world.size])

    def _let_rank_0_speak(self) -> None:
        """Have Keras show its progress on rank 0 alone."""
        if self.started.world.rank != 0:
            keras.config.disable_interactive_logging()
            self._silent = True
        elif self._silent:
            keras.config.enable_interactive_logging()
            self._silent = False

    @property
    def numbers(self) -> tf.Variable:
        """Rank and size [2], int32, for what is compiled once and used in one world after the other."""
        if self._numbers is None:
            numbers = [self.started.world.rank, self.started.world.size]
            self._numbers = tf.Variable(numbers, dtype=tf.int32, trainable=False)
        return self._numbers

    def collectives(self, name: str) -> Collectives:
        """Reductions over the world; sums that may go on at the same time have different names."""
        return AloneCollectives() if self.horovod is None else HorovodCollectives(self.horovod, name)


_places: list[Place] = []


def init(comm: object = None, process_sets: object = None) -> None:
    """Join the world that the launcher has made; alone, a world of 1. A second call does nothing.

    Uses no device yet: a program chooses its GPU afterwards. Raises `ValueError` for parts of a world.
    """
    if comm is not None or process_sets is not None:
        raise BadInput("init: expected neither 'comm' nor 'process_sets': all processes are one world here")
    if not _places:
        # Alone, too: where there are packages for GPUs TensorFlow finds none without.
        import_tensorflow()
        _places.append(Place(start(os.environ)))


def shutdown() -> None:
    """Leave the world."""
    if _places:
        _places.pop().started.close()


def is_initialized() -> bool:
    """True between `init` and `shutdown`."""
    return bool(_places)


def place() -> Place:
    """The place in the world. Raises `ValueError` before `init`."""
    if not _places:
        raise ValueError("distrain.keras has not been initialized; use hvd.init()")
    return _places[0]


def rank() -> int:
    """This process's number among all."""
    return place().started.world.rank


def size() -> int:
    """The number of processes."""
    return place().started.world.size


def local_rank() -> int:
    """This process's number among those on its host."""
    return place().started.world.local_rank


def local_size() -> int:
    """The number of processes on this host."""
    return place().started.world.local_size


def cross_rank() -> int:
    """The number of this process's host among those that have a process of its local rank."""
    horovod = place().horovod
    return 0 if horovod is None else int(horovod.cross_rank())


def cross_size() -> int:
    """The number of hosts that have a process of this local rank."""
    horovod = place().horovod
    return 1 if horovod is None else int(horovod.cross_size())


def start_timeline(file_path: str, mark_cycles: bool = False) -> None:
    """Have Horovod write what it exchanges, and when, into a file."""
    if place().horovod is not None:
        place().horovod.start_timeline(file_path, mark_cycles)


def stop_timeline() -> None:
    """End what `start_timeline` began."""
    if place().horovod is not None:
        place().horovod.stop_timeline()


def mpi_threads_supported() -> bool:
    """Whether MPI may be called from several threads; False where it is not used."""
    return mpi_enabled() and bool(place().horovod.mpi_threads_supported())


def mpi_enabled() -> bool:
    """Whether MPI carries the messages of this world."""
    return place().started.world.controller == "mpi"


def gloo_enabled() -> bool:
    """Whether Gloo carries the messages of this world."""
    return place().started.world.controller == "gloo"


def mpi_built() -> bool:
    """Whether Horovod was built with MPI."""
    return horovod_feature("mpi")


def gloo_built() -> bool:
    """Whether Horovod was built with Gloo."""
    return horovod_feature("gloo")


def nccl_built() -> bool:
    """Whether Horovod was built with NCCL."""
    return horovod_feature("nccl")


def ddl_built() -> bool:
    """Whether Horovod was built with DDL."""
    return horovod_feature("ddl")


def ccl_built() -> bool:
    """Whether Horovod was built with oneCCL."""
    return horovod_feature("ccl")


def cuda_built() -> bool:
    """Whether Horovod was built with CUDA."""
    return horovod_feature("cuda")


def rocm_built() -> bool:
    """Whether Horovod was built with ROCm."""
    return horovod_feature("rocm")


def gathered(value: Any) -> list[Any]:
    """Each rank's value, something that JSON holds, in rank order. Collective."""
    return place().started.control.gather(value)


def all_same(value: Any, what: str) -> None:
    """See that all ranks have the same of something. Collective; raises `ValueError` on all of them where not."""
    values = gathered(value)
    for number, other in enumerate(values):
        if other != values[0]:
            raise BadInput(f"{what}: rank 0 has {values[0]}, rank {number} has {other}, expected the same", agreed=True)


def warn_on_rank_0(message: str) -> None:
    """Warn on rank 0 alone."""
    if rank() == 0:
        warnings.warn(message, stacklevel=3)
