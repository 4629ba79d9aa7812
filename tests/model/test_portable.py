"""A model for others: Keras's own layers alone, and the same numbers."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from distrain.data.provider import ExampleSpec
from distrain.model.build import build_model
from distrain.model.dropout import ReLUDropout
from distrain.model.portable import has_own_layers, needed_code, portable
from tests.support import make_job


def _unet(size: int, **options: object) -> keras.Model:
    keras.backend.clear_session()
    job = make_job(model={"name": "unet", "layers": 3, "features": 2, **options})
    return build_model(job, ExampleSpec((size, size, 1), (size, size), 2))


def _layers(model: keras.Model) -> set[str]:
    return {type(layer).__module__.split(".")[0] for layer in model.layers}


# 61 is a size that the coarser resolutions cut unevenly.
@pytest.mark.parametrize(("size", "padding"), [(60, "valid"), (61, "valid"), (62, "valid"), (64, "same")])
def test_a_unet_of_kerass_layers_gives_the_same_bits(size: int, padding: str) -> None:
    model = _unet(size, padding=padding)
    assert "distrain" in _layers(model)
    copy = portable(model, (size, size, 1))
    assert _layers(copy) == {"keras"}
    assert has_own_layers(model)
    assert not has_own_layers(copy)
    assert list(needed_code(keras.saving.serialize_keras_object(copy))) == []
    for larger in (0, 8):
        image = np.random.default_rng(1).random((2, size + larger, size + larger, 1), np.float32)
        np.testing.assert_array_equal(model(image, training=False), copy(image, training=False))


def test_dropout_stays_for_those_who_train_on() -> None:
    copy = portable(_unet(60, keep_probability=0.75), (60, 60, 1))
    rates = {layer.rate for layer in copy.layers if isinstance(layer, keras.layers.Dropout)}
    assert rates == {0.25}


def test_what_needs_code_is_found() -> None:
    inputs = keras.Input((4,))
    own = keras.Model(inputs, ReLUDropout(0.5, seed=1)(inputs))
    assert set(needed_code(keras.saving.serialize_keras_object(own))) == {"distrain>ReLUDropout"}
    inside = keras.Sequential([keras.Input((4,)), own])
    assert "distrain>ReLUDropout" in set(needed_code(keras.saving.serialize_keras_object(inside)))
    function = keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs))
    assert set(needed_code(keras.saving.serialize_keras_object(function))) == {"a lambda"}
