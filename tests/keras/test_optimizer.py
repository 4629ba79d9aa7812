"""A distributed optimizer in a world of 1: what it is, what it saves, and what it refuses."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import distrain.keras as hvd
from distrain.keras.optimizer import exchange_of
from distrain.model.dropout import ReLUDropout

X = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)


@pytest.fixture(autouse=True)
def world() -> Iterator[None]:
    hvd.init()
    yield
    hvd.shutdown()


def linear() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])


def trained(optimizer: Any, **options: Any) -> keras.Model:
    model = linear()
    model.compile(optimizer=optimizer, loss="mse", **options)
    model.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    return model


def weights(model: keras.Model) -> list[Any]:
    return [np.asarray(weight) for weight in model.weights]


@pytest.mark.parametrize("make", [lambda: keras.optimizers.Adam(0.1), lambda: keras.optimizers.SGD(0.1, clipnorm=0.5)])
def test_alone_it_is_the_optimizer_that_it_is_made_of(make: Any) -> None:
    optimizer = make()
    plain, ours = (trained(each, jit_compile=False) for each in (optimizer, hvd.DistributedOptimizer(make())))
    assert all(np.array_equal(one, other) for one, other in zip(weights(plain), weights(ours), strict=True))
    assert hvd.DistributedOptimizer(optimizer).get_config() == optimizer.get_config()
    assert isinstance(ours.optimizer, type(plain.optimizer))


def test_a_saved_model_knows_nothing_of_distrain(tmp_path: Path) -> None:
    model = trained(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), backward_passes_per_step=3))
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert b"distrain" not in archive.read("config.json")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert exchange_of(loaded.optimizer) is None
    assert type(loaded.optimizer) is keras.optimizers.SGD
    for own, other in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        assert np.array_equal(own, other)


def test_one_that_has_made_steps_keeps_its_state() -> None:
    model = trained(keras.optimizers.Adam(0.1))
    distributed = hvd.DistributedOptimizer(model.optimizer)
    assert int(distributed.iterations) == 8
    for own, other in zip(distributed.variables, model.optimizer.variables, strict=True):
        assert np.array_equal(own, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"op": hvd.Adasum}, "expected Average or Sum"),
        ({"backward_passes_per_step": 0}, "expected 1 or more"),
        ({"gradient_predivide_factor": 0.0}, "expected more than 0"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), **options)


def test_once_is_enough() -> None:
    with pytest.raises(ValueError, match="distributed already"):
        hvd.DistributedOptimizer(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))


def test_within_xla_it_is_refused() -> None:
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1))
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    step = tf.function(lambda: optimizer.apply([tf.ones([])], [variable]), jit_compile=True, autograph=False)
    with pytest.raises(ValueError, match="XLA cannot exchange gradients"):
        step()


def test_distrains_own_layers_train_within_xla() -> None:
    """On a CPU, where their compiled operations are left out, since XLA does not know them."""
    layers = [keras.layers.Dense(8), ReLUDropout(0.5, seed=1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.layers.Input((4,)), *layers])
    model.compile(hvd.DistributedOptimizer(keras.optimizers.SGD(0.01)), loss="mse", jit_compile=True)
    losses = model.fit(X, Y, batch_size=5, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_loss_scale_around_it_is_refused_outside_of_fit() -> None:
    outer = keras.optimizers.LossScaleOptimizer(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    variable = keras.Variable(1.0)
    with pytest.raises(ValueError, match=r"expected hvd.DistributedOptimizer\(keras.optimizers.LossScaleOptimizer"):
        outer.apply([tf.ones([])], [variable])


def test_names_of_keras_2_are_understood() -> None:
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1))
    optimizer.lr.assign(0.2)
    assert float(optimizer.learning_rate) == pytest.approx(0.2)


def test_before_init_it_says_so() -> None:
    hvd.shutdown()
    with pytest.raises(ValueError, match=r"use hvd.init\(\)"):
        hvd.rank()
