"""A Keras program that goes on from its checkpoints, wherever it was ended.

distrain launch -n 2 -- keras_goes_on.py OUTPUT-FOLDER

Rank 0 writes its steps down; they take long as long as there is a file `slow` in the folder.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import distrain.keras as hvd

OUTPUT = Path(sys.argv[1])
EPOCHS = 5

hvd.init()
(OUTPUT / f"pid_{hvd.rank()}").write_text(str(os.getpid()))

generator = np.random.default_rng(3)
x = generator.standard_normal((50, 6))
y = np.argmax(x @ generator.standard_normal((6, 3)), axis=1)
# Eight steps an epoch, the last of one example.
data = hvd.Examples((x, y), batch_size=7, seed=5)

keras.utils.set_random_seed(1 + hvd.rank())
model = keras.Sequential(
    [
        keras.layers.Input((6,)),
        keras.layers.Dense(8, "tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5, seed=3),
        keras.layers.Dense(3),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(loss=loss, optimizer=hvd.DistributedOptimizer(keras.optimizers.Adam(0.01)), metrics=["accuracy"])


class Noted(keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Batches that go by untrained on are told here, too.
        if hvd.rank() == 0:
            with (OUTPUT / "steps").open("a") as file:
                file.write(f"{int(self.model.optimizer.iterations)}\n")
        if (OUTPUT / "slow").exists():
            time.sleep(0.2)


model.fit(
    data.dataset(),
    steps_per_epoch=data.steps_per_epoch,
    epochs=EPOCHS,
    verbose=0,
    callbacks=[
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(),
        hvd.callbacks.GradientStatisticsCallback(),
        Noted(),
        hvd.callbacks.CheckpointCallback(OUTPUT / "checkpoints", every="3 steps", data=data),
    ],
)
state = [*model.weights, *model.optimizer.variables]
np.savez(OUTPUT / f"weights_{hvd.rank()}_of_{hvd.size()}.npz", *[np.asarray(each) for each in state])
