"""A Keras program as it is written for Horovod: handwritten digits, each rank with its share of every batch.

In the manner of Horovod's example tensorflow2_keras_mnist.py, in float64. The tests run it with another import.

    horovodrun -np 2 python horovod_digits.py OUTPUT-FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

OUTPUT = Path(sys.argv[1])
BATCH = 64

# Horovod: initialize Horovod.
hvd.init()

# Horovod: pin GPU to be used to process local rank (one GPU per process)
gpus = tf.config.experimental.list_physical_devices("GPU")
for gpu in gpus:
    tf.config.experimental.set_memory_growth(gpu, True)
if gpus:
    tf.config.experimental.set_visible_devices(gpus[hvd.local_rank()], "GPU")

tf.keras.backend.set_floatx("float64")

digits = load_digits()
images = digits.images[..., np.newaxis] / 16.0
labels = digits.target.astype(np.int64)

# Horovod: each rank has its share of each batch.
first, last = BATCH * hvd.rank() // hvd.size(), BATCH * (hvd.rank() + 1) // hvd.size()
dataset = tf.data.Dataset.from_tensor_slices((images, labels)).repeat().batch(BATCH)
dataset = dataset.map(lambda x, y: (x[first:last], y[first:last]))

# Weights of its own on each rank, as without a seed; those of rank 0 are the same in any world.
tf.keras.utils.set_random_seed(hvd.rank())
model = tf.keras.Sequential(
    [
        tf.keras.layers.Input((8, 8, 1)),
        tf.keras.layers.Conv2D(16, [3, 3], activation="relu"),
        tf.keras.layers.Conv2D(32, [3, 3], activation="relu"),
        tf.keras.layers.MaxPooling2D(pool_size=(2, 2)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)

# Horovod: no adjustment of the learning rate here, since the global batch stays the same.
opt = tf.keras.optimizers.Adam(0.001)

# Horovod: add Horovod DistributedOptimizer.
opt = hvd.DistributedOptimizer(opt, backward_passes_per_step=1, average_aggregated_gradients=True)

model.compile(loss=tf.keras.losses.SparseCategoricalCrossentropy(), optimizer=opt, metrics=["accuracy"])

callbacks = [
    # Horovod: broadcast initial variable states from rank 0 to all other processes.
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    # Horovod: average metrics among workers at the end of every epoch.
    hvd.callbacks.MetricAverageCallback(),
]

# Horovod: save checkpoints only on worker 0 to prevent other workers from corrupting them.
if hvd.rank() == 0:
    callbacks.append(tf.keras.callbacks.ModelCheckpoint("checkpoint-{epoch}.keras"))

# Horovod: write logs on worker 0.
verbose = 2 if hvd.rank() == 0 else 0

# Train the model, with an epoch for each step, so that the history has the loss of each.
history: Any = model.fit(dataset, steps_per_epoch=1, callbacks=callbacks, epochs=50, verbose=verbose)

place = f"{hvd.rank()}_of_{hvd.size()}"
np.savez(OUTPUT / f"weights_{place}.npz", *[weight.numpy() for weight in model.weights])
(OUTPUT / f"history_{place}.json").write_text(json.dumps(history.history))
