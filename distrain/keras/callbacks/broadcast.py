"""All ranks begin with the weights of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from distrain.errors import BadInput
from distrain.keras.fitting import exchanges_of
from distrain.keras.place import all_same, place, warn_on_rank_0
from distrain.keras.replica import broadcast_model
from distrain.world.versions import versions


class BroadcastGlobalVariablesCallback(keras.callbacks.Callback):
    """Before the first step, gives all ranks the model and optimizer of rank `root_rank`; `local_variables` stay.

    It also sees that the ranks are to train alike: the same versions, the same number of steps an epoch.
    """

    def __init__(self, root_rank: int, device: str = "", local_variables: Any = None) -> None:
        super().__init__()
        self.root_rank = root_rank
        self.broadcast_done = False
        self._local: list[Any] = []
        if local_variables is not None:
            many = isinstance(local_variables, Iterable) and not hasattr(local_variables, "shape")
            for variable in local_variables if many else [local_variables]:
                self.register_local_var(variable)

    def register_local_var(self, variable: Any) -> None:
        """Leave a variable of each rank as it is."""
        if not hasattr(variable, "assign"):
            raise BadInput(f"BroadcastGlobalVariablesCallback: expected variables, got {type(variable).__name__}")
        self._local.append(variable)

    def on_train_begin(self, logs: Any = None) -> None:
        if self.broadcast_done or place().horovod is None:
            return
        if not exchanges_of(self.model):
            warn_on_rank_0(
                "the model's optimizer is not distributed, so that each rank trains by its own gradients: "
                "expected compile(optimizer=hvd.DistributedOptimizer(...))"
            )
        all_same(versions(), "versions")
        all_same(self.params.get("steps"), "steps an epoch")
        broadcast_model(self.model, self.root_rank, local=self._local)
        self.broadcast_done = True
