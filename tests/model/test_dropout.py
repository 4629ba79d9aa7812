"""Dropout: how much it keeps, that the mean stays, and that a key fixes it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from distrain.model.dropout import Dropout

COUNT = 400_000


def _mask(keep: float, key: tuple[int, int] = (3, 4), *, count: int = COUNT) -> np.ndarray:
    """What becomes of ones."""
    layer = Dropout(keep, seed=1)
    layer.seed_generator.state.assign(key)
    result: np.ndarray = layer(tf.ones((2, count // 2)), training=True).numpy()
    return result


@pytest.mark.parametrize("keep", [0.75, 0.9, 0.5, 1 / 256, 0.999, 0.001])
def test_it_keeps_its_share_and_the_mean(keep: float) -> None:
    """The share within 4 standard errors of a binomial; what is kept is scaled by its inverse."""
    mask = _mask(keep)
    kept = np.count_nonzero(mask) / COUNT
    error = (keep * (1 - keep) / COUNT) ** 0.5
    # keep is exact to 2**-16 at worst, which the scale matches.
    assert abs(kept - keep) < 4 * error + 2**-17
    assert abs(mask.mean() - 1) < 4 * error / keep
    assert len(np.unique(mask)) == 2


@pytest.mark.parametrize("keep", [1e-9, 1 - 1e-9])
def test_at_the_ends_it_keeps_the_least_and_all(keep: float) -> None:
    """Of 2**16 values one is kept at least, none left out at most; the scale is that of what is really kept."""
    mask = _mask(keep)
    values = np.unique(mask)
    if keep < 0.5:
        assert values.tolist() == [0, 2**16]
        assert abs(np.count_nonzero(mask) - COUNT / 2**16) < 4 * (COUNT / 2**16) ** 0.5
    else:
        assert values.tolist() == [1]


def test_neither_neighbours_nor_rows_agree_more_than_chance() -> None:
    mask = _mask(0.75) > 0
    expected, error = 0.75**2, (0.5625 * 0.4375 / (COUNT / 2)) ** 0.5
    for one, other in ((mask[:, 1:], mask[:, :-1]), (mask[0], mask[1]), (mask[:, 4:], mask[:, :-4])):
        # Overlapping pairs are not independent: twice the standard error of independent ones is on the safe side.
        assert abs(np.mean(one & other) - expected) < 8 * error


@pytest.mark.parametrize("keep", [0.75, 0.9])
def test_a_key_fixes_the_mask(keep: float) -> None:
    masks = [_mask(keep, key, count=1000) for key in ((3, 4), (3, 4), (3, 5), (4, 4), (2**32 - 1, 2**32 - 1))]
    assert np.array_equal(masks[0], masks[1])
    assert len({mask.tobytes() for mask in masks}) == 4


def test_each_draw_is_another() -> None:
    layer = Dropout(0.5, seed=1)
    first, second = (layer(tf.ones((1, 1000)), training=True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_any_number_of_activations(count: int) -> None:
    layer = Dropout(0.75, seed=1)
    assert layer(tf.ones((count, 1, 1, 3)), training=True).shape == (count, 1, 1, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_is_the_mask(dtype: str) -> None:
    values = tf.constant(np.linspace(-1, 1, 1000), dtype)
    layer = Dropout(0.75, seed=1, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = layer(values, training=True)
        total = tf.reduce_sum(result * values)
    mask = np.where(result.numpy() != 0, 256 / 192, 0).astype(dtype)
    # d(sum(m v v)) = 2 m v, of which the layer's own part is m v.
    np.testing.assert_allclose(tape.gradient(total, values), 2 * mask * values.numpy(), rtol=1e-6)
    assert result.dtype == dtype


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_the_gradient_reads_the_mask_alone(value: float) -> None:
    values = tf.fill([100], value)
    layer = Dropout(0.5, seed=1)
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = layer(values, training=True)
    assert set(tape.gradient(result, values).numpy()) == {0, 2}


@pytest.mark.parametrize(("keep", "training"), [(0.5, False), (1.0, True)])
def test_off_it_changes_nothing(keep: float, training: bool) -> None:
    values = tf.constant([[1.5, -2.0, np.inf]])
    assert Dropout(keep, seed=1)(values, training=training).numpy().tolist() == values.numpy().tolist()


def test_it_can_be_saved_with_a_model() -> None:
    layer = Dropout.from_config(Dropout(0.75, seed=5, name="here").get_config())
    assert (layer.keep, layer.seed, layer.name) == (0.75, 5, "here")
    assert keras.saving.get_registered_object("distrain>Dropout") is Dropout
