"""From a job to a model, a loss and an optimizer; what does not fit the data is refused by its key."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from distrain.data.provider import ExampleSpec
from distrain.errors import BadInput
from distrain.model.build import Trained, build
from distrain.model.optimizers import LARS
from tests.small_models import SPEC, make_trained
from tests.support import make_job

PIXELS = ExampleSpec((44, 44, 1), (44, 44), 2)
SMALL = {"layers": 1, "features": 1}


def _build(spec: ExampleSpec = PIXELS, **sections: Any) -> Trained:
    return build(make_job(**{"model": SMALL, **sections}), spec, batch_size=4, epoch_steps=5)


@pytest.mark.parametrize(
    ("section", "kind", "expected"),
    [
        ({}, keras.optimizers.SGD, {"momentum": 0.2, "nesterov": False}),
        ({"momentum": 0.9, "nesterov": True}, keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"name": "adam", "beta_1": 0.8}, keras.optimizers.Adam, {"beta_1": 0.8, "beta_2": 0.999, "epsilon": 1e-7}),
        ({"name": "lars", "trust": 0.5, "decay": 0.1}, LARS, {"momentum": 0.9, "trust": 0.5, "decay": 0.1}),
        ({"name": "lamb", "decay": 0.1}, keras.optimizers.Lamb, {"beta_1": 0.9, "weight_decay": 0.1}),
        ({"name": "tests.small_models:ftrl", "rate": 0.5}, keras.optimizers.Ftrl, {"learning_rate": 0.5}),
    ],
)
def test_optimizers(section: dict[str, Any], kind: Any, expected: dict[str, Any]) -> None:
    optimizer: Any = _build(optimizer=section).optimizer
    assert type(optimizer) is kind
    assert {name: optimizer.get_config()[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("every", "length"), [("1 epoch", 5), ("2 epochs", 10), ("3 steps", 3), ("8 examples", 2), ("9 examples", 3)]
)
def test_the_learning_rate_falls_by_stairs(every: str, length: int) -> None:
    section = {"learning_rate": 0.2, "decay_rate": 0.5, "decay_every": every}
    optimizer = _build(optimizer=section).optimizer
    rates = []
    for step in range(2 * length + 1):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    # Keras computes the schedule in float32.
    np.testing.assert_allclose(rates, [0.2] * length + [0.1] * length + [0.05], rtol=1e-6)


def _rates(steps: int, **section: Any) -> list[float]:
    optimizer = _build(optimizer=section).optimizer
    rates = []
    for step in range(steps):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    return rates


@pytest.mark.parametrize(("warm_up", "steps"), [("4 steps", 4), ("1 epoch", 5), (1, 1)])
def test_the_learning_rate_rises_first(warm_up: int | str, steps: int) -> None:
    expected = [0.2 * min(1, (step + 1) / steps) for step in range(8)]
    np.testing.assert_allclose(_rates(8, learning_rate=0.2, warm_up=warm_up), expected, rtol=1e-6)


def test_stairs_are_counted_from_the_first_step_of_the_rise() -> None:
    rates = _rates(8, learning_rate=0.2, warm_up=4, decay_rate=0.5, decay_every=6)
    np.testing.assert_allclose(rates, [0.05, 0.1, 0.15, 0.2, 0.2, 0.2, 0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("section", "rate"),
    [({"scale_from": 1}, 0.8), ({"scale_from": 8}, 0.1), ({"scale_from": 1, "scaling": "sqrt"}, 0.4), ({}, 0.2)],
)
def test_the_learning_rate_grows_with_the_batch(section: dict[str, Any], rate: float) -> None:
    np.testing.assert_allclose(_rates(1, learning_rate=0.2, **section), [rate], rtol=1e-6)


def test_a_rate_that_is_fixed_is_the_jobs_and_not_a_checkpoints() -> None:
    assert _build(optimizer={"learning_rate": 0.25}).rate == 0.25
    assert _build(optimizer={"learning_rate": 0.25, "scale_from": 2}).rate == 0.5
    assert _build(optimizer={"learning_rate": 0.25, "warm_up": 3}).rate is None
    assert _build(optimizer={"name": "tests.small_models:ftrl", "rate": 0.5}).rate is None


def test_without_decay_the_rate_is_a_constant() -> None:
    optimizer = _build(optimizer={"learning_rate": 0.3}).optimizer
    optimizer.iterations.assign(10_000)
    assert float(optimizer.learning_rate) == np.float32(0.3)


@pytest.mark.parametrize(
    ("precision", "reduced"),
    [("float32", False), ("float64", False), ("tensorfloat32", True), ("mixed_bfloat16", True)],
)
def test_float32_is_float32_on_gpus_too(precision: str, reduced: bool) -> None:
    """TensorFlow's switch, which GPUs read, from whatever a model built before has left; its weights are float32."""
    tf.config.experimental.enable_tensor_float_32_execution(not reduced)
    trained = _build(train={"precision": precision})
    assert tf.config.experimental.tensor_float_32_execution_enabled() is reduced
    assert trained.trainable()[0].dtype == ("float64" if precision == "float64" else "float32")


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_all_variables_have_the_precision(precision: str) -> None:
    trained = _build(train={"precision": precision})
    slots = [variable for variable in trained.optimizer.variables if "momentum" in variable.path]
    assert {variable.dtype.name for variable in trained.trainable()} == {precision}
    assert {str(variable.dtype) for variable in slots} == {precision}
    assert trained.model(tf.zeros((1, 44, 44, 1), precision)).dtype == precision


def test_the_jobs_seed_makes_the_weights() -> None:
    def weights(**sections: Any) -> list[bytes]:
        return [weight.numpy().tobytes() for weight in _build(**sections).model.trainable_variables]

    assert weights(seed=3) == weights(seed=3)
    assert weights(seed=3) != weights(seed=4)
    custom = [make_trained("convolution", seed=seed).trainable()[0].numpy().tobytes() for seed in (3, 3, 4)]
    assert custom[0] == custom[1] != custom[2]


def test_what_is_trained_what_is_averaged_and_what_draws_are_told_apart() -> None:
    trained = make_trained("batch_norm")
    assert [len(trained.trainable()), len(trained.buffers()), len(trained.random_states())] == [6, 2, 0]
    assert [variable.shape.rank for variable in trained.kernels()] == [4, 2]
    assert len(make_trained("dropout").random_states()) == 2
    assert len(_build(model={**SMALL, "keep_probability": 0.5}).random_states()) == 2
    assert len(make_trained("frozen").buffers()) == 2


def test_a_known_architecture_takes_the_datas_form() -> None:
    spec = ExampleSpec((32, 32, 3), (), 5)
    options = {"name": "application", "architecture": "MobileNetV2", "options": {"alpha": 0.35}}
    trained = _build(spec, model=options)
    logits = trained.model(tf.random.stateless_normal((2, 32, 32, 3), seed=[1, 2]), training=False)
    assert logits.shape == (2, 5)
    assert not np.allclose(tf.reduce_sum(logits, axis=1), 1)  # logits, no probabilities
    assert len(trained.buffers()) > 50


def test_a_loss_of_the_users_own_gets_its_options() -> None:
    trained = _build(loss={"name": "tests.small_models:zero_loss", "factor": 2.0})
    assert trained.loss(tf.zeros((1, 2, 2), tf.int32), tf.ones((1, 2, 2, 2))).numpy().tolist() == [16]
    assert trained.l2 == 0


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"channels": 3}}, r"'model\.channels' is 3, expected 1 as the data has"),
        ({"model": {"classes": 5}}, r"'model\.classes' is 5, expected 2 as the data has"),
        ({"model": {"layers": 3}, "spec": ExampleSpec((40, 40, 1), (40, 40), 2)}, "does not take images of 40 x 40"),
        ({"model": {"layers": 1, "kernel": 23}}, "does not take images of 44 x 44"),
        ({"loss": {"class_weights": [1, 2, 3]}}, r"'loss\.class_weights': expected 2 numbers, one a class, got 3"),
        (
            {"model": {"name": "application", "architecture": "MobileNetV9"}},
            "'MobileNetV9', did you mean 'MobileNetV2'.* Expected one of .*VGG16",
        ),
        (
            {"model": {"name": "application", "architecture": "mobilenet"}},
            "'mobilenet', did you mean 'MobileNet'.* Expected one of",
        ),
        ({"model": {"name": "application", "architecture": "VGG16", "options": {"x": 1}}}, "'model': VGG16"),
        ({"model": {"name": "application", "architecture": "VGG16", "weights": "no.h5"}}, "'model': VGG16"),
        ({"model": {"name": "tests.small_models:pixels"}}, r"gives \[1, 44, 44, 3\], expected .*with 2 classes"),
        ({"model": {"name": "tests.small_models:dense"}}, r"expected \[batch, height, width, classes\]"),
        ({"model": SMALL, "spec": SPEC}, r"gives \[1, 2, 2, 3\], expected \[batch, classes\] with 3 classes"),
        ({"model": {"name": "tests.small_models:no_model"}}, "returned str, expected a keras.Model"),
        ({"model": {"name": "tests.small_models:nothing"}}, "has no function 'nothing'"),
        ({"model": {"name": "tests.nowhere:model"}}, "cannot import 'tests.nowhere'"),
        ({"model": {"name": "tests.small_models:convolution", "color": 1}}, "cannot be called like this.*color"),
        ({"model": {"name": "tests.small_models:refusing"}}, "not on a Monday"),
        ({"optimizer": {"name": "tests.small_models:no_optimizer", "rate": 1.0}}, "returned float"),
        ({"optimizer": {"name": "tests.small_models:scaling"}}, "scales the loss"),
        ({"optimizer": {"name": "tests.small_models:scaled"}}, "scales the loss"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(sections: dict[str, Any], words: str) -> None:
    spec = sections.pop("spec", PIXELS)
    with pytest.raises(BadInput, match=words) as caught:
        _build(spec, **sections)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("layers", ["bfloat16", "float16"])
def test_a_unet_of_mixed_precision_tells_float32(layers: str) -> None:
    trained = _build(train={"precision": f"mixed_{layers}"}, model={**SMALL, "keep_probability": 0.75})
    assert (trained.loss_scale is not None) is (layers == "float16")
    logits = trained.logits(np.zeros((2, *PIXELS.image_shape), np.float32), training=True)
    assert logits.dtype == tf.float32
    assert trained.model.compute_dtype == layers
    assert {variable.dtype for variable in trained.model.trainable_variables} == {"float32"}
