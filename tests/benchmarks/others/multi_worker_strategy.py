"""The U-Net's step under `tf.distribute.MultiWorkerMirroredStrategy`, in a loop of its own; one of the processes.

multi_worker_strategy.py RANK PORT,PORT,... STEPS        prints the seconds of each step, as JSON
"""

# ruff: noqa: E402 (what is in the environment must be there before)
from __future__ import annotations

import json
import os
import sys
import time

rank, ports, steps = int(sys.argv[1]), sys.argv[2].split(","), int(sys.argv[3])
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_CONFIG"] = json.dumps(
    {"cluster": {"worker": [f"localhost:{port}" for port in ports]}, "task": {"type": "worker", "index": rank}}
)

import keras
import tensorflow as tf

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)
strategy = tf.distribute.MultiWorkerMirroredStrategy()

from distrain.job.schema import UNet
from distrain.model.portable import portable
from distrain.model.unet import build_unet

SIZE, BATCH = 172, 4


with strategy.scope():
    # What a user of Keras has: its own layers, dropout among them.
    model = portable(build_unet(UNet(), channels=1, classes=2, seed=1), (SIZE, SIZE, 1))
    optimizer = keras.optimizers.SGD(0.2, momentum=0.2)
    optimizer.build(model.trainable_variables)


def replica(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """One worker's part of a step; the optimizer sums the gradients over the workers."""
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        loss = tf.reduce_mean(losses) / strategy.num_replicas_in_sync
    optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
    return loss


@tf.function  # type: ignore[untyped-decorator, unused-ignore]  # TensorFlow has no types
def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    return strategy.reduce(tf.distribute.ReduceOp.SUM, strategy.run(replica, (images, labels)), axis=None)


images = tf.random.uniform([BATCH, SIZE, SIZE, 1])
labels = tf.cast(tf.random.uniform([BATCH, SIZE - 40, SIZE - 40]) > 0.5, tf.int32)
seconds = []
for _ in range(steps):
    began = time.perf_counter()
    float(step(images, labels))
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds))
