"""Callbacks in a world of 1, or in front of a made-up world."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import distrain.keras as hvd
from distrain.keras.callbacks import metrics

X = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)


@pytest.fixture(autouse=True)
def world() -> Iterator[None]:
    hvd.init()
    yield
    hvd.shutdown()


def compiled(optimizer: Any, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer, loss="mse", jit_compile=False, **options)
    return model


def fit(model: keras.Model, *callbacks: Any, **options: Any) -> Any:
    return model.fit(X, Y, batch_size=5, shuffle=False, verbose=0, callbacks=list(callbacks), **options)


def test_metrics_are_weighed_by_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"loss": 1.0, "val_loss": 10.0, "name": "kept"}
    rows = [[30.0, 10.0, {"loss": 1.0, "val_loss": 10.0}], [10.0, 0.0, {"loss": 5.0, "val_loss": float("nan")}]]
    monkeypatch.setattr(metrics, "gathered", lambda value: rows)
    monkeypatch.setattr(metrics, "place", lambda: type("Place", (), {"horovod": object()}))
    callback = hvd.callbacks.MetricAverageCallback()
    callback.set_model(compiled("sgd"))
    callback.on_epoch_end(0, own)
    assert own == {"loss": 2.0, "val_loss": 10.0, "name": "kept"}


def test_velocities_follow_the_learning_rate() -> None:
    schedule = hvd.callbacks.LearningRateScheduleCallback(0.1, lambda epoch: 1.0 if epoch == 0 else 0.5)
    model = compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)))
    history = fit(model, schedule).history
    assert history["lr"] == pytest.approx([0.1])
    before = np.asarray(model.optimizer.momentums[0])
    schedule.on_epoch_begin(1)
    schedule.on_train_batch_begin(0)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    np.testing.assert_allclose(model.optimizer.momentums[0], before / 2, rtol=1e-6)


def test_a_schedule_of_the_optimizers_own_is_refused() -> None:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    with pytest.raises(ValueError, match="schedule of its own"):
        fit(
            compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(rate))),
            hvd.callbacks.LearningRateScheduleCallback(0.1, 0.5),
        )


class Interruption(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Ends training after a batch of the second epoch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self._epoch, batch) == (1, self._batch):
            raise Interruption


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (0, {"metrics": ["mae"]}),
        (2, {"weighted_metrics": ["mae"], "run_eagerly": True}),
        (3, {"metrics": ["mae"]}),
    ],
    ids=["the first", "in between", "the last"],
)
def test_an_epoch_that_was_begun_ends_with_its_metrics(tmp_path: Path, batch: int, options: dict[str, Any]) -> None:
    """After `batch`, of four in an epoch, a new model goes on, as a new process does."""
    histories, models = [], []
    for folder, interrupt in (("whole", None), ("parts", Interrupt(batch)), ("parts", None)):
        model = compiled(hvd.DistributedOptimizer(keras.optimizers.Adam(0.1)), **options)
        callbacks = [hvd.callbacks.CheckpointCallback(tmp_path / folder, every="1 step")]
        if interrupt is not None:
            with pytest.raises(Interruption):
                fit(model, *callbacks, interrupt, epochs=3)
            assert callbacks[0]._saver is not None
            assert callbacks[0]._saver.wait() is None
            continue
        histories.append(fit(model, *callbacks, epochs=3).history)
        models.append(model)
    whole, parts = histories
    assert {name: values[1:] for name, values in whole.items()} == parts
    assert "mae" in whole
    assert all(np.array_equal(one, other) for one, other in zip(*(each.weights for each in models), strict=True))


class Weighed(keras.Sequential):
    """Reads its data in a training step of its own, as no other part of Keras would understand it."""

    def train_step(self, data: Any) -> Any:
        x, labels = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(labels["weight"] * (self(x, training=True) - labels["value"]) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def test_a_training_step_of_its_own_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    models = []
    for folder, interrupt in (("whole", None), ("parts", Interrupt(1)), ("parts", None)):
        keras.utils.set_random_seed(1)
        model = Weighed([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile(hvd.DistributedOptimizer(keras.optimizers.Adam(0.1)), loss="mse", jit_compile=False)
        callbacks = [hvd.callbacks.CheckpointCallback(tmp_path / folder, every="1 step")]
        options = {"epochs": 3, "batch_size": 5, "shuffle": False, "verbose": 0}
        labels = {"value": Y, "weight": np.abs(Y)}
        if interrupt is not None:
            with pytest.raises(Interruption):
                model.fit(X, labels, callbacks=[*callbacks, interrupt], **options)
            assert callbacks[0]._saver is not None
            assert callbacks[0]._saver.wait() is None
            continue
        model.fit(X, labels, callbacks=callbacks, **options)
        models.append(model)
    assert all(np.array_equal(one, other) for one, other in zip(*(each.weights for each in models), strict=True))


def test_an_epoch_that_was_begun_ends_with_the_losses_of_all_outputs(tmp_path: Path) -> None:
    histories = []
    for folder, interrupt in (("whole", None), ("parts", Interrupt(1)), ("parts", None)):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((4,))
        model = keras.Model(inputs, [keras.layers.Dense(1, name=name)(inputs) for name in ("one", "other")])
        optimizer = hvd.DistributedOptimizer(keras.optimizers.Adam(0.1))
        model.compile(optimizer, loss=["mse", "mae"], jit_compile=False)
        callbacks = [hvd.callbacks.CheckpointCallback(tmp_path / folder, every="1 step")]
        options = {"epochs": 2, "batch_size": 5, "shuffle": False, "verbose": 0}
        if interrupt is not None:
            with pytest.raises(Interruption):
                model.fit(X, [Y, Y], callbacks=[*callbacks, interrupt], **options)
            assert callbacks[0]._saver is not None
            assert callbacks[0]._saver.wait() is None
            continue
        histories.append(model.fit(X, [Y, Y], callbacks=callbacks, **options).history)
    whole, parts = histories
    assert {"one_loss", "other_loss"} < set(whole)
    assert {name: values[1:] for name, values in whole.items()} == parts


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def model() -> keras.Model:
        return compiled(hvd.DistributedOptimizer(keras.optimizers.Adam(0.1)))

    whole, parts = model(), model()
    fit(whole, hvd.callbacks.CheckpointCallback(tmp_path / "whole", every="3 steps"), epochs=3)
    fit(parts, hvd.callbacks.CheckpointCallback(tmp_path / "parts", every="3 steps"), epochs=2)
    newest = tmp_path / "parts" / "step_00000008"
    (newest / "manifest.json").unlink()
    again = model()
    checkpoint = hvd.callbacks.CheckpointCallback(tmp_path / "parts", every="3 steps")
    history = fit(again, checkpoint, epochs=3)
    assert f"{newest} is passed over" in capsys.readouterr().out
    # From the sixth step: the second epoch's third batch.
    assert history.epoch == [1, 2]
    assert checkpoint.step == 12
    assert all(np.array_equal(one, other) for one, other in zip(whole.weights, again.weights, strict=True))


def test_statistics_refuse_what_they_cannot_measure() -> None:
    with pytest.raises(ValueError, match="expected one distributed optimizer, got 0"):
        fit(compiled("sgd"), hvd.callbacks.GradientStatisticsCallback())
    several = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), backward_passes_per_step=2)
    with pytest.raises(ValueError, match="backward_passes_per_step=1"):
        fit(compiled(several), hvd.callbacks.GradientStatisticsCallback())


def test_statistics_are_in_the_history() -> None:
    model = compiled(hvd.DistributedOptimizer(keras.optimizers.SGD(0.1)))
    history = fit(model, hvd.callbacks.GradientStatisticsCallback(), epochs=2).history
    assert len(history["gradient_norm"]) == 2
    assert 0 < history["mean_norm"][1] < history["gradient_norm"][0]
