"""What makes a model the same on all ranks: its weights, its optimizer's state, and random states of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from distrain.keras.optimizer import exchange_of
from distrain.keras.place import place, rank

# Seeds of different ranks are so far apart; an odd number near 2^32 divided by the golden ratio.
SPREAD = 0x9E3779B9


def state_of(model: keras.Model, optimizer: keras.optimizers.Optimizer | None = None) -> dict[str, tf.Variable]:
    """All variables that are the same on every rank, by names that stay; the groups are those of a replica."""
    optimizer = optimizer or model.optimizer
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
    # Keras numbers what it names, and goes on counting where one process makes a model twice.
    found = {f"weights/{number:04d}/{each.name}": each.value for number, each in enumerate(model.weights)}
    if optimizer is None:
        return found
    for number, each in enumerate(optimizer.variables):
        found[f"optimizer/{number:04d}"] = each.value
    exchange = exchange_of(optimizer)
    if exchange is not None:
        exchange.build(optimizer._trainable_variables)
        found |= {f"optimizer/exchange/{name}": variable for name, variable in exchange.state().items()}
        if exchange.measuring is not None:
            names = [f"{number:04d}" for number in range(len(model.trainable_variables))]
            state = exchange.measuring.statistics.state(names)
            found |= {f"gradient_mean/{name}": variable for name, variable in state.items()}
    return found


def random_states(model: keras.Model) -> list[tf.Variable]:
    """The states [2] of the model's random generators, such as those of dropout."""
    weights = {id(weight) for weight in model.weights}
    others = [variable for variable in model.variables if id(variable) not in weights]
    return [variable.value for variable in others if variable.path.endswith("seed_generator_state")]


def spread(states: Sequence[tf.Variable], ranks: int) -> None:
    """Move seeds that are the same on all ranks so many ranks apart, for each to draw numbers of its own."""
    for state in states:
        value = state.numpy()
        value[0] = np.uint32((int(value[0]) + ranks * SPREAD) % 2**32)
        state.assign(value)


def broadcast_model(
    model: keras.Model,
    root: int,
    *,
    optimizer: keras.optimizers.Optimizer | None = None,
    local: Sequence[Any] = (),
) -> None:
    """Give all ranks the state of rank `root`, but for `local` variables. Collective."""
    left = {(each.value if hasattr(each, "path") else each)._unique_id for each in local}
    shared = [each for each in state_of(model, optimizer).values() if each._unique_id not in left]
    states = random_states(model)
    place().collectives("distrain.replica").broadcast([*shared, *states], root)
    spread(states, rank() - root)
