"""Adasum: gradients of ranks combined so that what they agree on is averaged, and what they do not is added up.

S. Maleki et al., "Scaling Distributed Training with Adaptive Summation", arXiv 2006.02924: two gradients a and b of a
layer become `(1 - a.b / (2 |a|^2)) a + (1 - a.b / (2 |b|^2)) b`, more than two in a binary tree: neighbours first, then
neighbours of those. An odd one at the end waits for the next round, so that any number of ranks will do.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from distrain.step.reduction import Piece, Reduction, Slices


def adapted(slices: Slices) -> Reduction:
    """Adasum of the ranks' mean gradients, each tensor by itself; each rank with examples counts the same."""
    collectives = slices.collectives
    pieces = slices.pieces(collectives.rank)

    def reduce(sums: Sequence[tf.Tensor], count: tf.Tensor) -> list[tf.Tensor]:
        # A rank without examples has a gradient of zeros, which changes no other.
        means = [tf.math.divide_no_nan(total, tf.cast(count, total.dtype)) for total in sums]
        rows = slices.spread(means)
        level = 0
        while len(rows) > 1:
            ones, others = rows[0 : len(rows) // 2 * 2 : 2], rows[1::2]
            own = tf.stack([_products(one, other, pieces, len(sums)) for one, other in zip(ones, others, strict=True)])
            products = collectives.named(f"distrain.adasum.{level}").sum_group([own])[0]
            combined = [
                _combined(one, other, factors, pieces)
                for one, other, factors in zip(ones, others, tf.unstack(_factors(products)), strict=True)
            ]
            rows = [*combined, *rows[2 * len(ones) :]]
            level += 1
        return slices.collect(rows[0])

    return reduce


def _products(one: tf.Tensor, other: tf.Tensor, pieces: Sequence[Piece], tensors: int) -> tf.Tensor:
    """This slice's part of |a|^2, |b|^2 and a.b of each tensor, [tensors, 3], float64."""
    found = []
    for piece in pieces:
        a, b = one[piece.start : piece.stop], other[piece.start : piece.stop]
        found.append(tf.stack([tf.reduce_sum(a * a), tf.reduce_sum(b * b), tf.reduce_sum(a * b)]))
    if not found:
        return tf.zeros([tensors, 3], tf.float64)
    places = [[piece.tensor] for piece in pieces]
    return tf.scatter_nd(places, tf.cast(tf.stack(found), tf.float64), [tensors, 3])


def _factors(products: tf.Tensor) -> tf.Tensor:
    """What a and b are multiplied by, [pairs, tensors, 2], from [pairs, tensors, 3]."""
    squares, dots = products[..., :2], products[..., 2:]
    return 1 - tf.math.divide_no_nan(dots, 2 * squares)


def _combined(one: tf.Tensor, other: tf.Tensor, factors: tf.Tensor, pieces: Sequence[Piece]) -> tf.Tensor:
    """This slice of the gradient that two become, by the `factors` [tensors, 2] of each tensor."""
    factors = tf.cast(factors, one.dtype)
    parts = [
        factors[piece.tensor, 0] * one[piece.start : piece.stop]
        + factors[piece.tensor, 1] * other[piece.start : piece.stop]
        for piece in pieces
    ]
    end = pieces[-1].stop if pieces else 0
    return tf.concat([*parts, one[end:]], axis=0)
