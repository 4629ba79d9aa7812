"""Metrics of all ranks' examples in the logs of an epoch."""

from __future__ import annotations

from typing import Any

import keras

from distrain.errors import BadInput
from distrain.keras.place import gathered, place

VALIDATION = "val_"


class MetricAverageCallback(keras.callbacks.Callback):
    """At the end of each epoch, puts the averages over all ranks into the logs, for the callbacks after it.

    Each example counts the same, whatever the sizes of the ranks' shares: exact for the loss and all metrics that are
    means over examples. In training steps that do not count their examples, each rank counts the same.
    """

    def __init__(self, device: str = "") -> None:
        super().__init__()
        self._training: float | None = None
        self._validation = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._training, self._validation = None, 0.0

    def on_test_begin(self, logs: Any = None) -> None:
        # What the epoch has counted is about to be reset.
        self._training = self._counted()

    def on_test_end(self, logs: Any = None) -> None:
        self._validation = self._counted()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None or place().horovod is None:
            return
        training = self._counted() if self._training is None else self._training
        own = {name: float(value) for name, value in logs.items() if _is_number(value)}
        rows = gathered([training, self._validation, own])
        if any(set(row[2]) != set(own) for row in rows):
            names = sorted({name for row in rows for name in set(row[2]) ^ set(own)})
            raise BadInput(f"MetricAverageCallback: not all ranks have {', '.join(names)} in their logs", agreed=True)
        for name in own:
            counts = [row[1 if name.startswith(VALIDATION) else 0] for row in rows]
            weights = counts if sum(counts) > 0 else [1.0] * len(rows)
            pairs = [(weight, row[2][name]) for weight, row in zip(weights, rows, strict=True) if weight]
            logs[name] = sum(weight * value for weight, value in pairs) / sum(weights)

    def _counted(self) -> float:
        """The examples since the metrics were reset, as the model's tracker of the loss has counted them."""
        tracker = getattr(self.model, "_loss_tracker", None)
        return 0.0 if tracker is None else float(tracker.count)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
