"""Windows of a U-Net: together they give, bit for bit, what the whole image gives."""

from __future__ import annotations

from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distrain.job.schema import UNet
from distrain.model.tiling import Tiling, unet_tiling
from distrain.model.unet import build_unet

UNETS = st.builds(
    lambda layers, kernel, pool, padding: UNet(layers=layers, kernel=kernel, pool=pool, padding=padding),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(2, 3),
    st.sampled_from(["valid", "same"]),
)


@given(UNETS, st.integers(1, 300), st.integers(1, 400))
def test_windows_lie_on_whole_strides_and_leave_no_gap(options: UNet, size: int, most: int) -> None:
    tiling = unet_tiling(options)
    windows = tiling.windows(size, most)
    assert windows[0].first == 0
    assert windows[-1].last >= size
    assert windows[-1].start + windows[-1].size == tiling.fitting(size)
    for window in windows:
        assert window.start % tiling.stride == 0
        assert window.size % tiling.stride == tiling.remainder
        assert window.size == windows[0].size
        assert window.start <= window.first < window.last <= window.start + window.size - tiling.lost
    for before, after in pairwise(windows):
        assert before.start < after.start
        assert after.first <= before.last
    if tiling.window_size(most) is not None and len(windows) > 1:
        assert windows[0].size <= most


@given(UNETS, st.integers(1, 300))
def test_a_size_that_fits_gives_what_the_model_would_give_it(options: UNet, size: int) -> None:
    tiling = unet_tiling(options)
    fitting = tiling.fitting(size)
    assert size <= fitting - tiling.lost < size + tiling.stride
    assert _given_by(options, fitting) == fitting - tiling.lost


def _given_by(options: UNet, size: int) -> int:
    """The size of the output, layer by layer."""
    lost = 2 * (options.kernel - 1) if options.padding == "valid" else 0
    for _ in range(options.layers - 1):
        assert (size - lost) % options.pool == 0, "a block would be cut"
        size = (size - lost) // options.pool
    size -= lost
    for _ in range(options.layers - 1):
        size = size * options.pool - lost
    return size


def test_a_window_too_small_for_a_stride_is_told() -> None:
    tiling = Tiling(stride=4, remainder=0, lost=40, margin=0)
    assert tiling.window_size(43) is None
    assert tiling.window_size(47) == 44


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"layers": 3}, 60),
        ({"layers": 3, "padding": "same"}, 72),
        ({"layers": 4, "kernel": 2}, 70),
        ({"layers": 2, "pool": 3, "kernel": 5, "padding": "same"}, 81),
        ({"layers": 1}, 20),
    ],
)
def test_windows_give_the_same_bits_as_the_whole(options: dict[str, object], most: int) -> None:
    keras.backend.clear_session()
    unet = UNet.model_validate({"features": 3, **options})
    tiling = unet_tiling(unet)
    model = build_unet(unet, channels=1, classes=2, seed=1)
    size = tiling.fitting(100)
    image = np.random.default_rng(2).random((1, size, size, 1), np.float32)
    whole = np.asarray(model(image, training=False))[0]
    windows = tiling.windows(100, most)
    assert len(windows) > 1
    for row in windows:
        for column in windows:
            seen = image[:, row.start : row.start + row.size, column.start : column.start + column.size]
            made = np.asarray(model(seen, training=False))[0]
            kept = made[row.first - row.start : row.last - row.start, column.first - column.start :]
            np.testing.assert_array_equal(
                kept[:, : column.last - column.first], whole[row.first : row.last, column.first : column.last]
            )
