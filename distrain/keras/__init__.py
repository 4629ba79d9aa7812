"""Horovod's interface for Keras, for Keras 3: `import distrain.keras as hvd` in place of `horovod.keras`.

Names and arguments are those of `horovod.keras` and `horovod.tensorflow.keras`. docs/keras.md says what is more.
"""

from distrain.keras import callbacks, elastic
from distrain.keras.data import Examples, shared
from distrain.keras.fitting import install
from distrain.keras.optimizer import DistributedOptimizer, PartialDistributedOptimizer, load_model
from distrain.keras.place import (
    ccl_built,
    cross_rank,
    cross_size,
    cuda_built,
    ddl_built,
    gloo_built,
    gloo_enabled,
    init,
    is_initialized,
    local_rank,
    local_size,
    mpi_built,
    mpi_enabled,
    mpi_threads_supported,
    nccl_built,
    rank,
    rocm_built,
    shutdown,
    size,
    start_timeline,
    stop_timeline,
)
from distrain.keras.sync_batch_norm import SyncBatchNormalization
from distrain.keras.values import (
    Adasum,
    Average,
    Compression,
    Max,
    Min,
    Product,
    Sum,
    allgather,
    allreduce,
    broadcast,
    broadcast_global_variables,
    broadcast_variables,
    reducescatter,
)

install()

__all__ = [
    "Adasum",
    "Average",
    "Compression",
    "DistributedOptimizer",
    "Examples",
    "Max",
    "Min",
    "PartialDistributedOptimizer",
    "Product",
    "Sum",
    "SyncBatchNormalization",
    "allgather",
    "allreduce",
    "broadcast",
    "broadcast_global_variables",
    "broadcast_variables",
    "callbacks",
    "ccl_built",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "elastic",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_initialized",
    "load_model",
    "local_rank",
    "local_size",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rank",
    "reducescatter",
    "rocm_built",
    "shared",
    "shutdown",
    "size",
    "start_timeline",
    "stop_timeline",
]
