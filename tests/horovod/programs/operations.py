"""Horovod's operations for TensorFlow, one after the other in one world: what each gives, and what each refuses.

    operations.py

Every rank ends with the line `RANK of SIZE: N cases`; the first result that is not what it should be ends the world.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf

FLOATS = (tf.float16, tf.float32, tf.float64)
NUMBERS = (tf.uint8, tf.int8, tf.int32, tf.int64, *FLOATS)
ALL = (*NUMBERS, tf.uint16, tf.int16, tf.bool)
# Scalars, nothing at all, one less and one more than a multiple of the ranks, and more than one piece of a ring.
SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (5,), (7, 3), (2, 3, 2), (33_333,))

CASES: list[Callable[[], None]] = []
SIZE = RANK = 0


def case(function: Callable[[], None]) -> Callable[[], None]:
    CASES.append(function)
    return function


def ways(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """An operation called at once, and the same compiled: what both give must be the same."""
    yield function
    yield tf.function(function)


def equal(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=0)


def numbers(shape: tuple[int, ...], rank: int, dtype: tf.DType = tf.float32) -> Any:
    """Small whole numbers that are another set on each rank; sums of them are exact in every type."""
    values = np.arange(int(np.prod(shape))).reshape(shape) % 5 + rank + 1
    return tf.constant(values, dtype=dtype) if dtype != tf.bool else tf.constant(values % 2 == 0)


def everywhere(shape: tuple[int, ...], dtype: tf.DType = tf.float32) -> list[Any]:
    return [numbers(shape, rank, dtype).numpy() for rank in range(SIZE)]


@contextmanager
def fails(*words: str, error: type[Exception] = tf.errors.FailedPreconditionError) -> Iterator[None]:
    """What is within must fail here, by this error, with these words."""
    raised = None
    try:
        yield
    except error as caught:
        raised = str(caught)
    assert raised is not None, f"nobody refused this: {words}"
    assert all(word in raised for word in words), raised


@contextmanager
def refused(*words: str, error: type[Exception] = tf.errors.FailedPreconditionError) -> Iterator[None]:
    """What is within must fail on all ranks, and their world must work as before."""
    with fails(*words, error=error):
        yield
    equal(hvd.allreduce(tf.constant([1.0 + RANK]), op=hvd.Sum), [SIZE * (SIZE + 1) / 2])


# --- allreduce -------------------------------------------------------------------------------------------------------


@case
def allreduce_of_all_types_and_shapes() -> None:
    for way in ways(lambda tensors: [hvd.allreduce(tensor, op=hvd.Sum) for tensor in tensors]):
        for dtype in NUMBERS:
            results = way([numbers(shape, RANK, dtype) for shape in SHAPES])
            for shape, result in zip(SHAPES, results, strict=True):
                assert result.dtype == dtype
                equal(result, sum(everywhere(shape, dtype)))


@case
def allreduce_by_each_operation() -> None:
    values = everywhere((7, 3))
    for operation, expected in (
        (hvd.Average, np.mean(values, axis=0)),
        (hvd.Min, np.min(values, axis=0)),
        (hvd.Max, np.max(values, axis=0)),
        (hvd.Product, np.prod(values, axis=0)),
    ):
        for way in ways(lambda tensor, operation=operation: hvd.allreduce(tensor, op=operation)):
            equal(way(numbers((7, 3), RANK)), expected, tolerance=1e-6)


@case
def allreduce_scales_before_and_after() -> None:
    scaled = hvd.allreduce(numbers((5,), RANK), op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0)
    equal(scaled, 2 * sum(everywhere((5,))))


@case
def allreduces_are_fused() -> None:
    """Many at a time, of several types, in whatever order they come to each rank; later ones from the cache."""
    reduce_all = tf.function(lambda tensors: [hvd.allreduce(tensor, op=hvd.Sum) for tensor in tensors])
    for _ in range(3):
        results = reduce_all([numbers((index + 1,), RANK, FLOATS[index % 3]) for index in range(40)])
        for index, result in enumerate(results):
            equal(result, sum(everywhere((index + 1,), FLOATS[index % 3])))


@case
def allreduce_in_half_precision_on_the_way() -> None:
    result = hvd.allreduce(numbers((5,), RANK), op=hvd.Average, compression=hvd.Compression.fp16)
    assert result.dtype == tf.float32
    equal(result, np.mean(everywhere((5,)), axis=0), tolerance=1e-3)


@case
def allreduce_of_slices() -> None:
    for way in ways(lambda slices: hvd.allreduce(slices, op=hvd.Average)):
        # Each rank has one row more than the one before, the first row on all of them.
        rows = tf.range(RANK + 1)
        result = way(tf.IndexedSlices(tf.ones([RANK + 1, 2]), rows, dense_shape=tf.constant([SIZE, 2])))
        dense = tf.math.unsorted_segment_sum(result.values, result.indices, SIZE)
        equal(dense, [[(SIZE - row) / SIZE] * 2 for row in range(SIZE)], tolerance=1e-6)


@case
def allreduce_of_what_does_not_fit() -> None:
    for way in ways(lambda tensor, name: hvd.allreduce(tensor, name=name)):
        with refused("Mismatched ALLREDUCE tensor shapes"):
            way(tf.zeros([3 + RANK]), "other_shape")
        with refused("Mismatched ALLREDUCE tensor shapes"):
            way(tf.zeros([3] * (1 + RANK)), "other_dimensions")
        with refused("Mismatched data types"):
            way(tf.zeros([3], tf.float64 if RANK else tf.float32), "other_type")
    with refused("Mismatched reduction operation"):
        hvd.allreduce(tf.zeros([3]), op=hvd.Min if RANK else hvd.Max, name="other_operation")
    with refused("Mismatched prescale and/or postscale factors"):
        hvd.allreduce(tf.zeros([3]), op=hvd.Sum, prescale_factor=1.0 + RANK, name="other_factor")

    @tf.function  # called at once, each operation goes by its own name
    def one_or_the_other(tensor: Any) -> Any:
        if RANK:
            return hvd.allreduce(tensor, name="other_collective")
        return hvd.broadcast(tensor, 0, name="other_collective")

    with refused("Mismatched operations"):
        one_or_the_other(tf.zeros([3]))


@case
def allreduce_after_it_did_not_fit() -> None:
    """A tensor that was refused, or that changes, is negotiated anew and not taken from the cache."""
    for step in range(4):
        equal(hvd.allreduce(numbers((step + 1,), RANK), op=hvd.Sum, name="grows"), sum(everywhere((step + 1,))))
        with refused("Mismatched"):
            hvd.allreduce(numbers((step + 1 + RANK,), RANK), op=hvd.Sum, name="grows")


@case
def gradient_of_allreduce() -> None:
    for operation, factor in ((hvd.Sum, SIZE * (SIZE + 1) / 2), (hvd.Average, (SIZE + 1) / 2)):
        with tf.GradientTape() as tape:
            variable = tf.Variable(tf.ones([3]))
            loss = tf.reduce_sum(hvd.allreduce(variable, op=operation) * (RANK + 1.0))
        equal(tape.gradient(loss, variable), [factor] * 3, tolerance=1e-6)


# --- grouped ---------------------------------------------------------------------------------------------------------


@case
def grouped_allreduce_of_all_types() -> None:
    for dtype in NUMBERS:
        for way in ways(lambda *tensors: hvd.grouped_allreduce(tensors, op=hvd.Sum)):
            for _ in range(2):  # the second time from the cache
                results = way(*[numbers(shape, RANK, dtype) for shape in SHAPES])
                for shape, result in zip(SHAPES, results, strict=True):
                    equal(result, sum(everywhere(shape, dtype)))


@case
def grouped_allreduce_of_dense_tensors_and_slices() -> None:
    slices = [
        tf.IndexedSlices(tf.fill([1, 2], 1.0), tf.constant([RANK]), dense_shape=tf.constant([rows, 2]))
        for rows in (SIZE, SIZE + 4)
    ]
    dense, few, many = hvd.grouped_allreduce([numbers((5,), RANK), *slices], op=hvd.Sum)
    equal(dense, sum(everywhere((5,))))
    for result, rows in ((few, SIZE), (many, SIZE + 4)):
        equal(result.dense_shape, [rows, 2])
        equal(sorted(result.indices.numpy()), range(SIZE))
        equal(result.values, np.ones([SIZE, 2]))


@case
def a_group_fails_as_a_whole() -> None:
    """Whichever of its tensors does not fit: nobody gets the others, or memory that was never written to."""
    for wrong in range(3):
        shapes = [[4 + RANK if index == wrong else 4] for index in range(3)]
        for way in ways(lambda *tensors, wrong=wrong: hvd.grouped_allreduce(tensors, name=f"reduced_{wrong}")):
            with refused("Mismatched ALLREDUCE tensor shapes"):
                way(*[tf.ones(shape) for shape in shapes])
        for way in ways(lambda *tensors: hvd.grouped_reducescatter(tensors)):
            with refused("Mismatched REDUCESCATTER tensor shapes"):
                way(*[tf.ones(shape) for shape in shapes])
        shapes = [[2, 4 + RANK if index == wrong else 4] for index in range(3)]
        for way in ways(lambda *tensors, wrong=wrong: hvd.grouped_allgather(tensors, name=f"gathered_{wrong}")):
            with refused("Mismatched ALLGATHER tensor shapes"):
                way(*[tf.ones(shape) for shape in shapes])


@case
def gradient_of_grouped_allreduce() -> None:
    with tf.GradientTape() as tape:
        variables = [tf.Variable(tf.ones([size])) for size in (2, 3)]
        reduced = hvd.grouped_allreduce(variables, op=hvd.Average)
        loss = tf.reduce_sum(reduced[0]) * (RANK + 1.0) + tf.reduce_sum(reduced[1]) * 2.0
    first, second = tape.gradient(loss, variables)
    equal(first, [(SIZE + 1) / 2] * 2, tolerance=1e-6)
    equal(second, [2.0] * 3, tolerance=1e-6)


# --- allgather -------------------------------------------------------------------------------------------------------


@case
def allgather_of_all_types() -> None:
    for dtype in ALL:
        for way in ways(hvd.allgather):
            equal(way(numbers((4, 3), RANK, dtype)), np.concatenate(everywhere((4, 3), dtype)))


@case
def allgather_of_unequal_parts() -> None:
    """Rank 1 has nothing to say."""
    lengths = [0 if rank == 1 else rank + 2 for rank in range(SIZE)]
    expected = np.concatenate([numbers((length, 2), rank) for rank, length in enumerate(lengths)])
    for way in ways(hvd.allgather):
        equal(way(numbers((lengths[RANK], 2), RANK)), expected)
    for way in ways(lambda *tensors: hvd.grouped_allgather(tensors)):
        first, second = way(numbers((lengths[RANK], 2), RANK), numbers((2,), RANK))
        equal(first, expected)
        equal(second, np.concatenate(everywhere((2,))))


@case
def allgather_of_what_does_not_fit() -> None:
    with refused("Mismatched ALLGATHER tensor shapes"):
        hvd.allgather(tf.zeros([2, 3 + RANK]), name="other_columns")
    with refused("Mismatched ALLGATHER tensor shapes"):
        hvd.allgather(tf.zeros([2] * (2 + RANK)), name="other_dimensions")
    with refused("Mismatched data types"):
        hvd.allgather(tf.zeros([2], tf.int32 if RANK else tf.int64), name="other_type")
    with refused("rank-zero tensor"):
        hvd.allgather(tf.zeros([]), name="scalar")


@case
def gradient_of_allgather() -> None:
    with tf.GradientTape() as tape:
        variable = tf.Variable(tf.ones([RANK + 1]))
        loss = tf.reduce_sum(hvd.allgather(variable) * (RANK + 1.0))
    equal(tape.gradient(loss, variable), [(SIZE + 1) / 2] * (RANK + 1), tolerance=1e-6)


# --- broadcast -------------------------------------------------------------------------------------------------------


@case
def broadcast_of_all_types_from_each_rank() -> None:
    for root in range(SIZE):
        for dtype in ALL:
            for way in ways(lambda tensor, root=root: hvd.broadcast(tensor, root)):
                equal(way(numbers((7, 3), RANK, dtype)), numbers((7, 3), root, dtype))


@case
def broadcast_of_variables() -> None:
    for inplace in (False, True):
        variables = [
            tf.Variable(numbers((size,), RANK, dtype), name=f"{size}_{dtype.name}")
            for size in (1, 300)
            for dtype in NUMBERS
        ]
        hvd.broadcast_variables(variables, root_rank=SIZE - 1, inplace=inplace)
        for variable in variables:
            equal(variable, numbers(tuple(variable.shape), SIZE - 1, variable.dtype))


@case
def broadcast_and_allgather_of_objects() -> None:
    assert hvd.broadcast_object({"rank": RANK, "more": "x" * RANK}, root_rank=1) == {"rank": 1, "more": "x"}
    assert hvd.allgather_object(("of", "x" * RANK)) == [("of", "x" * rank) for rank in range(SIZE)]


@case
def broadcast_of_what_does_not_fit() -> None:
    with refused("Mismatched BROADCAST tensor shapes"):
        hvd.broadcast(tf.zeros([3 + RANK]), 0, name="other_shape")
    with refused("Mismatched BROADCAST root ranks"):
        hvd.broadcast(tf.zeros([3]), RANK % 2, name="other_root")
    with refused("invalid root rank", error=tf.errors.InvalidArgumentError):
        hvd.broadcast(tf.zeros([3]), SIZE, name="no_root")
    variables = [tf.Variable(tf.zeros([3]), name="fits"), tf.Variable(tf.zeros([3 + RANK]), name="does_not")]
    with refused("Mismatched BROADCAST tensor shapes"):
        hvd.broadcast_variables(variables, root_rank=0, inplace=True)


@case
def gradient_of_broadcast() -> None:
    with tf.GradientTape() as tape:
        variable = tf.Variable(tf.ones([3]))
        loss = tf.reduce_sum(hvd.broadcast(variable, 1) * (RANK + 1.0))
    equal(tape.gradient(loss, variable), [(SIZE + 1) / 2 if RANK == 1 else 0.0] * 3, tolerance=1e-6)


# --- alltoall, reducescatter -----------------------------------------------------------------------------------------


@case
def alltoall_of_all_types() -> None:
    for dtype in ALL:
        expected = np.concatenate([part[2 * RANK : 2 * RANK + 2] for part in everywhere((2 * SIZE, 3), dtype)])
        for way in ways(hvd.alltoall):
            equal(way(numbers((2 * SIZE, 3), RANK, dtype)), expected)


@case
def alltoall_of_unequal_parts() -> None:
    """Rank r sends r + s rows to rank s, so that one of the parts is empty."""
    for way in ways(lambda tensor, splits: hvd.alltoall(tensor, splits=splits)):
        splits = [RANK + other for other in range(SIZE)]
        result, received = way(tf.fill([sum(splits), 2], float(RANK)), tf.constant(splits, tf.int32))
        equal(received, splits)
        equal(result, [[float(rank)] * 2 for rank in range(SIZE) for _ in range(rank + RANK)])


@case
def alltoall_of_what_does_not_fit() -> None:
    with refused("Mismatched ALLTOALL tensor shapes"):
        hvd.alltoall(tf.zeros([SIZE, 2 + RANK]), name="other_columns")
    with refused("splits", error=tf.errors.InvalidArgumentError):
        hvd.alltoall(tf.zeros([SIZE]), splits=tf.constant([2] * SIZE, tf.int32), name="too_many")
    with refused("not an even multiple", error=tf.errors.InvalidArgumentError):
        hvd.alltoall(tf.zeros([SIZE + 1]), name="no_equal_parts")


@case
def gradient_of_alltoall() -> None:
    with tf.GradientTape() as tape:
        variable = tf.Variable(tf.ones([SIZE]))
        loss = tf.reduce_sum(hvd.alltoall(variable) * (RANK + 1.0))
    equal(tape.gradient(loss, variable), [rank + 1.0 for rank in range(SIZE)])


def own_part(values: Any) -> Any:
    """This rank's rows of so many; the first ranks have one more where they cannot be the same."""
    return np.array_split(values, SIZE)[RANK]


@case
def reducescatter_of_all_types() -> None:
    for dtype in (tf.int32, tf.int64, *FLOATS):
        for shape in ((SIZE, 2), (SIZE + 1, 3), (1, 2)):
            for way in ways(lambda tensor: hvd.reducescatter(tensor, op=hvd.Sum)):
                equal(way(numbers(shape, RANK, dtype)), own_part(sum(everywhere(shape, dtype))))
    for way in ways(lambda *tensors: hvd.grouped_reducescatter(tensors, op=hvd.Average)):
        first, second = way(numbers((7, 2), RANK), numbers((4,), RANK))
        equal(first, own_part(np.mean(everywhere((7, 2)), axis=0)), tolerance=1e-6)
        equal(second, own_part(np.mean(everywhere((4,)), axis=0)), tolerance=1e-6)


@case
def reducescatter_of_what_does_not_fit() -> None:
    with refused("Mismatched REDUCESCATTER tensor shapes"):
        hvd.reducescatter(tf.zeros([3 + RANK]), name="other_shape")
    with refused("scalar", error=tf.errors.InvalidArgumentError):
        hvd.reducescatter(tf.zeros([]), name="scalar")
    with refused("only supports AVERAGE and SUM", error=tf.errors.AbortedError):
        hvd.reducescatter(tf.zeros([3]), op=hvd.Max, name="other_operation")


@case
def gradient_of_reducescatter() -> None:
    with tf.GradientTape() as tape:
        variable = tf.Variable(tf.ones([SIZE]))
        loss = tf.reduce_sum(hvd.reducescatter(variable, op=hvd.Sum) * (RANK + 1.0))
    equal(tape.gradient(loss, variable), [SIZE * (rank + 1.0) for rank in range(SIZE)])


# --- the gradients of a step -----------------------------------------------------------------------------------------


@case
def distributed_gradient_tape() -> None:
    table, weight = tf.Variable(tf.ones([SIZE, 2])), tf.Variable(2.0)

    def gradients(rows: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, rows)) * weight * (RANK + 1.0)
        return hvd.DistributedGradientTape(tape).gradient(loss, [table, weight])

    for way in ways(gradients):
        of_table, of_weight = way(tf.constant([RANK]))
        dense = tf.math.unsorted_segment_sum(of_table.values, of_table.indices, SIZE)
        equal(dense, [[2.0 * (rank + 1) / SIZE] * 2 for rank in range(SIZE)], tolerance=1e-6)
        equal(of_weight, SIZE + 1, tolerance=1e-6)


@case
def gradient_tape_with_local_variables() -> None:
    shared, own = tf.Variable([1.0]), tf.Variable([1.0])
    with tf.GradientTape() as local_tape:
        loss = tf.reduce_sum(shared + own) * (RANK + 1.0)
    tape = hvd.DistributedGradientTape(local_tape)
    tape.register_local_source(own)
    of_shared, of_own = tape.gradient(loss, [shared, own])
    equal(of_shared, [(SIZE + 1) / 2], tolerance=1e-6)
    equal(of_own, [(RANK + 1) / SIZE], tolerance=1e-6)


# --- process sets ----------------------------------------------------------------------------------------------------


@contextmanager
def evens_and_odds() -> Iterator[tuple[hvd.ProcessSet, hvd.ProcessSet]]:
    """The set that this rank is in, and the other; for so long only, as Horovod's thread does not rest beside any."""
    sets = [hvd.add_process_set(list(range(first, SIZE, 2))) for first in (0, 1)]
    yield sets[RANK % 2], sets[1 - RANK % 2]
    for one in sets:
        assert hvd.remove_process_set(one)


@case
def operations_within_process_sets() -> None:
    with evens_and_odds() as (mine, _):
        members = range(RANK % 2, SIZE, 2)
        values = [numbers((4,), rank).numpy() for rank in members]
        assert (mine.size(), mine.rank()) == (len(members), RANK // 2)
        for way in ways(lambda tensor: hvd.allreduce(tensor, op=hvd.Average, process_set=mine)):
            equal(way(numbers((4,), RANK)), np.mean(values, axis=0), tolerance=1e-6)
        for way in ways(lambda *tensors: hvd.grouped_allreduce(tensors, op=hvd.Sum, process_set=mine)):
            for result in way(numbers((4,), RANK), numbers((4,), RANK)):
                equal(result, sum(values))
        equal(hvd.allgather(numbers((4,), RANK), process_set=mine), np.concatenate(values))
        equal(hvd.broadcast(numbers((4,), RANK), members[-1], process_set=mine), values[-1])
        scattered = hvd.reducescatter(numbers((4,), RANK), op=hvd.Sum, process_set=mine)
        equal(scattered, np.array_split(sum(values), len(members))[RANK // 2])
        assert hvd.broadcast_object(RANK, root_rank=members[0], process_set=mine) == members[0]


@case
def a_process_set_of_others_is_refused() -> None:
    with evens_and_odds() as (_, others):
        with refused("is not a member", error=tf.errors.InvalidArgumentError):
            hvd.allreduce(tf.zeros([3]), process_set=others)
        with refused("is not a member", error=tf.errors.InvalidArgumentError):
            hvd.grouped_allreduce([tf.zeros([3]), tf.zeros([3])], process_set=others)


@case
def what_does_not_fit_within_a_process_set() -> None:
    """Only where a set has two members can they disagree."""
    with evens_and_odds() as (mine, _):
        if mine.size() > 1:
            with refused("Mismatched ALLREDUCE tensor shapes"):
                hvd.allreduce(tf.zeros([3 + RANK]), process_set=mine, name="other_shape")
        else:
            equal(hvd.allreduce(tf.constant([1.0 + RANK]), op=hvd.Sum), [SIZE * (SIZE + 1) / 2])


# --- join ------------------------------------------------------------------------------------------------------------


@case
def joined_ranks_do_not_count() -> None:
    """Rank 0 has no more data: a mean is that of those who have, from the cache or not."""
    for name in ("known", "new"):
        if name == "known":
            equal(hvd.allreduce(numbers((4,), RANK), op=hvd.Average, name=name), np.mean(everywhere((4,)), axis=0))
            equal(hvd.allreduce(numbers((4,), RANK), op=hvd.Sum, name=name + "_sum"), sum(everywhere((4,))))
        if RANK:
            time.sleep(0.3)  # the others are there already
            for _ in range(2):
                mean = hvd.allreduce(numbers((4,), RANK), op=hvd.Average, name=name)
                equal(mean, np.mean(everywhere((4,))[1:], axis=0), tolerance=1e-6)
                equal(hvd.allreduce(numbers((4,), RANK), op=hvd.Sum, name=name + "_sum"), sum(everywhere((4,))[1:]))
                grouped = hvd.grouped_allreduce([numbers((4,), RANK)] * 2, op=hvd.Average, name=name + "_group")
                for result in grouped:
                    equal(result, np.mean(everywhere((4,))[1:], axis=0), tolerance=1e-6)
        last = int(hvd.join())
        assert last in range(1, SIZE), last
    equal(hvd.allreduce(numbers((4,), RANK), op=hvd.Average, name="known"), np.mean(everywhere((4,)), axis=0), 1e-6)


@case
def what_joined_ranks_cannot_take_part_in() -> None:
    """Zeros in the place of what they lack would be the smallest, or make the product nothing."""
    tensor = numbers((4,), RANK)
    attempts: list[Callable[[], Any]] = [
        lambda: hvd.allreduce(tensor, op=hvd.Min),
        lambda: hvd.allreduce(tensor, op=hvd.Max),
        lambda: hvd.allreduce(tensor, op=hvd.Product),
        lambda: hvd.allgather(tensor),
        lambda: hvd.broadcast(tensor, 1),
        lambda: hvd.alltoall(tf.zeros([SIZE])),
        lambda: hvd.reducescatter(tensor),
    ]
    for attempt in attempts:
        for _ in range(2):
            attempt()  # all are there; the second time, some of it is taken from the cache
        if RANK:
            time.sleep(0.2)
            with fails("not supported with Join"):
                attempt()
        hvd.join()
    equal(hvd.allreduce(tf.constant([1.0 + RANK]), op=hvd.Sum), [SIZE * (SIZE + 1) / 2])


def main() -> None:
    global SIZE, RANK  # constants of a world that is there only now
    hvd.init(process_sets="dynamic")
    SIZE, RANK = hvd.size(), hvd.rank()
    for function in CASES:
        if RANK == 0:
            print(function.__name__, file=sys.stderr, flush=True)
        function()
    print(f"{RANK} of {SIZE}: {len(CASES)} cases", flush=True)


if __name__ == "__main__":
    main()
