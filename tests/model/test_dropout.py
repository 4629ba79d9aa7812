"""ReLU with dropout: how much it keeps, that the mean stays, that a key fixes it, and the same by either way."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from distrain.kernels import compiled
from distrain.model.dropout import ReLUDropout

COUNT = 400_000


pytestmark = pytest.mark.usefixtures("way")


def _mask(keep: float, key: tuple[int, int] = (3, 4), *, count: int = COUNT) -> np.ndarray:
    """What becomes of ones."""
    layer = ReLUDropout(keep, seed=1)
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
    layer = ReLUDropout(0.5, seed=1)
    first, second = (layer(tf.ones((1, 1000)), training=True).numpy() for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_any_number_of_activations(count: int) -> None:
    layer = ReLUDropout(0.75, seed=1)
    assert layer(tf.ones((count, 1, 1, 3)), training=True).shape == (count, 1, 1, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_is_that_of_what_is_kept(dtype: str) -> None:
    values = tf.constant(np.linspace(-1, 1, 1000), dtype)
    layer = ReLUDropout(0.75, seed=1, dtype=dtype)
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = layer(values, training=True)
        total = tf.reduce_sum(result * values)
    factor = np.where(result.numpy() > 0, 256 / 192, 0).astype(dtype)
    np.testing.assert_allclose(result, factor * values.numpy(), rtol=1e-6)
    # d(sum(m v v)) = 2 m v, of which the layer's own part is m v.
    np.testing.assert_allclose(tape.gradient(total, values), 2 * factor * values.numpy(), rtol=1e-6)
    assert result.dtype == dtype
    assert not result.numpy()[:500].any()
    assert 330 < np.count_nonzero(result) < 420


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("keep", [0.75, 0.9])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 100_003])
def test_both_ways_give_the_same_bits(count: int, keep: float, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run goes on by the one what it began by the other; 100 003 are shared out to threads, unevenly."""
    values = tf.constant(np.random.default_rng(3).standard_normal(count), dtype)

    def passed() -> list[bytes]:
        layer = ReLUDropout(keep, seed=1, dtype=dtype)
        # The second word is not far from where it carries.
        layer.seed_generator.state.assign([5, 2**32 - 1])
        with tf.GradientTape() as tape:
            tape.watch(values)
            result = layer(values, training=True)
        return [result.numpy().tobytes(), tape.gradient(result, values, result * 3).numpy().tobytes()]

    one = passed()
    monkeypatch.setattr(compiled, "serve", lambda value: False)
    assert passed() == one


@pytest.mark.parametrize("traced", [False, True])
def test_what_it_is_given_stays_as_it_was(traced: bool) -> None:
    """It may write over what nobody else reads, and nothing else."""
    layer = ReLUDropout(0.5, seed=1)
    given = tf.constant(np.linspace(-1, 1, 1000), tf.float32)

    def both(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        doubled = values * 2
        return layer(doubled, training=True), doubled

    _, doubled = (tf.function(both) if traced else both)(given)
    np.testing.assert_array_equal(doubled, 2 * np.linspace(-1, 1, 1000).astype(np.float32))
    np.testing.assert_array_equal(given, np.linspace(-1, 1, 1000).astype(np.float32))


def test_what_is_no_number_stays_none() -> None:
    """So that a run notices."""
    layer = ReLUDropout(0.5, seed=1)
    assert np.isnan(layer(tf.fill([1000], np.nan), training=True)).any()


@pytest.mark.parametrize(("keep", "training"), [(0.5, False), (1.0, True)])
def test_off_it_is_relu(keep: float, training: bool) -> None:
    values = tf.constant([[1.5, -2.0, np.inf]])
    assert ReLUDropout(keep, seed=1)(values, training=training).numpy().tolist() == [[1.5, 0, np.inf]]


def test_it_can_be_saved_with_a_model() -> None:
    layer = ReLUDropout.from_config(ReLUDropout(0.75, seed=5, name="here").get_config())
    assert (layer.keep, layer.seed, layer.name) == (0.75, 5, "here")
    assert keras.saving.get_registered_object("distrain>ReLUDropout") is ReLUDropout
