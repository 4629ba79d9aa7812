"""Batch normalisation over the batches of all ranks."""

from __future__ import annotations

from typing import Any

import keras

from distrain.errors import BadInput
from distrain.keras.place import place
from distrain.keras.reducer import examples_now
from distrain.model.sync_batch_norm import Exchange, OverAllRanks


@keras.saving.register_keras_serializable(package="distrain")
class SyncBatchNormalization(OverAllRanks):
    """`keras.layers.BatchNormalization` with the mean and variance of all ranks' examples in training.

    Each position of each example counts the same, whatever the sizes of the ranks' batches. Not within XLA.
    """

    def __init__(self, fused: bool = False, **options: Any) -> None:
        if fused:
            raise BadInput("SyncBatchNormalization: fused is True, expected False: there is no such operation")
        if options.get("synchronized"):
            raise BadInput("SyncBatchNormalization: synchronized: expected nothing, that is for tf.distribute")
        super().__init__(**options)
        self.supports_jit = False

    def exchange(self) -> Exchange | None:
        """How to hear of the other ranks; None in a world of one."""
        if place().horovod is None:
            return None
        return Exchange(lambda name: place().collectives(name), share=examples_now(), alike=False)
