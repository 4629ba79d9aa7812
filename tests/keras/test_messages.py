"""What programs are told of a mistake: what was seen, and what was expected."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest

import distrain.keras as hvd
from distrain.errors import BadInput

X, Y = np.zeros((6, 4)), np.zeros(6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: hvd.Examples((X, Y), batch_size=0), "Examples: batch_size is 0, expected 1 or more"),
        (
            lambda: hvd.Examples((X, Y), batch_size=9, remainder="drop"),
            "Examples: batch_size is 9, expected 1 to 6, the number of examples",
        ),
        (
            lambda: hvd.Examples((X[:0], Y[:0]), batch_size=9),
            "Examples: batch_size is 9, expected examples to draw them from",
        ),
        (
            lambda: hvd.callbacks.LearningRateScheduleCallback(None, 0.5),  # type: ignore[arg-type]  # what is wrong
            "LearningRateScheduleCallback: initial_lr is None, expected the learning rate to begin with",
        ),
        (
            lambda: hvd.SyncBatchNormalization(fused=True),
            "SyncBatchNormalization: fused is True, expected False: there is no such operation",
        ),
        (
            lambda: hvd.PartialDistributedOptimizer(keras.optimizers.SGD(), local_layers=["first"]),
            "PartialDistributedOptimizer: local_layers: expected Keras layers, got str",
        ),
        (
            lambda: hvd.load_model("model.keras", legacy_opts=True),
            "load_model: legacy_opts is True, expected False: Keras 3 has no legacy optimizers",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_was_expected(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(BadInput) as raised:
        wrong()
    assert str(raised.value) == message
