"""How the optimizer of a job is applied: plain momentum in one pass with the statistics, any other through Keras."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from distrain.gradients.advance import Gradient, Momentum, advance
from distrain.gradients.statistics import Contribution, GradientStatistics
from distrain.model.build import Trained

# What Keras's optimizers may do beside the update itself; none of it is in the pass.
_EXTRAS = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "gradient_accumulation_steps")


class Update:
    """Applies one step's gradient to the weights, and takes it into the statistics where there are any."""

    def __init__(self, trained: Trained, statistics: GradientStatistics | None) -> None:
        self._trained = trained
        self._statistics = statistics
        self._in_one_pass = _is_plain_momentum(trained)

    def __call__(
        self,
        gradients: Sequence[Gradient],
        squares: tf.Tensor,
        examples: tf.Tensor,
        clip: tf.Tensor,
        rate: tf.Tensor,
        contribution: Contribution | None,
    ) -> tf.Tensor:
        """Update; `squares` [variables] are of the gradients over `examples` (), before `clip` ().

        `rate` () is the learning rate. Returns the moments of `GradientStatistics.advance`, or [0, variables].
        """
        momenta = self._momenta(rate, clip) if self._in_one_pass else None
        if self._statistics is None:
            if momenta is None:
                self._optimize(gradients, clip)
            else:
                for gradient, momentum in zip(gradients, momenta, strict=True):
                    advance(gradient, None, momentum)
            moments = tf.zeros([0, len(gradients)], tf.float64)
        else:
            assert contribution is not None
            moments = self._statistics.advance(
                gradients,
                squares,
                contribution,
                examples,
                optimize=lambda: self._optimize(gradients, clip),
                momenta=momenta,
            )
        if momenta is not None:
            self._trained.optimizer.iterations.assign_add(1)
        return moments

    def _optimize(self, gradients: Sequence[Gradient], clip: tf.Tensor) -> None:
        values = [gradient.total / gradient.divisor * clip for gradient in gradients]
        self._trained.optimizer.apply(values, self._trained.model.trainable_variables)

    def _momenta(self, rate: tf.Tensor, clip: tf.Tensor) -> list[Momentum]:
        optimizer = self._trained.optimizer
        return [
            Momentum(variable, velocity.value, rate, optimizer.momentum, optimizer.nesterov, clip)
            for variable, velocity in zip(self._trained.trainable(), optimizer.momentums, strict=True)
        ]


def _is_plain_momentum(trained: Trained) -> bool:
    optimizer = trained.optimizer
    if type(optimizer) is not keras.optimizers.SGD or not optimizer.momentum:
        return False
    constrained = any(variable.constraint is not None for variable in trained.model.trainable_variables)
    return not constrained and not any(getattr(optimizer, extra) for extra in _EXTRAS)
