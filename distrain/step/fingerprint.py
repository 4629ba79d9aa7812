"""Proof that all ranks hold the same bits: one small reduction of a fingerprint of every variable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distrain.errors import RunFailed
from distrain.world.collectives import Collectives
from distrain.world.control import Control

# Numbers in a variable that is not copied to lie beside others.
LARGE = 1_000_000

Fingerprint = Callable[[], tuple[npt.NDArray[np.int64], bool]]


def build_fingerprint(variables: Sequence[tf.Variable], collectives: Collectives) -> Fingerprint:
    """A function that returns this rank's fingerprint [variables], int64, and whether all ranks have the same.

    The verdict is the same on every rank: one maximum over ranks of (f, -f) holds both the largest and the smallest.
    """

    # A run waits before its first step until this is traced: those of one size are looked at together, in rows.
    rows: dict[tuple[tf.DType, int, int], list[int]] = {}
    for number, variable in enumerate(variables):
        size = variable.shape.num_elements()
        rows.setdefault((variable.dtype, size, 0 if size < LARGE else number), []).append(number)
    order = np.argsort(np.concatenate(list(rows.values())))

    def compare() -> tuple[tf.Tensor, tf.Tensor]:
        flat = [tf.reshape(variable, [-1]) for variable in variables]
        hashes = [_hash(tf.stack([flat[number] for number in numbers])) for numbers in rows.values()]
        own = tf.gather(tf.concat(hashes, axis=0), order)
        extremes = collectives.maximum(tf.concat([own, -own], axis=0))
        largest, negated_smallest = tf.split(extremes, 2)
        return own, tf.reduce_all(largest == -negated_smallest)

    compiled = tf.function(compare, autograph=False)

    def fingerprint() -> tuple[npt.NDArray[np.int64], bool]:
        own, same = compiled()
        return own.numpy(), bool(same)

    return fingerprint


def verify(fingerprint: Fingerprint, names: Sequence[str], control: Control, step: int) -> None:
    """Prove that all ranks hold the same bits; `names` are those of the variables. Collective.

    Raises `RunFailed` on all ranks, naming who differs from whom in what.
    """
    own, same = fingerprint()
    if same:
        return
    rows = control.gather([int(value) for value in own])
    differing = next(number for number in range(len(own)) if len({row[number] for row in rows}) > 1)
    groups: dict[int, list[int]] = {}
    for rank, row in enumerate(rows):
        groups.setdefault(row[differing], []).append(rank)
    ranks = " and ".join("rank " + ", ".join(map(str, members)) for members in groups.values())
    raise RunFailed(
        f"step {step}: {ranks} differ in {names[differing]}; the ranks no longer train the same model, so the run is "
        "ended",
        agreed=True,
    )


def _hash(values: tf.Tensor) -> tf.Tensor:
    """The bits of vectors [n, size] as integers, summed with weights that depend on the place; wraps at 64 bits."""
    width = values.dtype.size
    integer = {1: tf.uint8, 2: tf.int16, 4: tf.int32, 8: tf.int64}[width]
    bits = tf.cast(tf.bitcast(values, integer) if values.dtype != integer else values, tf.int64)
    places = tf.range(values.shape[1], dtype=tf.int64)
    return tf.reduce_sum((bits + 1) * (2 * places + 1), axis=1)
