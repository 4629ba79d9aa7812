"""Augmentation: image and label move together, and nothing but (seed, epoch, index) decides how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distrain.data.augment import Augmenter, require_fit
from distrain.data.provider import Example, ExampleSpec
from distrain.data.select import select
from distrain.errors import BadInput
from distrain.job.schema import Augment
from tests.support import make_job

MOVES: dict[str, Any] = {"flip_left_right": True, "flip_up_down": True, "quarter_turns": True}


def example(size: int = 24, channels: int = 1) -> Example:
    """Each pixel's label is its image's value."""
    label = np.random.default_rng(2).integers(0, 50, (size, size)).astype(np.int32)
    return Example(np.repeat(label[:, :, None], channels, axis=2).astype(np.float32), label)


def changed(index: int = 0, epoch: int = 0, seed: int = 7, source: Example | None = None, **options: Any) -> Example:
    return Augmenter(Augment(**options), seed)(example() if source is None else source, index, epoch)


def test_flips_and_turns_give_all_eight_views_alike_for_image_and_label() -> None:
    whole = example()
    views = {np.rot90(side, turn).tobytes() for side in (whole.label, whole.label[:, ::-1]) for turn in range(4)}
    seen = []
    for index in range(400):
        image, label = changed(index, **MOVES)
        assert np.array_equal(image[:, :, 0], label)
        seen.append(label.tobytes())
    assert set(seen) == views
    assert all(20 < seen.count(view) < 90 for view in views)  # 50 expected; 4 standard deviations are 27


@pytest.mark.parametrize(
    ("options", "views"),
    [({"flip_left_right": True}, 2), ({"flip_up_down": True}, 2), ({"quarter_turns": True}, 4), ({}, 1)],
)
def test_only_what_is_asked_for_is_done(options: dict[str, Any], views: int) -> None:
    seen = {changed(index, **options).label.tobytes() for index in range(60)}
    assert len(seen) == views
    assert example().label.tobytes() in seen


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_elastic_deformation_moves_pixels_by_about_what_is_asked(channels: int) -> None:
    """On a ramp the value of a pixel is where it came from."""
    size = 96
    ramp = np.arange(size, dtype=np.float32)
    image = np.repeat(np.broadcast_to(ramp, (size, size))[:, :, None], channels, axis=2).copy()
    label = np.broadcast_to(np.arange(size, dtype=np.int32), (size, size)).copy()
    moves = []
    for index in range(30):
        warped, moved = changed(index, source=Example(image, label), elastic=3.0, elastic_spacing=24)
        assert warped.shape == image.shape
        inner = np.s_[20:-20, 20:-20]
        shift = warped[inner][:, :, 0] - image[inner][:, :, 0]
        assert np.abs(moved[inner] - warped[inner][:, :, 0]).max() <= 0.52  # the nearest pixel's label
        assert np.abs(np.diff(shift, axis=1)).max() < 1.5  # smooth
        moves.append(shift)
    assert 1.5 < np.std(moves) < 3.5  # in between the knots, where the deviation is 3, it is smaller
    assert abs(np.mean(moves)) < 0.6


def test_brightness_and_contrast_change_the_image_alone_and_within_their_bounds() -> None:
    whole = example()
    offsets, factors = [], []
    for index in range(200):
        image, label = changed(index, brightness=0.3)
        offset = image - whole.image
        assert np.ptp(offset) < 1e-4
        offsets.append(float(offset.mean()))
        assert np.array_equal(label, whole.label)
        image, _ = changed(index, contrast=0.4)
        assert abs(image.mean() - whole.image.mean()) < 1e-3
        factors.append(float(image.std() / whole.image.std()))
    assert -0.3001 <= min(offsets) < -0.25
    assert 0.25 < max(offsets) <= 0.3001
    assert 0.5999 <= min(factors) < 0.65
    assert 1.35 < max(factors) <= 1.4001


def test_seed_epoch_and_index_decide_and_nothing_else() -> None:
    options = {**MOVES, "elastic": 2, "brightness": 0.1, "contrast": 0.1}
    first = changed(3, 5, **options)
    again = changed(3, 5, **options)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    for other in (changed(4, 5, **options), changed(3, 6, **options), changed(3, 5, seed=8, **options)):
        assert other.image.tobytes() != first.image.tobytes()


def test_what_is_read_stays_as_it_is() -> None:
    whole = example()
    before = whole.image.tobytes(), whole.label.tobytes()
    whole.image.setflags(write=False)
    whole.label.setflags(write=False)
    changed(1, source=whole, **MOVES, elastic=2, brightness=0.1)
    assert before == (whole.image.tobytes(), whole.label.tobytes())


def test_the_class_of_a_whole_image_stays() -> None:
    whole = Example(example().image, np.asarray(2, np.int32))
    image, label = changed(1, source=whole, **MOVES, elastic=2)
    assert (int(label), label.shape, image.shape) == (2, (), whole.image.shape)


def test_only_training_examples_are_changed() -> None:
    job = make_job(
        data={"train": {"provider": "circles", "size": 48}, "augment": {"quarter_turns": True, "elastic": 2}}
    )
    training, validation = (
        select(job.data.train, key="data.train", seed=7, training=flag, data=job.data) for flag in (True, False)
    )
    assert training.read(0, 0).image.tobytes() != training.read(0, 1).image.tobytes()
    assert validation.read(0, 0).image.tobytes() == validation.read(0, 1).image.tobytes()


def test_turns_of_images_that_are_not_square_are_refused() -> None:
    spec = ExampleSpec((4, 6, 1), (4, 6), 2)
    with pytest.raises(BadInput, match=r"quarter_turns.*4 x 6"):
        require_fit(Augment(quarter_turns=True), spec)
    require_fit(Augment(flip_left_right=True), spec)
