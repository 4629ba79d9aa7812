"""From each rank's gradients to those that all ranks apply: averaged over examples, or summed over ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import tensorflow as tf

from distrain.errors import BadInput
from distrain.keras.place import place
from distrain.keras.values import Average, Compression, Compressor, Sum

_examples: list[tf.Tensor] = []
_numbers = count()


@contextmanager
def counting(examples: tf.Tensor) -> Iterator[None]:
    """Say how many examples this rank has in the step that is traced, or run, in here."""
    _examples.append(tf.cast(examples, tf.float64))
    try:
        yield
    finally:
        _examples.pop()


def examples_now() -> tf.Tensor:
    """The number of this rank's examples, float64; 1 where nobody has said it, which weighs all ranks alike."""
    return _examples[-1] if _examples else tf.convert_to_tensor(ONE)


# No constant: TensorFlow folds what is computed of constants alone, exchanges included, into its first result.
ONE = tf.Variable(1.0, dtype=tf.float64, trainable=False, name="one")


@dataclass(frozen=True)
class Options:
    """What `DistributedOptimizer` was asked for."""

    compression: Compressor = Compression.none
    sparse_as_dense: bool = False
    gradient_predivide_factor: float = 1.0
    op: int = Average
    backward_passes_per_step: int = 1
    average_aggregated_gradients: bool = False
    scale_local_gradients: bool = True
    device: str = ""

    def __post_init__(self) -> None:
        if self.op not in (Average, Sum):
            raise BadInput(f"DistributedOptimizer: op is {self.op!r}, expected Average or Sum")
        if self.backward_passes_per_step < 1:
            passes = self.backward_passes_per_step
            raise BadInput(f"DistributedOptimizer: backward_passes_per_step is {passes}, expected 1 or more")
        if not self.gradient_predivide_factor > 0:
            factor = self.gradient_predivide_factor
            raise BadInput(f"DistributedOptimizer: gradient_predivide_factor is {factor}, expected more than 0")


class Reducer:
    """Reduces the gradients of one optimizer. Ranks make theirs in the same order, which names what they exchange."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.name = f"distrain.optimizer.{next(_numbers)}"
        # The variables that each rank trains by its own gradients.
        self.local: set[str] = set()

    def total(self, examples: tf.Tensor) -> tf.Tensor:
        """The sum over ranks of the number of examples."""
        return place().collectives(f"{self.name}.examples").sum_group([examples])[0]

    def weight(self, examples: tf.Tensor) -> tf.Tensor:
        """What the mean over `examples` counts among those of all ranks, float64; with `Average` the sum is 1.

        So nothing that is added up grows larger than a gradient, which 16 bits may just hold.
        """
        return examples / self.total(examples) if self.options.op == Average else tf.ones_like(examples)

    def reduce(self, gradients: Sequence[Any], names: Sequence[str], weight: tf.Tensor) -> list[Any]:
        """The weighted sum over ranks of each gradient; `names` are those of their variables.

        A gradient is a tensor, `IndexedSlices` or None, which stays.
        """
        reduced = list(gradients)
        groups: dict[tf.DType, list[int]] = {}
        contexts: dict[int, Any] = {}
        before = weight / self.options.gradient_predivide_factor
        with tf.device(self.options.device):
            for number, (gradient, name) in enumerate(zip(gradients, names, strict=True)):
                if gradient is None or name in self.local:
                    continue
                if isinstance(gradient, tf.IndexedSlices) and not self.options.sparse_as_dense:
                    reduced[number] = self._gathered(gradient, weight, number)
                    continue
                value = tf.convert_to_tensor(gradient)
                # A rank without examples has a mean over nothing, which is not finite.
                value = tf.math.multiply_no_nan(value, tf.cast(before, value.dtype))
                reduced[number], contexts[number] = self.options.compression.compress(value)
                groups.setdefault(reduced[number].dtype, []).append(number)
            for dtype, members in groups.items():
                collectives = place().collectives(f"{self.name}.{dtype.name}")
                sums = collectives.sum_group([reduced[number] for number in members])
                for number, total in zip(members, sums, strict=True):
                    value = self.options.compression.decompress(total, contexts[number])
                    factor = tf.cast(self.options.gradient_predivide_factor, value.dtype)
                    reduced[number] = value if self.options.gradient_predivide_factor == 1 else value * factor
        return reduced

    def _gathered(self, gradient: tf.IndexedSlices, weight: tf.Tensor, number: int) -> tf.IndexedSlices:
        horovod = place().horovod
        values = tf.math.multiply_no_nan(gradient.values, tf.cast(weight, gradient.values.dtype))
        if horovod is None:
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        name = f"{self.name}.sparse.{number}"
        return tf.IndexedSlices(
            horovod.allgather(values, name=f"{name}.values"),
            horovod.allgather(gradient.indices, name=f"{name}.indices"),
            gradient.dense_shape,
        )

    def scaled_local(self, gradients: Sequence[Any], names: Sequence[str]) -> list[Any]:
        """The gradients with those of local variables divided by the number of ranks, where that was asked for."""
        if not self.local or not self.options.scale_local_gradients:
            return list(gradients)
        ranks = place().collectives(f"{self.name}.ranks").sum_group([tf.convert_to_tensor(ONE)])[0]
        return [
            gradient
            if gradient is None or name not in self.local
            else tf.convert_to_tensor(gradient) / tf.cast(ranks, gradient.dtype)
            for gradient, name in zip(gradients, names, strict=True)
        ]
