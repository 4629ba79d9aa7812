"""Images of any size through windows: the same as in one piece, and as the model itself says."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from distrain.errors import BadInput
from distrain.job.schema import UNet
from distrain.model.tiling import unet_tiling
from distrain.model.unet import build_unet
from distrain.use.predictor import Predictor

ANY = (None, None, 1)


def _unet(**options: object) -> tuple[keras.Model, UNet]:
    keras.backend.clear_session()
    unet = UNet.model_validate({"layers": 3, "features": 2, **options})
    return build_unet(unet, channels=1, classes=3, seed=1), unet


def _image(height: int, width: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(height).random((height, width, 1), np.float32)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("size", [(150, 97), (60, 130), (3, 5), (1, 1), (64, 64)])
def test_windows_give_the_bits_of_the_whole(size: tuple[int, int], padding: str) -> None:
    model, unet = _unet(padding=padding)
    image = _image(*size)
    whole = Predictor(model, ANY, unet_tiling(unet), window=4096).pixels(image, probabilities=True)
    parts = Predictor(model, ANY, unet_tiling(unet), window=80).pixels(image, probabilities=True)
    assert whole[0].shape == size
    assert whole[1] is not None
    assert whole[1].shape == (*size, 3)
    for one, other in zip(whole, parts, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one, other)


def test_the_whole_is_what_the_model_makes_of_the_mirrored_image() -> None:
    model, unet = _unet()
    image = _image(100, 99)
    # 20 pixels are lost at each side; 139 x 140 is no size that fits, 140 x 140 is.
    mirrored = np.pad(image, [(20, 20), (20, 21), (0, 0)], mode="reflect")
    logits = model(mirrored[None], training=False)[0, :, :99]
    classes, probabilities = Predictor(model, ANY, unet_tiling(unet), window=64).pixels(image, probabilities=True)
    np.testing.assert_array_equal(classes, np.argmax(logits, axis=-1))
    np.testing.assert_array_equal(probabilities, tf.nn.softmax(logits))


def test_probabilities_only_where_asked_for() -> None:
    model, unet = _unet()
    assert Predictor(model, ANY, unet_tiling(unet), window=64).pixels(_image(70, 70), probabilities=False)[1] is None


def test_a_model_of_ones_own_sees_the_image_as_it_is() -> None:
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    classes, probabilities = Predictor(model, ANY, None, window=8).pixels(_image(20, 30), probabilities=True)
    assert classes.shape == (18, 28)
    assert probabilities is not None
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1, rtol=1e-6)


def test_images_of_one_class_each() -> None:
    inputs = keras.Input((6, 6, 1))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))
    predictor = Predictor(model, (6, 6, 1), None, window=8)
    images = [_image(6, 6), _image(6, 6) + 1]
    classes, probabilities = predictor.whole(images)
    assert (classes.shape, probabilities.shape) == ((2,), (2, 4))
    np.testing.assert_array_equal(classes, probabilities.argmax(axis=-1))
    predictor.check("fits", images[0])
    with pytest.raises(BadInput, match=r"big.png: is 7 x 6 \(height x width\), expected 6 x 6"):
        predictor.check("big.png", _image(7, 6))
