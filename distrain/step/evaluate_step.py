"""Prediction and exact sums for validation, compiled; no communication inside."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from distrain.data.provider import ExampleSpec
from distrain.model.build import Trained
from distrain.step.train_step import crop_labels

# images [b, h, w, c], labels [b, ...] -> losses [b] float64, confusion [classes, classes] int64, classes predicted
EvaluateStep = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


def build_evaluate_step(trained: Trained, spec: ExampleSpec) -> EvaluateStep:
    """The compiled step for examples of `spec`.

    It returns each example's loss, the counts of (true class, predicted class) over all pixels or images of the batch,
    and the predicted class of each pixel or image, int32.
    """

    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = trained.logits(images, training=False)
        labels = crop_labels(labels, logits)
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        confusion = tf.math.confusion_matrix(
            tf.reshape(labels, [-1]), tf.reshape(predicted, [-1]), num_classes=spec.classes, dtype=tf.int64
        )
        return tf.cast(trained.loss(labels, logits), tf.float64), confusion, predicted

    signature = [
        tf.TensorSpec([None, *spec.image_shape], tf.float32),
        tf.TensorSpec([None, *spec.label_shape], tf.int32),
    ]
    compiled: EvaluateStep = tf.function(step, input_signature=signature, autograph=False)
    return compiled
