"""What Keras has not: the optimizer LARS, and a learning rate that rises before it falls."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="distrain")
class LARS(keras.optimizers.Optimizer):
    """Momentum whose rate is fitted to each layer: `trust * |w| / (|g| + decay * |w|)` times the learning rate.

    Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", arXiv 1708.03888. Weights of one
    dimension (biases, scales of normalisations) take plain momentum without decay, as is usual since.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        trust: float = 0.001,
        decay: float = 0.0,
        nesterov: bool = False,
        name: str = "lars",
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **options)
        self.momentum = momentum
        self.trust = trust
        self.decay = decay
        self.nesterov = nesterov

    def build(self, variables: Any) -> None:
        """Make a velocity for each of `variables`."""
        if self.built:
            return
        super().build(variables)
        self.velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        if len(variable.shape) > 1:
            weights, slope = (ops.sqrt(ops.sum(ops.square(value))) for value in (variable, gradient))
            both = slope + self.decay * weights
            known = ops.logical_and(weights > 0, both > 0)
            rate = rate * ops.where(known, self.trust * weights / ops.where(known, both, 1), 1)
            gradient = gradient + self.decay * variable
        velocity = self.velocities[self._get_variable_index(variable)]
        step = self.momentum * velocity - rate * gradient
        self.assign(velocity, step)
        self.assign_add(variable, self.momentum * step - rate * gradient if self.nesterov else step)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make another like it."""
        own = {name: getattr(self, name) for name in ("momentum", "trust", "decay", "nesterov")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="distrain")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in equal parts to the rate `after` within `steps` steps, and is that from then on.

    `after` is a number, or a schedule, which counts from step 0 all the same.
    """

    def __init__(self, steps: int, after: Any) -> None:
        super().__init__()
        self.steps = steps
        self.after = after

    def __call__(self, step: Any) -> Any:
        """The rate at a step, from 0."""
        rate = self.after(step) if callable(self.after) else ops.convert_to_tensor(self.after, "float32")
        return rate * ops.minimum((ops.cast(step, rate.dtype) + 1) / self.steps, 1)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make another like it."""
        return {"steps": self.steps, "after": keras.saving.serialize_keras_object(self.after)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        """Make the one that `get_config` tells of."""
        return cls(config["steps"], keras.saving.deserialize_keras_object(config["after"]))
