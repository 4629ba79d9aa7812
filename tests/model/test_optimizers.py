"""LARS against its formula, and that it and a warm-up can be saved and loaded."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from distrain.model.optimizers import LARS, WarmUp

RATE, MOMENTUM, TRUST, DECAY = 0.5, 0.9, 0.02, 0.1


def _reference(weights: np.ndarray, gradients: list[np.ndarray], *, nesterov: bool) -> np.ndarray:
    """Equations 5 and 6 of arXiv 1708.03888, in float64."""
    velocity = np.zeros_like(weights)
    for gradient in gradients:
        rate, slope = RATE, gradient
        if weights.ndim > 1:
            size, steepness = float(np.linalg.norm(weights)), float(np.linalg.norm(gradient))
            rate = RATE * TRUST * size / (steepness + DECAY * size)
            slope = gradient + DECAY * weights
        velocity = MOMENTUM * velocity + rate * slope
        weights = weights - (MOMENTUM * velocity + rate * slope if nesterov else velocity)
    return weights


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 3, 2, 5), (7,)])
def test_lars_is_its_formula(shape: tuple[int, ...], nesterov: bool) -> None:
    random = np.random.default_rng(5)
    start, gradients = random.normal(size=shape), [random.normal(size=shape) for _ in range(6)]
    variable = keras.Variable(start, dtype="float64")
    optimizer = LARS(RATE, MOMENTUM, TRUST, DECAY, nesterov)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
    np.testing.assert_allclose(variable.numpy(), _reference(start, gradients, nesterov=nesterov), rtol=1e-12)


def test_a_layer_of_zeros_moves_all_the_same() -> None:
    variable = keras.Variable(np.zeros((2, 2)), dtype="float64")
    optimizer = LARS(RATE, 0.0)
    optimizer.apply([keras.ops.ones((2, 2), "float64")], [variable])
    np.testing.assert_allclose(variable.numpy(), -RATE)
    optimizer.apply([keras.ops.zeros((2, 2), "float64")], [variable])
    np.testing.assert_allclose(variable.numpy(), -RATE)


@pytest.mark.parametrize("after", [0.25, keras.optimizers.schedules.ExponentialDecay(0.5, 3, 0.5, staircase=True)])
def test_they_are_saved_and_loaded(after: float | keras.optimizers.schedules.LearningRateSchedule) -> None:
    saved = keras.optimizers.serialize(LARS(WarmUp(4, after), trust=0.5, nesterov=True))
    loaded = keras.optimizers.deserialize(saved)
    assert isinstance(loaded, LARS)
    assert (loaded.trust, loaded.nesterov, loaded.momentum) == (0.5, True, 0.9)
    rates = []
    for optimizer in (LARS(WarmUp(4, after)), loaded):
        optimizer.build([])
        optimizer.iterations.assign(5)
        rates.append(float(optimizer.learning_rate))
    assert rates[0] == rates[1] == 0.25
