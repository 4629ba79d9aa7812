"""The U-Net's step as the trainer of 2016 made it, in the words of TensorFlow 1; one process.

origin.py RANK PORT,... STEPS        prints the seconds of each step, as JSON

Images are fed from the host; the gradients are computed twice, once by the optimizer and once to be fetched; their
running average and its norms are made in NumPy, and assigned to a variable by an operation that is added to the graph
at each step, which is why a step takes longer the more have been made.
"""

# ruff: noqa: E402 (what is in the environment must be there before)
from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
steps = int(sys.argv[3])

import numpy as np
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()

SIZE, BATCH, LAYERS, FEATURES, KEEP = 172, 4, 3, 16, 0.75


def weights(shape: list[int]) -> Any:
    """A kernel, of small random numbers."""
    deviation = (2 / (shape[0] * shape[1] * shape[2])) ** 0.5
    return tf.Variable(tf.truncated_normal(shape, stddev=deviation, seed=1))


def biases(features: int) -> Any:
    return tf.Variable(tf.constant(0.1, shape=[features]))


def convolutions(value: Any, inputs: int, features: int) -> Any:
    """Twice: convolution, dropout, ReLU."""
    for before in (inputs, features):
        value = tf.nn.conv2d(value, weights([3, 3, before, features]), [1, 1, 1, 1], "VALID") + biases(features)
        value = tf.nn.relu(tf.nn.dropout(value, rate=1 - keep))
    return value


def upsampled(value: Any, features: int) -> Any:
    """Transposed convolution to twice the size and half of the features, ReLU."""
    shape = tf.shape(value)
    wanted = tf.stack([shape[0], shape[1] * 2, shape[2] * 2, features])
    kernel = weights([2, 2, features, 2 * features])
    return tf.nn.relu(tf.nn.conv2d_transpose(value, kernel, wanted, [1, 2, 2, 1], "VALID") + biases(features))


def joined(skipped: Any, value: Any) -> Any:
    """The centre of the one, and the other."""
    have, want = tf.shape(skipped), tf.shape(value)
    begin = tf.stack([0, (have[1] - want[1]) // 2, (have[2] - want[2]) // 2, 0])
    return tf.concat([tf.slice(skipped, begin, tf.stack([-1, want[1], want[2], -1])), value], 3)


images = tf.placeholder(tf.float32, [None, None, None, 1])
labels = tf.placeholder(tf.float32, [None, None, None, 2])
keep = tf.placeholder(tf.float32, [])
sizes = [FEATURES * 2**level for level in range(LAYERS)]
value, skips = images, []
for level, features in enumerate(sizes):
    value = convolutions(value, 1 if not level else features // 2, features)
    if level < LAYERS - 1:
        skips.append(value)
        value = tf.nn.max_pool(value, [1, 2, 2, 1], [1, 2, 2, 1], "VALID")
for features, skipped in zip(sizes[-2::-1], skips[::-1], strict=True):
    value = convolutions(joined(skipped, upsampled(value, features)), 2 * features, features)
logits = tf.nn.conv2d(value, weights([1, 1, FEATURES, 2]), [1, 1, 1, 1], "VALID") + biases(2)
flat = (tf.reshape(labels, [-1, 2]), tf.reshape(logits, [-1, 2]))
cost = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(*flat))
variables = tf.trainable_variables()
assert sum(int(np.prod(variable.shape)) for variable in variables) == 116_770
fetched = tf.gradients(cost, variables)
step = tf.Variable(0, trainable=False)
rate = tf.train.exponential_decay(0.2, step, 20, 0.95, staircase=True)
train = tf.train.MomentumOptimizer(rate, 0.2).minimize(cost, step)
norms = tf.Variable(tf.zeros([len(variables)]), trainable=False)

random = np.random.default_rng(1)
image = random.random((BATCH, SIZE, SIZE, 1), np.float32)
label = np.eye(2, dtype=np.float32)[random.integers(0, 2, (BATCH, SIZE - 40, SIZE - 40))]
means = [np.zeros(variable.shape, np.float32) for variable in variables]
one_thread = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
seconds = []
with tf.Session(config=one_thread) as session:
    session.run(tf.global_variables_initializer())
    for number in range(steps):
        began = time.perf_counter()
        _, loss, _, gradients = session.run(
            (train, cost, rate, fetched), feed_dict={images: image, labels: label, keep: KEEP}
        )
        means = [
            mean * (1 - 1 / (number + 1)) + gradient / (number + 1)
            for mean, gradient in zip(means, gradients, strict=True)
        ]
        norms.assign([np.linalg.norm(mean) for mean in means]).eval()
        seconds.append(time.perf_counter() - began)
print(json.dumps(seconds))
