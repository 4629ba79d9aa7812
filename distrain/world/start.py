"""Joining the world that a process was started in: alone, by mpirun, by horovodrun over MPI or over Gloo.

The only module that imports Horovod and mpi4py, since both start MPI and one place must fix the order: mpi4py first,
with all thread levels, then Horovod on top of it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain.errors import BadInput, Dismissed, RunFailed, WorldChanged
from distrain.world.control import AloneControl, BytesControl, Control
from distrain.world.cores import cores
from distrain.world.elastic import ELASTIC, Membership, is_elastic
from distrain.world.memory import keep_freed_memory
from distrain.world.quick_import import import_tensorflow
from distrain.world.topology import World
from distrain.world.versions import versions

# Horovod and Open MPI read these when they start. Group fusion off keeps the order of summation (and with it every bit)
# from depending on timing.
HOROVOD_SETTINGS = {"HOROVOD_DISABLE_GROUP_FUSION": "1"}
# Horovod's thread waits for something to exchange, so many milliseconds at most, instead of asking the others each
# millisecond: where workers compute on all cores, the step is shorter. MPI then polls while it waits for a rank that is
# late, which costs nothing where it yields, but would take a core that others may want where it does not.
RESTING = {"HOROVOD_IDLE_CYCLE_TIME": "1000"}
# Yielding while idle keeps ranks that share cores from stealing them from each other.
YIELD = "OMPI_MCA_mpi_yield_when_idle"
# How many workers `distrain launch` has started: a world of another size is none that was asked for.
EXPECTED_SIZE = "DISTRAIN_WORLD_SIZE"
REJOIN_ATTEMPTS = 5
# For a place in a new world, where one that may change loses a worker before it is complete.
PLACE_SECONDS = 600.0


@dataclass(frozen=True)
class Launched:
    """What the environment says about how this process was started; `elastic`: its world may change."""

    controller: str
    size: int
    elastic: bool = False


def launched(environment: Mapping[str, str]) -> Launched:
    """Read the variables that launchers set. Raises `BadInput` where they are not numbers, or not what was launched."""
    found = _launched(environment)
    expected = environment.get(EXPECTED_SIZE)
    if expected is not None and not found.elastic and expected != str(found.size):
        raise BadInput(
            f"this worker is in a world of {found.size}, expected the {expected} that were launched: "
            "another launcher than Open MPI 4 or Horovod's has started it"
        )
    return found


def _launched(environment: Mapping[str, str]) -> Launched:
    for controller, name in (("gloo", "HOROVOD_SIZE"), ("mpi", "OMPI_COMM_WORLD_SIZE"), ("mpi", "PMI_SIZE")):
        text = environment.get(name)
        if text is None:
            continue
        if not text.isdecimal() or int(text) < 1:
            raise BadInput(f"environment variable {name}: expected a number of workers, got '{text}'")
        elastic = controller == "gloo" and is_elastic(environment)
        if int(text) > 1 or elastic:
            return Launched(controller, int(text), elastic)
    return Launched("none", 1)


class Started:
    """This process's place in a running world, and its control plane. Close it when all is done."""

    def __init__(
        self,
        world: World,
        control: Control,
        close: Callable[[], None],
        horovod: Any = None,
        membership: Membership | None = None,
    ) -> None:
        self.world = world
        self.control = control
        self.horovod = horovod
        self.close = close
        self.membership = membership

    def rejoin(self, seconds: float, attempting: Callable[[], None] | None = None) -> None:
        """Leave a world that has changed and join the new one, with those that are left and those that come.

        `world` and `control` are the new one's then; `attempting` is called before each attempt. Raises `Dismissed`
        where this worker is not part of it, `RunFailed` where one takes longer than `seconds`, or none succeeds.
        """
        assert self.membership is not None
        for _ in range(REJOIN_ATTEMPTS):
            if attempting is not None:
                attempting()
            self.close()
            place = self.membership.next_place(seconds)
            if place is None:
                raise Dismissed(f"this worker, once rank {self.world.rank}, is no longer needed")
            os.environ.update(place)
            if not _joined(self.horovod, self.membership, int(place["HOROVOD_RANK"]), int(place["HOROVOD_SIZE"])):
                continue  # another one has left meanwhile
            found = Launched("gloo", int(place["HOROVOD_SIZE"]), elastic=True)
            self.world = _world(self.horovod, found)
            return
        raise RunFailed(f"no new world was formed in {REJOIN_ATTEMPTS} attempts")


def start(environment: Mapping[str, str]) -> Started:
    """Join the world and see whether all of it is there. Collective in a world of more than 1.

    One that may change and loses a worker meanwhile is joined again. Raises `BadInput` where the launcher's count and
    the world's differ, and as `Started.rejoin` does.
    """
    keep_freed_memory()
    found = launched(environment)
    if found.controller == "none":
        return Started(World(), AloneControl(), close=_nothing)
    settings = settings_for(found, environment, cores())
    os.environ.update({name: value for name, value in settings.items() if name not in environment})
    return _start_mpi(found) if found.controller == "mpi" else _start_gloo(found)


def settings_for(found: Launched, environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """What Horovod and Open MPI are told of a world that was started so, on a host with so many cores."""
    if found.controller == "gloo":
        return HOROVOD_SETTINGS | RESTING
    local_size = int(environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1"))
    yields = {YIELD: "1"} if local_size >= cores else {}
    # Ranks must rest alike, and know of no other host whether it yields.
    rests = (yields | dict(environment)).get(YIELD) == "1" and local_size == found.size
    return HOROVOD_SETTINGS | yields | (RESTING if rests else {})


def _start_mpi(found: Launched) -> Started:
    _bind_mpi()
    from mpi4py import MPI

    communicator = MPI.COMM_WORLD.Dup()
    control = BytesControl(communicator.allgather)
    horovod = imported_horovod()
    horovod.init()

    def close() -> None:
        horovod.shutdown()
        # It waits for all ranks: here, where standing still is noticed, and not at the end of the process.
        MPI.Finalize()

    return Started(_world(horovod, found), control, close, horovod)


def _bind_mpi() -> None:
    """Load the environment's MPI with all its symbols bound at once.

    TensorFlow exports an hwloc of its own to every library that is loaded later or bound lazily; Open MPI would find
    that one in place of its own and crash in MPI_Finalize.
    """
    path = Path(sys.prefix) / "lib" / "libmpi.so.40"
    if path.exists():
        ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL | os.RTLD_NOW)


def _start_gloo(found: Launched) -> Started:
    membership = None
    if found.elastic:
        membership = Membership(os.environ)
        # Places are asked for here, not in Horovod's initialisation, which cannot tell a removal from a failure.
        os.environ.pop(ELASTIC)
        membership.listen()
    horovod = imported_horovod()

    def gather_bytes(data: bytes) -> list[bytes]:
        import tensorflow as tf

        # By Gloo, also where there are GPUs: a world whose NCCL does not work can still say so.
        with tf.device("CPU:0"):
            sizes = horovod.allgather(tf.constant([len(data)], tf.int64), name="distrain.control.sizes").numpy()
            joined = horovod.allgather(tf.constant(list(data), tf.uint8), name="distrain.control.bytes").numpy()
        ends = sizes.cumsum()
        return [joined[end - size : end].tobytes() for size, end in zip(sizes, ends, strict=True)]

    control = BytesControl(gather_bytes)
    rank = announced_rank(os.environ)
    if membership is None:
        horovod.init()
    elif not _joined(horovod, membership, rank, found.size):
        own = World(rank=rank, size=found.size, controller=found.controller)
        started = Started(own, control, horovod.shutdown, horovod, membership)
        started.rejoin(PLACE_SECONDS)
        return started
    return Started(_world(horovod, found), control, horovod.shutdown, horovod, membership)


def _joined(horovod: Any, membership: Membership, rank: int, size: int) -> bool:
    """Join a world that may change with all of its ranks; False where one of them does not come."""
    try:
        if not membership.meet(rank, size):
            return False
        horovod.init()
    except (ValueError, RuntimeError):
        return False
    return True


def imported_horovod() -> Any:
    """The module `horovod.tensorflow`, not initialised."""
    import_tensorflow()
    import horovod.tensorflow as horovod

    return horovod


def _world(horovod: Any, found: Launched) -> World:
    if horovod.size() != found.size:
        raise BadInput(
            f"Horovod sees {horovod.size()} workers, expected the {found.size} that were launched: "
            "its MPI is another than the launcher's ('distrain check' tells which)"
        )
    return World(
        rank=horovod.rank(),
        size=horovod.size(),
        local_rank=horovod.local_rank(),
        local_size=horovod.local_size(),
        controller=found.controller,
    )


def _nothing() -> None:
    pass


def announced_rank(environment: Mapping[str, str]) -> int:
    """The rank that the launcher gave, readable before the world is joined; 0 alone."""
    for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        text = environment.get(name, "")
        if text.isdecimal():
            return int(text)
    return 0


# What Horovod says of an exchange that failed since another rank is gone; as text, since TensorFlow's errors carry
# nothing else of it.
LOST_MESSAGES = (
    "Horovod has been shut down",
    "Connection closed by peer",
    "Connection reset by peer",
    "gloo/transport",
)


def lost_another(error: BaseException) -> bool:
    """True where an exchange failed only since another rank has gone."""
    kind = type(error).__name__
    if not isinstance(error, RuntimeError) and kind not in ("UnknownError", "AbortedError", "CancelledError"):
        return False
    return any(text in str(error) for text in LOST_MESSAGES)


def survivable(error: BaseException) -> bool:
    """True for what does not end a run whose world may change, but has it go on in another."""
    return isinstance(error, WorldChanged) or lost_another(error)


HOLDS = "holds"


def check_same(started: Started, digest: str, *, holds: bool = False) -> None:
    """See that all ranks have the same job and versions. Collective; raises `BadInput` on all ranks where not.

    `holds` as for `agree`: where a rank holds the state of a run, only those that differ from it raise `BadInput`, and
    all others `WorldChanged`.
    """
    own = {"the job": digest, **{f"{name}'s version": value for name, value in versions().items()}}
    seen = started.control.gather({**own, HOLDS: holds})
    model = next((rank for rank, other in enumerate(seen) if other[HOLDS]), 0)
    for name in own:
        differing = [rank for rank, other in enumerate(seen) if other[name] != seen[model][name]]
        if not differing:
            continue
        alone = seen[model][HOLDS]
        if alone and started.world.rank not in differing:
            raise WorldChanged
        rank = started.world.rank if alone else differing[0]
        who = "this worker" if alone else f"rank {rank}"
        raise BadInput(
            f"{who} and rank {model} differ in {name}: {seen[rank][name]} and {seen[model][name]}, expected the same",
            agreed=not alone,
        )
