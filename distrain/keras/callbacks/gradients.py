"""What the gradients of all ranks say, in the logs."""

from __future__ import annotations

from typing import Any

import keras

from distrain.errors import BadInput
from distrain.gradients.measures import MEASURES, Moments, measures
from distrain.gradients.statistics import GradientStatistics, as_moments
from distrain.keras.exchange import Measuring
from distrain.keras.fitting import exchanges_of

# As the run's log of `distrain train` names them.
NAMES = {"norm": "gradient_norm"}


class GradientStatisticsCallback(keras.callbacks.Callback):
    """Keeps the running mean of the gradients, and puts what it and each step say into the logs of batches and epochs.

    The logs get `gradient_norm`, `mean_norm`, `noise_scale` and the others over all variables; `moments` has them for
    each variable. `every`: measured in one of so many steps; `mode`, `decay` and `window` as for `GradientStatistics`.
    The same on every rank; to stand before callbacks that write logs.
    """

    def __init__(self, every: int = 1, mode: Any = "cumulative", decay: float = 0.999, window: int = 1000) -> None:
        super().__init__()
        if every < 1:
            raise BadInput(f"GradientStatisticsCallback: every is {every}, expected 1 or more")
        self._options = {"every": every, "mode": mode, "decay": decay, "window": window}
        self._measuring: Measuring | None = None

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise BadInput("GradientStatisticsCallback: expected an optimizer that does not scale the loss")
        exchanges = exchanges_of(model)
        if len(exchanges) != 1:
            raise BadInput(f"GradientStatisticsCallback: expected one distributed optimizer, got {len(exchanges)}")
        if self._measuring is not None and exchanges[0].measuring is self._measuring:
            return
        if exchanges[0].options.backward_passes_per_step > 1:
            raise BadInput("GradientStatisticsCallback: expected backward_passes_per_step=1")
        statistics = GradientStatistics([each.value for each in model.trainable_variables], **self._options)
        self._measuring = exchanges[0].measuring = Measuring(statistics, exchanges[0].reducer.name)
        # What was compiled before does not measure.
        model.train_function = None

    @property
    def moments(self) -> Moments | None:
        """Those of the last step that was measured; None before the first."""
        assert self._measuring is not None
        groups, examples = self._measuring.counts.numpy()
        return as_moments(self._measuring.moments.numpy(), groups, examples) if examples else None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._tell(logs)

    def _tell(self, logs: dict[str, Any] | None) -> None:
        moments = self.moments
        if logs is not None and moments is not None:
            values = measures(moments)
            logs |= {NAMES.get(name, name): float(values[name][-1]) for name in MEASURES}
