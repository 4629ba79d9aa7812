"""What `distrain.keras` is to do under `fit`, case by case; each leaves the weights that it ends with.

horovodrun -np 2 python keras_cases.py OUTPUT-FOLDER [CASE ...]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distrain.errors import BadInput, RunFailed
from distrain.world.quick_import import import_tensorflow

import_tensorflow()

import keras  # noqa: E402 (TensorFlow comes first, without what it takes half of its time for)
import tensorflow as tf  # noqa: E402

import distrain.keras as hvd  # noqa: E402
from distrain.keras.replica import random_states  # noqa: E402

Weights = list[npt.NDArray[Any]]
OUTPUT = Path(sys.argv[1])
CASES: dict[str, Callable[[], Weights]] = {}
STEPS = 6
# Odd, so that ranks have unequal shares.
BATCH = 7

generator = np.random.default_rng(3)
X = generator.standard_normal((BATCH * STEPS, 6))
Y = np.argmax(X @ generator.standard_normal((6, 3)), axis=1).astype(np.int64)


def case(function: Callable[[], Weights]) -> Callable[[], Weights]:
    CASES[function.__name__] = function
    return function


def shares(x: Any = X, y: Any = Y, batch: int = BATCH) -> tf.data.Dataset:
    """This rank's share of each batch."""
    first, last = batch * hvd.rank() // hvd.size(), batch * (hvd.rank() + 1) // hvd.size()
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).map(lambda a, b: (a[first:last], b[first:last]))


def classifier(*between: keras.layers.Layer, dtype: Any = None) -> keras.Model:
    """A small model; weights of its own on each rank, until they are broadcast."""
    keras.utils.set_random_seed(1 + hvd.rank())
    layers = [keras.layers.Dense(8, activation="tanh", dtype=dtype), *between, keras.layers.Dense(3, dtype=dtype)]
    return keras.Sequential([keras.layers.Input((6,)), *layers])


def fit(
    model: keras.Model,
    optimizer: Any,
    data: Any = None,
    callbacks: Any = (),
    steps_per_epoch: int | None = None,
    **options: Any,
) -> Weights:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **options)
    first = hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    data = shares() if data is None else data
    model.fit(data, steps_per_epoch=steps_per_epoch, epochs=2, verbose=0, callbacks=[first, *callbacks])
    return [np.asarray(weight) for weight in model.weights]


def sgd(**options: Any) -> Any:
    return keras.optimizers.SGD(0.1, momentum=0.9, **options)


@case
def uneven_shares() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd()))


@case
def without_xla() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd()), jit_compile=False)


@case
def eagerly() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd()), run_eagerly=True)


@case
def several_steps_per_execution() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd()), steps_per_execution=4)


@case
def a_share_of_nothing() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd()), data=shares(X[:4], Y[:4], batch=1))


@case
def clipped() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd(global_clipnorm=0.1)))


@case
def accumulated() -> Weights:
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.Adam(0.01), backward_passes_per_step=3, average_aggregated_gradients=True
    )
    return fit(classifier(), optimizer)


@case
def accumulated_in_one() -> Weights:
    """What `accumulated` has to come to."""
    data = shares(batch=3 * BATCH)
    return fit(classifier(), hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), data=data)


@case
def compressed() -> Weights:
    return fit(classifier(), hvd.DistributedOptimizer(sgd(), compression=hvd.Compression.fp16))


@case
def batch_normalized() -> Weights:
    return fit(classifier(keras.layers.BatchNormalization()), hvd.DistributedOptimizer(sgd()))


@case
def synchronized() -> Weights:
    return fit(classifier(hvd.SyncBatchNormalization()), hvd.DistributedOptimizer(sgd()))


@case
def with_dropout() -> Weights:
    model = classifier(keras.layers.Dropout(0.5, seed=3))
    weights = fit(model, hvd.DistributedOptimizer(sgd()))
    (state,) = random_states(model)
    # Each rank draws numbers of its own.
    assert len({tuple(row) for row in hvd.allgather(state[None]).numpy().tolist()}) == hvd.size()
    return weights


@case
def half_precision() -> Weights:
    model = classifier(dtype="mixed_float16")
    model.dtype_policy = "mixed_float16"
    weights = fit(model, hvd.DistributedOptimizer(sgd()))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    scales = hvd.allgather(model.optimizer.dynamic_scale.value[None]).numpy()
    assert len(set(scales.tolist())) == 1
    return weights


class OwnStep(keras.Model):
    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@case
def own_training_step() -> Weights:
    plain = classifier()
    return fit(OwnStep(plain.inputs, plain.outputs), hvd.DistributedOptimizer(sgd()))


@case
def sparse() -> Weights:
    keras.utils.set_random_seed(1 + hvd.rank())
    words = (np.arange(BATCH * STEPS * 3).reshape(-1, 3) * 7) % 11
    layers = [keras.layers.Embedding(11, 4), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((3,), dtype="int32"), *layers])
    return fit(model, hvd.DistributedOptimizer(sgd()), data=shares(words), jit_compile=False)


@case
def shared() -> Weights:
    data = hvd.shared(tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH))
    return fit(classifier(), hvd.DistributedOptimizer(sgd()), data=data)


@case
def drawn() -> Weights:
    examples = hvd.Examples((X, Y), batch_size=9, seed=5)
    model, optimizer = classifier(), hvd.DistributedOptimizer(sgd())
    return fit(model, optimizer, data=examples.dataset(), steps_per_epoch=examples.steps_per_epoch)


@case
def measured() -> Weights:
    statistics = hvd.callbacks.GradientStatisticsCallback()
    seen: dict[str, float] = {}
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.update(logs))
    weights = fit(classifier(), hvd.DistributedOptimizer(sgd()), callbacks=[statistics, note])
    moments = statistics.moments
    assert moments is not None
    assert moments.examples == BATCH
    assert moments.groups == hvd.size()
    assert seen["gradient_norm"] == np.sqrt(np.sum(moments.norm_squares))
    rows = [moments.norm_squares, moments.mean_squares, moments.products, moments.typical_squares]
    return [*weights, *rows, moments.update_squares]


@case
def reloaded() -> Weights:
    model = classifier()
    fit(model, hvd.DistributedOptimizer(sgd()))
    path = OUTPUT / f"saved_{hvd.rank()}_of_{hvd.size()}.keras"
    model.save(path)
    again = hvd.load_model(path)
    for own, other in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        assert np.array_equal(own, other)
    again.fit(shares(), verbose=0)
    return [np.asarray(weight) for weight in again.weights]


class Interruption(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Ends training in its second epoch, after the fourth of its batches."""

    epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (self.epoch, batch) == (1, 3):
            raise Interruption


@case
def resumed() -> Weights:
    """Weights and losses of a run without an interruption, then of one with it."""
    ended: list[Weights] = []
    for folder, callbacks in (("whole", []), ("parts", [Interrupt()]), ("parts", [])):
        model = classifier(keras.layers.Dropout(0.5, seed=3))
        logs: list[float] = []
        note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, log, logs=logs: logs.append(log["loss"]))
        checkpoint = hvd.callbacks.CheckpointCallback(OUTPUT / f"{folder}_of_{hvd.size()}", every="4 steps")
        averages = hvd.callbacks.MetricAverageCallback()
        try:
            weights = fit(
                model,
                hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)),
                callbacks=[averages, note, checkpoint, *callbacks],
            )
        except Interruption:
            # As the end of the process does.
            assert checkpoint._saver is not None
            assert checkpoint._saver.wait() is None
            continue
        assert checkpoint.step == 2 * STEPS
        ended.append([*weights, np.asarray(logs[-1])])
    whole, parts = ended
    assert all(np.array_equal(one, other) for one, other in zip(whole, parts, strict=True)), (whole, parts)
    return whole


@case
def refused() -> Weights:
    """What ends on all ranks: weights that differ from the start, and epochs of different lengths."""
    model, first = classifier(), hvd.callbacks.BroadcastGlobalVariablesCallback(0)
    model.compile(optimizer=hvd.DistributedOptimizer(sgd()), loss="mse")
    data = shares(y=np.eye(3)[Y])
    messages = []
    for dataset, callbacks in ((data, []), (data.take(STEPS - hvd.rank()), [first])):
        try:
            model.fit(dataset, verbose=0, callbacks=callbacks)
        except (RunFailed, BadInput) as error:
            messages.append(str(error))
    if hvd.size() == 1:
        assert messages == []
    else:
        apart, lengths = messages
        assert apart.startswith("step 1: rank 0 and rank 1 differ in"), apart
        assert apart.endswith("is callbacks.BroadcastGlobalVariablesCallback(0) among the callbacks?"), apart
        assert lengths == "steps an epoch: rank 0 has 6, rank 1 has 5, expected the same"
    return [np.zeros(1)]


@case
def warmed_up() -> Weights:
    warmup = hvd.callbacks.LearningRateWarmupCallback(0.1, warmup_epochs=2)
    seen: list[float] = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(warmup._rate()))
    fit(classifier(), hvd.DistributedOptimizer(sgd()), callbacks=[warmup, note])
    return [np.array(seen)]


def main() -> None:
    hvd.init()
    keras.config.set_floatx("float64")
    for name in sys.argv[2:] or CASES:
        keras.backend.clear_session()
        np.savez(OUTPUT / f"{name}_{hvd.rank()}_of_{hvd.size()}.npz", *CASES[name]())
        print(name, flush=True)


main()
