"""Batch normalisation over all ranks: alone as Keras's own, with weights as if what weighs nothing were not there."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from distrain.errors import BadInput
from distrain.model.portable import needed_code, portable
from distrain.model.sync_batch_norm import Exchange, StepBatchNormalization, exchanging, synchronised
from distrain.world.collectives import AloneCollectives

SHAPE = (6, 5, 3)


def _layers(axis: int = -1) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    found = []
    for kind in (keras.layers.BatchNormalization, StepBatchNormalization):
        layer = kind(axis=axis, dtype="float64", momentum=0.9)
        layer.build((None, *SHAPE))
        layer.moving_mean.assign(np.linspace(-1, 3, (0, *SHAPE)[axis]))
        found.append(layer)
    return found[0], found[1]


def _images(count: int, seed: int = 3) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(2.0, 3.0, (count, *SHAPE)))


def _run(layer: keras.layers.Layer, images: tf.Tensor, weights: Any = None) -> list[Any]:
    """Output, gradient of a function of it, and moving averages."""
    exchange = Exchange(AloneCollectives().named, None if weights is None else tf.constant(weights, tf.float64))
    with exchanging(exchange), tf.GradientTape() as tape:
        tape.watch(images)
        output = layer(images, training=True)
        value = tf.reduce_sum(tf.sin(output[:4]))
    return [output[:4], tape.gradient(value, images)[:4], layer.moving_mean, layer.moving_variance]


@pytest.mark.parametrize("axis", [-1, 1, 3])
def test_alone_it_is_keras_own(axis: int) -> None:
    stock, own = _layers(axis)
    for one, other in zip(_run(own, _images(4)), _run(stock, _images(4)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_an_example_of_weight_zero_is_as_none() -> None:
    stock, own = _layers()
    images = tf.concat([_images(4), np.full((2, *SHAPE), 1e6)], axis=0)
    found = _run(own, images, [1, 1, 1, 1, 0, 0])
    for one, other in zip(found, _run(stock, _images(4)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_a_mask_along_another_axis_than_the_channels() -> None:
    """Channels are axis 1 of [batch, channels, features], and the mask leaves some of them fewer values."""
    values = tf.constant(np.random.default_rng(4).normal(size=(3, 4, 5)))
    mask = tf.constant([[True, True, True, False], [True, True, False, True], [True, False, True, True]])
    found = []
    for kind in (keras.layers.BatchNormalization, StepBatchNormalization):
        layer = kind(axis=1, dtype="float64", momentum=0.0)
        with exchanging(Exchange(AloneCollectives().named)):
            layer(values, training=True, mask=mask)
        found.append((layer.moving_mean.numpy(), layer.moving_variance.numpy()))
    for one, other in zip(*found, strict=True):
        # Keras adds an epsilon to the count.
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_examples_that_a_layer_before_has_cut_into_several() -> None:
    stock, own = _layers()
    images = _images(4)
    weights = tf.constant([1.0, 1.0], tf.float64)
    with exchanging(Exchange(AloneCollectives().named, weights)):
        output = own(images, training=True)
    np.testing.assert_allclose(output, stock(images, training=True), rtol=1e-10)


def test_where_moving_means_may_differ_they_are_not_relied_on() -> None:
    stock, own = _layers()
    with exchanging(Exchange(AloneCollectives().named, alike=False)):
        output = own(_images(4), training=True)
    np.testing.assert_allclose(output, stock(_images(4), training=True), rtol=1e-9)


def _nested() -> keras.Model:
    inner = keras.Input((8, 8, 1))
    value = keras.layers.Conv2D(2, 3, name="frozen", trainable=False)(inner)
    backbone = keras.Model(inner, keras.layers.BatchNormalization(name="inside")(value), name="backbone")
    image = keras.Input((8, 8, 1))
    value = keras.layers.BatchNormalization(name="outside")(backbone(image))
    return keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(value)))


def test_models_within_models_are_changed_too_and_what_is_frozen_stays() -> None:
    model = _nested()
    copy = synchronised(model)
    changed = {layer.name for layer in copy._flatten_layers() if isinstance(layer, StepBatchNormalization)}
    assert changed == {"inside", "outside"}
    assert len(copy.trainable_variables) == len(model.trainable_variables)
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-6)


def test_far_from_zero_digits_are_kept() -> None:
    """In float32, of values around 1000 with a deviation of 0.01, once the moving mean is near."""
    images = np.random.default_rng(1).normal(1000, 0.01, (64, 4, 4, 2)).astype(np.float32)
    layer = StepBatchNormalization(momentum=0.0, dtype="float32")
    with exchanging(Exchange(AloneCollectives().named)):
        for _ in range(2):
            layer(images, training=True)
    expected = images.astype(np.float64).var(axis=(0, 1, 2))
    np.testing.assert_allclose(layer.moving_variance, expected, rtol=1e-2)


def test_a_model_gets_other_layers_and_keeps_its_weights() -> None:
    image = keras.Input((8, 8, 1))
    value = keras.layers.Conv2D(2, 3, name="convolution", trainable=False)(image)
    value = keras.layers.BatchNormalization(name="norm")(value)
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(value)))
    copy = synchronised(model)
    assert type(copy.get_layer("norm")) is StepBatchNormalization
    assert not copy.get_layer("convolution").trainable
    for one, other in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    np.testing.assert_allclose(copy(images), model(images), rtol=1e-6)
    assert not list(needed_code(portable(copy, (8, 8, 1)).get_config()))


def test_a_model_without_it_is_refused() -> None:
    image = keras.Input((4,))
    with pytest.raises(BadInput, match="no batch normalisation"):
        synchronised(keras.Model(image, keras.layers.Dense(2)(image)))
