"""The example of a loop of one's own runs as it stands in the documentation."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

PAGE = Path(__file__).parents[2] / "docs" / "gradient-statistics.md"


class _TwoWorkers:
    """Horovod as a worker of two sees it whose partner has the same examples."""

    Sum = "sum"

    @staticmethod
    def grouped_allreduce(tensors: list[tf.Tensor], op: str) -> list[tf.Tensor]:
        assert op == "sum"
        return [2 * tensor for tensor in tensors]


def test_the_example_measures_what_two_workers_with_the_same_examples_have() -> None:
    (code,) = re.findall(r"```python\n(import horovod.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("import horovod.tensorflow as hvd\n", "")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    names = {
        "hvd": _TwoWorkers,
        "tf": tf,
        "model": model,
        "optimizer": keras.optimizers.Adam(0.1),
        "loss_of": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None),
        "images": tf.constant(np.random.default_rng(1).random((4, 3), np.float32)),
        "labels": tf.constant([0, 1, 1, 0]),
    }
    names["optimizer"].build(model.trainable_variables)
    before = [variable.numpy() for variable in model.trainable_variables]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(compile(code, PAGE.name, "exec"), names)  # noqa: S102 - the text of this repository
    # Two workers with one and the same gradient: all signal, no noise.
    assert abs(float(shown.getvalue())) < 1e-5
    told = names["measures"](names["as_moments"](*names["measured"]))
    np.testing.assert_allclose(told["agreement"], 1, rtol=1e-5)
    changes = [np.linalg.norm(now.numpy() - old) for now, old in zip(model.trainable_variables, before, strict=True)]
    norms = [np.linalg.norm(variable.numpy()) for variable in model.trainable_variables]
    np.testing.assert_allclose(told["update_ratio"][:-1], np.divide(changes, norms), rtol=1e-4)
