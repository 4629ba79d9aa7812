"""Learning rates that change with the epoch, and warm up with the number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from distrain.errors import BadInput
from distrain.keras.place import rank, size


class LearningRateScheduleCallback(keras.callbacks.Callback):
    """Sets the learning rate to `initial_lr * multiplier(epoch)` in the epochs `start_epoch` up to `end_epoch`.

    `multiplier` is a function of the epoch, or a constant c for `c ** (epoch - start_epoch)`. `staircase`: set once an
    epoch; otherwise before each batch, with the epoch as a fraction. `momentum_correction`: velocities are scaled with
    the learning rate, for those optimizers that keep it in them.
    """

    def __init__(
        self,
        initial_lr: float,
        multiplier: float | Callable[[float], float],
        start_epoch: int = 0,
        end_epoch: int | None = None,
        staircase: bool = True,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
    ) -> None:
        super().__init__()
        if initial_lr is None:
            raise BadInput(f"{type(self).__name__}: initial_lr is None, expected the learning rate to begin with")
        self.initial_lr = initial_lr
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.staircase = staircase
        self.momentum_correction = momentum_correction
        self.steps_per_epoch = steps_per_epoch
        self.current_epoch = 0
        self._multiplier = multiplier

    def multiplier(self, epoch: float) -> float:
        """By how much the initial learning rate is multiplied."""
        if callable(self._multiplier):
            return self._multiplier(epoch)
        return float(self._multiplier ** (epoch - self.start_epoch))

    def on_train_begin(self, logs: Any = None) -> None:
        if self.staircase or self.steps_per_epoch:
            return
        if not self.params.get("steps"):
            raise BadInput(f"{type(self).__name__}: the data do not tell the number of steps: expected steps_per_epoch")
        self.steps_per_epoch = self.params["steps"]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.current_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        before, after = self.current_epoch < self.start_epoch, self.end_epoch
        if before or (after is not None and self.current_epoch >= after):
            return
        if not self.staircase:
            assert self.steps_per_epoch
            self._set(self.current_epoch + batch / self.steps_per_epoch)
        elif batch == 0:
            self._set(self.current_epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs["lr"] = self._rate()

    def _rate(self) -> float:
        return float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def _set(self, epoch: float) -> None:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        before = self._rate()
        try:
            optimizer.learning_rate = self.initial_lr * self.multiplier(epoch)
        except TypeError as error:
            seen = "the optimizer has a learning rate schedule of its own"
            raise BadInput(f"{type(self).__name__}: {seen}, expected a number") from error
        after = self._rate()
        if self.momentum_correction and before and after != before:
            # The same as the momentum times after / before for one step, which is compiled and cannot be set.
            for velocity in _velocities(optimizer):
                velocity.assign(velocity * (after / before))


class LearningRateWarmupCallback(LearningRateScheduleCallback):
    """Raises the learning rate from `initial_lr / size` to `initial_lr`, batch by batch, within `warmup_epochs`."""

    def __init__(
        self,
        initial_lr: float,
        warmup_epochs: int = 5,
        momentum_correction: bool = True,
        steps_per_epoch: int | None = None,
        verbose: int = 0,
    ) -> None:
        def multiplier(epoch: float) -> float:
            assert self.steps_per_epoch
            # The last batch of the last epoch of the warm-up is the first to have all of it.
            epoch += 1 / self.steps_per_epoch
            return (epoch * (size() - 1) / warmup_epochs + 1) / size()

        super().__init__(
            initial_lr,
            multiplier,
            end_epoch=warmup_epochs,
            staircase=False,
            momentum_correction=momentum_correction,
            steps_per_epoch=steps_per_epoch,
        )
        self.warmup_epochs = warmup_epochs
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if epoch == self.warmup_epochs - 1 and self.verbose > 0 and rank() == 0:
            print(f"\nEpoch {epoch + 1}: finished gradual learning rate warmup to {self._rate():g}.")


def _velocities(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """The variables in which SGD and RMSprop with momentum keep the steps before, with their learning rates."""
    if not getattr(optimizer, "momentum", 0):
        return []
    found = getattr(optimizer, "momentums", None) or getattr(optimizer, "_momentums", None) or []
    return [velocity for velocity in found if velocity is not None]
