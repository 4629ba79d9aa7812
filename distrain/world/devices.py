"""Giving a worker its part of the host: one GPU where there are any, else its share of the cores."""

from __future__ import annotations

import os
import socket
import sys

import tensorflow as tf

from distrain.errors import BadInput
from distrain.world.cores import cores, cpu_quota
from distrain.world.topology import World

# NCCL's own variable, without which it refuses several ranks on one GPU.
SHARED = "NCCL_MULTI_RANK_GPU_ENABLE"


def threads_for(world: World, *, cores: int, bound_cores: int) -> int:
    """Threads for one worker: its share of the host's cores, and no more than those that it is bound to."""
    return max(1, min(bound_cores, cores // world.local_size))


def use_no_gpu() -> None:
    """Until `prepare` has chosen one: the first tensor would otherwise take all of them, for all ranks the same."""
    tf.config.set_visible_devices([], "GPU")


def gpu_for(world: World, *, gpus: int, shared: bool) -> int:
    """Number of the GPU that a worker takes: one for each, or in turn where `shared`. Raises `BadInput` if too few."""
    if world.local_size > gpus and not shared:
        raise BadInput(
            f"{world.local_size} workers on a host with {gpus} GPUs, expected one GPU for each: start fewer, set "
            f"CUDA_VISIBLE_DEVICES= to train on the CPU, or {SHARED}=1 to try several workers on one GPU"
        )
    return world.local_rank % gpus


def prepare(world: World, *, threads: int | None, deterministic: bool) -> None:
    """Settle devices and threads, before TensorFlow uses any. Raises `BadInput` where GPUs do not suffice."""
    # A container's quota is shared by its workers, too, though each is bound to all cores.
    shared = min(os.cpu_count() or 1, round(cpu_quota() or sys.maxsize))
    count = threads or threads_for(world, cores=shared, bound_cores=cores())
    tf.config.threading.set_intra_op_parallelism_threads(count)
    # One operation at a time: the sums of a step then never depend on which of two came first.
    tf.config.threading.set_inter_op_parallelism_threads(1)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        gpu = gpus[gpu_for(world, gpus=len(gpus), shared=os.environ.get(SHARED) == "1")]
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def uses_gpu() -> bool:
    """Whether this process computes on a GPU; it is settled by `prepare`."""
    return bool(tf.config.get_visible_devices("GPU"))


def inventory() -> dict[str, object]:
    """This worker's host, process and devices, for the run's log."""
    gpus = [device.name for device in tf.config.list_physical_devices("GPU")]
    return {"host": socket.gethostname(), "pid": os.getpid(), "cores": cores(), "gpus": gpus}
