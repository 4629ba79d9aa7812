"""Reading packed TFRecord shards: distrain at random against tf.data in sequence, interleaved in one process.

    .venv/bin/python tests/benchmarks/tfrecords_against_tf_data.py SHARDS [--turns 15] [--batch 4] [--repeat 4]

SHARDS is a folder that `distrain data pack` wrote. Both read, verify, decode and batch the same records to float32
images and int32 labels, again and again: tf.data through TFRecordDataset with parallel decoding and prefetching, file
after file; distrain by the random order of its epochs, by `Batches` as a training run does. They take turns of `repeat`
passes. Prints the median and the range of the ratio tf.data's seconds / distrain's: above 1 distrain is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from distrain.data.batches import Batches, Plan
from distrain.data.select import select
from distrain.data.source import Source
from distrain.job.load import check_job
from distrain.job.schema import Reading
from distrain.world.topology import World


def main() -> None:
    """Take turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=4, help="passes over the data in a turn")
    parser.add_argument("--threads", type=int, default=Reading().threads, help="of distrain")
    arguments = parser.parse_args()
    data = {"train": {"provider": "tfrecords", "files": str(arguments.shards)}}
    job = check_job({"data": data}, source="benchmark")
    source = select(job.data.train, key="data.train", seed=7, training=True, data=job.data)
    dataset = pipeline(sorted(map(str, arguments.shards.glob("*.tfrecord"))), source, arguments.batch)
    check(source, dataset)
    ratios, own = [], []
    for turn in range(arguments.turns + 1):
        theirs = timed(lambda: sum(int(images.shape[0]) for images, _ in dataset.repeat(arguments.repeat)))
        ours = timed(
            lambda turn=turn: passes(
                source, arguments.batch, arguments.repeat, turn, Reading(threads=arguments.threads)
            )
        )
        if turn:  # the first is for warming up
            ratios.append(theirs / ours)
            own.append(ours)
    examples = len(source) * arguments.repeat
    print(f"distrain {statistics.median(own) / examples * 1000:.2f} ms an example (median of {len(own)} turns)")
    print(f"tf.data / distrain: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


def passes(source: Source, batch: int, repeat: int, turn: int, reading: Reading) -> int:
    """Draw so many epochs, as a training run does."""
    first = turn * repeat * len(source)
    batches = Batches(source, Plan(7, batch, "keep"), World(), first, reading)
    count, stop = 0, first
    while stop < first + repeat * len(source):
        local = batches.next()
        assert local.error is None
        count, stop = count + len(local.images), local.batch.stop
    batches.close()
    return count


def pipeline(paths: list[str], source: Source, batch: int) -> tf.data.Dataset:
    """What one would write by hand for these shards."""
    spec = source.spec
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "label")}

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, features)
        image = tf.reshape(tf.io.decode_raw(parsed["image"], tf.float32), spec.image_shape)
        label = tf.cast(tf.io.decode_raw(parsed["label"], tf.uint8), tf.int32)
        return image, tf.reshape(label, spec.label_shape)

    records = tf.data.TFRecordDataset(paths)
    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(batch).prefetch(tf.data.AUTOTUNE)


def check(source: Source, dataset: tf.data.Dataset) -> None:
    """Both read the same."""
    images, labels = next(iter(dataset.unbatch().batch(1)))
    example = source.read(0, 0)
    assert (images.numpy()[0] == example.image).all()
    assert (labels.numpy()[0] == example.label).all()


def timed(action: object) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    assert callable(action)
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
