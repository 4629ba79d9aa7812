"""Gradients of real ranks, reduced in 16 bits and by Adasum: as NumPy has it, and the same bits on all ranks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from distrain.cli.worker import settle
from distrain.job.schema import Parallel
from distrain.world.start import start
from tests.reductions import Array, adasum, sum_in

started = start(os.environ)
settle(Parallel(), started)

import tensorflow as tf  # noqa: E402 (devices and threads are settled first)

from distrain.step.adasum import adapted  # noqa: E402
from distrain.step.reduction import Slices, added  # noqa: E402
from distrain.world.collectives import HorovodCollectives  # noqa: E402

SHAPES: list[tuple[int, ...]] = [(3, 3, 1, 16), (16,), (), (31, 7), (5,)]
RANKS = range(started.world.size)


def gradients(step: int, rank: int, dtype: str) -> list[Array]:
    random = np.random.default_rng([step, rank])
    return [np.asarray(random.standard_normal(shape), dtype) for shape in SHAPES]


def check(
    name: str, kind: Any, expected: Callable[[Sequence[Array]], Array], dtype: str, wire: Any, close: float
) -> None:
    """Three steps of one compiled function: each tensor within `close` of what is `expected`; 0 is to the bit."""
    variables = [tf.Variable(value) for value in gradients(0, 0, dtype)]
    reduction = kind(Slices(variables, HorovodCollectives(started.horovod, name), wire))
    reduce = tf.function(lambda: reduction([tf.identity(each) for each in variables], tf.ones([])), autograph=False)
    for step in range(3):
        for variable, value in zip(variables, gradients(step, started.world.rank, dtype), strict=True):
            variable.assign(value)
        found = [np.asarray(total) for total in reduce()]
        for number, total in enumerate(found):
            reference = expected([gradients(step, rank, dtype)[number] for rank in RANKS])
            np.testing.assert_allclose(total, reference, rtol=close, atol=close, err_msg=name)
        digest = hashlib.sha256(b"".join(total.tobytes() for total in found)).hexdigest()
        assert len(set(started.control.gather(digest))) == 1, name


for half in (tf.float16, tf.bfloat16):
    numpys = half.as_numpy_dtype
    check(f"sum.{half.name}", added, partial(sum_in, numpys), "float32", half, 0.0)
check("adasum.float64", adapted, adasum, "float64", None, 1e-12)
check("adasum.float32", adapted, adasum, "float32", None, 1e-5)
check("adasum.bfloat16", adapted, adasum, "float32", tf.bfloat16, 0.1)
print(f"{started.world.rank} of {started.world.size}: as NumPy has it", flush=True)
started.control.gather(None)
started.close()
