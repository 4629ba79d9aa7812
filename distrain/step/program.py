"""Parts of a step as programs of XLA's: on a GPU one start, where their many small operations take one each."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import tensorflow as tf

from distrain.kernels import compiled

P = ParamSpec("P")
R = TypeVar("R")


def as_program(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as one program, for use in a `tf.function`; compiled anew for each shape of its tensors.

    It may exchange nothing with other ranks, and what its branches return must be of one shape.
    """

    @functools.wraps(function)
    def traced(*arguments: P.args, **options: P.kwargs) -> R:
        with compiled.left_out():
            return function(*arguments, **options)

    program: Callable[P, R] = tf.function(traced, jit_compile=True, autograph=False)
    return program


def plain(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as it is, operation by operation."""
    return function
