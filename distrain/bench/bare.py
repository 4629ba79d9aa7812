"""What a start is measured against: a program that joins the world and makes a step of a job's model, and no more.

python -m distrain.bench.bare JOB.yaml prints the loss of a batch of nothing, once the step is made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(path: Path) -> None:
    """Make the step, in the world of whoever started this."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import horovod.tensorflow as horovod
    import tensorflow as tf

    horovod.init()

    from distrain.data.select import select
    from distrain.job.load import load_job
    from distrain.model.build import build
    from distrain.step.train_step import crop_labels

    job = load_job(path, [])
    spec = select(job.data.train, key="data.train", seed=job.seed, training=True, data=job.data).spec
    assert job.train.batch_size is not None
    trained = build(job, spec, batch_size=job.train.batch_size, epoch_steps=1)
    variables = trained.model.trainable_variables
    share = job.train.batch_size // horovod.size()

    @tf.function(autograph=False)
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = trained.logits(images, training=True)
            loss = tf.reduce_mean(trained.loss(crop_labels(labels, logits), logits))
        gradients = tape.gradient(loss, variables)
        if horovod.size() > 1:
            gradients = horovod.grouped_allreduce(gradients, op=horovod.Average, name="bare")
        trained.optimizer.apply(gradients, variables)
        return loss

    images, labels = tf.zeros([share, *spec.image_shape]), tf.zeros([share, *spec.label_shape], tf.int32)
    print(float(step(images, labels)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
