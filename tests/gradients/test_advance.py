"""The pass over a gradient, by the compiled operation and by TensorFlow's own, against Keras's momentum."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.gradients.advance import MEASURED, UPDATE, WEIGHT, Folding, Gradient, Momentum, advance
from distrain.gradients.running_mean import RunningMean
from distrain.kernels import compiled

SHAPES: list[tuple[int, ...]] = [(), (7,), (33, 5), (70_001,), (300, 500)]


class _Trainee:
    """A variable under momentum, with its running mean or without."""

    def __init__(self, start: npt.NDArray[Any], *, nesterov: bool, folded: bool) -> None:
        self.variable, self.velocity = tf.Variable(start), tf.Variable(np.zeros_like(start))
        self.mean = RunningMean([self.variable]) if folded else None
        self._nesterov = nesterov

    @functools.cached_property
    def step(self) -> Any:
        def step(total: tf.Tensor, examples: tf.Tensor, rate: tf.Tensor, clip: tf.Tensor) -> tf.Tensor:
            momentum = Momentum(self.variable, self.velocity, rate, 0.9, self._nesterov, clip)
            if self.mean is None:
                return advance(Gradient(total, examples), None, momentum)
            folding = Folding(self.mean.recent[0], self.mean.base[0], self.mean.plan(), tf.constant(True))
            measured = advance(Gradient(total, examples), folding, momentum)
            with tf.control_dependencies([measured]):
                self.mean.settle()
            return measured

        return tf.function(step, autograph=False)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("by_kernel", [True, False])
def test_it_updates_as_keras_does(
    shape: tuple[int, ...], dtype: str, nesterov: bool, by_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not by_kernel:
        monkeypatch.setattr(compiled, "serve", lambda variable: False)
    random = np.random.default_rng(4)
    start = np.asarray(random.standard_normal(shape), dtype)
    plain, watched = (_Trainee(start, nesterov=nesterov, folded=folded) for folded in (False, True))
    reference = keras.Variable(start)
    optimizer = keras.optimizers.SGD(0.5, momentum=0.9, nesterov=nesterov)
    optimizer.build([reference])
    for _ in range(3):
        gradient = np.asarray(random.standard_normal(shape), dtype)
        before = np.array(watched.variable.numpy(), np.float64)
        arguments = [tf.constant(np.asarray(value, dtype)) for value in (gradient * 3, 3.0, 0.5, 1.0)]
        plain.step(*arguments)
        measured = watched.step(*arguments).numpy()
        optimizer.apply([tf.constant(gradient)], [reference])
        tolerance = 1e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(plain.variable, reference.value, rtol=tolerance, atol=tolerance)
        after = np.array(watched.variable.numpy(), np.float64)
        np.testing.assert_allclose(measured[WEIGHT], np.sum(after**2), rtol=10 * tolerance)
        # From the difference of float32 weights, which rounds.
        np.testing.assert_allclose(measured[UPDATE], np.sum((after - before) ** 2), rtol=1e3 * tolerance)
    assert plain.variable.numpy().tobytes() == watched.variable.numpy().tobytes()


def test_what_still_reads_an_old_value_keeps_it() -> None:
    """The operation writes in place; a tensor read before must not change under its reader."""
    trainee = _Trainee(np.ones(5, np.float32), nesterov=False, folded=True)
    read = tf.convert_to_tensor(trainee.variable)
    before = read.numpy().copy()
    trainee.step(tf.ones(5), tf.ones([]), tf.ones([]), tf.ones([]))
    assert read.numpy().tolist() == before.tolist()
    assert trainee.variable.numpy().tolist() != before.tolist()


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    """Shared out to threads or not, they are the sums of parts of 65536 elements, in the order of these."""
    values = np.random.default_rng(5).standard_normal(300_001).astype(np.float32)

    def measured(part: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        trainee = _Trainee(part, nesterov=False, folded=True)
        got: npt.NDArray[np.float64] = trainee.step(tf.constant(part), tf.ones([]), tf.ones([]), tf.ones([])).numpy()
        return got

    expected = np.zeros(MEASURED)
    for start in range(0, len(values), 65_536):
        expected += measured(values[start : start + 65_536])
    assert measured(values).tolist() == expected.tolist()


def test_variables_of_another_shape_are_refused() -> None:
    operations = compiled.operations()
    assert operations is not None
    variable = tf.Variable(tf.zeros(4))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected a variable of shape"):
        operations.distrain_advance(
            gradient=tf.zeros(5),
            numbers=tf.zeros(7),
            measure=False,
            variables=[variable.handle],
            fold=True,
            update=False,
            nesterov=False,
        )
