"""The U-Net of the origin: its size, the sizes of its output, and that two builds are one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from distrain.job.schema import UNet
from distrain.model.unet import CropAndConcatenate, build_unet, centre

SMALL: dict[str, Any] = {"layers": 2, "features": 2}


def _unet(*, channels: int = 1, classes: int = 2, seed: int = 7, **options: Any) -> keras.Model:
    keras.backend.clear_session()
    return build_unet(UNet.model_validate(options), channels=channels, classes=classes, seed=seed)


def _output(model: keras.Model, height: int, width: int) -> tuple[int, ...]:
    return tuple(model.compute_output_shape((1, height, width, 1)))


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"layers": 3, "features": 16}, 116_770),
        ({"layers": 3, "features": 16, "padding": "same"}, 116_770),
        # 1 -> 2 -> 2 features of 3 x 3, then 1 x 1 to 2 classes, each with its biases.
        ({"layers": 1, "features": 2}, (9 * 2 + 2) + (18 * 2 + 2) + (2 * 2 + 2)),
        ({"layers": 1, "features": 2, "kernel": 5}, (25 * 2 + 2) + (50 * 2 + 2) + (2 * 2 + 2)),
    ],
)
def test_parameters(options: dict[str, Any], parameters: int) -> None:
    assert _unet(**options).count_params() == parameters


@pytest.mark.parametrize(("size", "expected"), [(172, 132), (512, 472), (252, 212), (44, 4)])
def test_valid_convolutions_take_away_40_pixels_with_3_layers(size: int, expected: int) -> None:
    assert _output(_unet(layers=3, features=1), size, size) == (1, expected, expected, 2)


@pytest.mark.parametrize(
    ("options", "height", "width", "expected"),
    [
        ({"layers": 2}, 20, 27, (4, 10)),
        ({"layers": 2, "kernel": 1}, 7, 8, (6, 8)),
        ({"layers": 2, "pool": 3}, 31, 22, (11, 2)),
        ({"layers": 3, "padding": "same"}, 40, 44, (40, 44)),
        ({"layers": 3, "padding": "same"}, 41, 43, (40, 40)),
        ({"layers": 1}, 9, 10, (5, 6)),
    ],
)
def test_what_is_computed_has_the_size_that_was_told(
    options: dict[str, Any], height: int, width: int, expected: tuple[int, int]
) -> None:
    """Odd sizes lose their last row or column to the pooling."""
    model = _unet(features=1, **options)
    assert _output(model, height, width)[1:3] == expected
    assert model(tf.zeros((2, height, width, 1))).shape == (2, *expected, 2)


def test_one_model_takes_images_of_any_size() -> None:
    model = _unet(**SMALL)
    assert model(tf.zeros((1, 20, 20, 1))).shape == (1, 4, 4, 2)
    assert model(tf.zeros((3, 24, 28, 1))).shape == (3, 8, 12, 2)


@pytest.mark.parametrize("keep", [0.75, 1.0])
def test_two_builds_with_a_seed_are_equal_and_other_seeds_and_layers_differ(keep: float) -> None:
    """Dropout takes seeds too, so that layers without it must be told apart as well."""
    options = {**SMALL, "keep_probability": keep}
    one, two, other = _unet(**options), _unet(**options), _unet(**options, seed=8)
    kernels = []
    for weight, same, different in zip(one.weights, two.weights, other.weights, strict=True):
        assert weight.numpy().tobytes() == same.numpy().tobytes()
        if weight.path.endswith("kernel"):
            assert weight.numpy().tobytes() != different.numpy().tobytes()
            kernels.append(weight.numpy())
    same_shape = [kernel for kernel in kernels if kernel.shape == (3, 3, 2, 2)]
    assert len(same_shape) == 2
    assert not np.array_equal(*same_shape)


def test_variables_have_stable_names() -> None:
    """They are in every checkpoint and in the columns of `gradients/`: changing them breaks both."""
    first = [f"{place}_conv_{number}" for place in ("down_0", "down_1") for number in (1, 2)]
    layers = [*first, "up_0_transposed", "up_0_conv_1", "up_0_conv_2", "logits"]
    expected = [f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")]
    for keep in (0.75, 1.0):
        assert [weight.path for weight in _unet(**SMALL, keep_probability=keep).weights] == expected


def test_dropout_is_there_where_it_keeps_less_than_all() -> None:
    image = tf.random.stateless_normal((1, 20, 20, 1), seed=[1, 2])
    for keep, changes in ((0.5, True), (1.0, False)):
        model = _unet(**SMALL, keep_probability=keep)
        assert bool(tf.reduce_any(model(image, training=True) != model(image, training=False))) is changes


def test_each_output_pixel_sees_its_own_place_only() -> None:
    """A pixel of the image reaches outputs within 9 of it with 2 layers, and its own place surely."""
    model = _unet(layers=2, features=8, keep_probability=1.0)
    flat = tf.random.stateless_uniform((1, 60, 60, 1), seed=[1, 2])
    touched = tf.tensor_scatter_nd_add(flat, [[0, 30, 30, 0]], [10.0])
    changed = np.argwhere((model(flat) != model(touched)).numpy().any(axis=-1)[0]) + 8  # cropped by 8 on each side
    assert [30, 30] in changed.tolist()
    assert np.abs(changed - 30).max() <= 10


@pytest.mark.parametrize(("have", "want", "first"), [(5, 3, 1), (6, 3, 1), (7, 4, 1), (4, 4, 0), (8, 3, 2)])
def test_the_centre_begins_at_half_the_rest(have: int, want: int, first: int) -> None:
    tensor = tf.reshape(tf.range(have * have), (1, have, have))
    cropped = centre(tensor, tf.zeros((1, want, want, 2))).numpy()[0]
    assert cropped.shape == (want, want)
    assert cropped[0, 0] == first * have + first


def test_the_centre_of_images_of_any_size_has_as_many_channels() -> None:
    """Without, Keras makes of the next convolution one that has to be compiled by XLA, in exported models too."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None, None, 2])])
    def cut(tensor: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        result = centre(tensor, target)
        assert result.shape[3] == 3
        return result

    assert cut(tf.zeros((1, 8, 8, 3)), tf.zeros((1, 4, 4, 2))).shape == (1, 4, 4, 3)


def test_joining_crops_the_first_and_keeps_the_second() -> None:
    skipped, upsampled = tf.reshape(tf.range(25.0), (1, 5, 5, 1)), tf.ones((1, 3, 3, 2))
    layer = CropAndConcatenate()
    joined = layer([skipped, upsampled]).numpy()
    assert joined[0, :, :, 0].tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
    assert (joined[..., 1:] == 1).all()
    assert layer.compute_output_shape([(1, 5, 5, 1), (1, 3, 3, 2)]) == joined.shape
