"""An elastic Keras program, in the manner of Horovod's example tensorflow2_keras_mnist_elastic.py.

Each step is written down, and takes long as long as there is a file `slow` in the folder.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import distrain.keras as hvd

OUTPUT = Path(sys.argv[1])
EPOCHS, STEPS, BATCH = 4, 6, 8

hvd.init()
keras.config.set_floatx("float64")

generator = np.random.default_rng(3)
x = generator.standard_normal((BATCH * STEPS, 6))
y = np.argmax(x @ generator.standard_normal((6, 3)), axis=1).astype(np.int64)
dataset = hvd.shared(tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH))

keras.utils.set_random_seed(1)
model = keras.Sequential([keras.layers.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)])
opt = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(loss=loss, optimizer=opt, metrics=["accuracy"])


class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        line = {"rank": hvd.rank(), "size": hvd.size(), "pid": os.getpid(), "epoch": state.epoch, "batch": batch}
        line["resets"] = resets
        with (OUTPUT / f"steps_{os.getpid()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if (OUTPUT / "slow").exists():
            time.sleep(0.3)


resets = 0


def on_state_reset() -> None:
    global resets  # noqa: PLW0603
    resets += 1
    with (OUTPUT / "resets").open("a") as file:
        file.write(f"{hvd.size()}\n")


state: Any = hvd.elastic.KerasState(model, batch=0, epoch=0)
state.register_reset_callbacks([on_state_reset])

callbacks = [
    hvd.callbacks.MetricAverageCallback(),
    hvd.elastic.UpdateEpochStateCallback(state),
    hvd.elastic.UpdateBatchStateCallback(state),
    Slow(),
    hvd.elastic.CommitStateCallback(state),
]


# Horovod: train the model with the state.
@hvd.elastic.run
def train(state: Any) -> None:
    state.model.fit(dataset, callbacks=callbacks, epochs=EPOCHS - state.epoch, verbose=0)


train(state)

final = [*(weight.numpy() for weight in model.weights), model.optimizer.iterations.numpy()]
np.savez(OUTPUT / f"weights_{hvd.rank()}_of_{hvd.size()}.npz", *final)
