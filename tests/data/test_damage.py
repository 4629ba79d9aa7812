"""Damage of every kind, in every format: one clean error or a sound example, never a crash, a hang or a wrong shape.

The cases are the same in every run. A case that ends the interpreter ends this test's process, and one that hangs runs
into its timeout.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distrain.data.formats import example_message, tfrecord
from distrain.data.provider import Example
from distrain.data.select import select
from distrain.data.source import Source
from distrain.errors import BadInput
from tests.data.datasets import CLASSES, FORMATS, options_of, pixels

COUNT, SIZE = 5, 12
CASES = 220  # of each of the ten formats
# Formats whose checksums leave no damage unseen: what is read at all is what was written.
CHECKED = ("image_pairs", "npz", "tfrecords", "tfrecords_gzip")
SLOWEST = 10.0  # seconds of a case


def flip(data: bytearray, chance: random.Random) -> None:
    """Some bits, anywhere or in the part that is header in most formats."""
    end = len(data) if chance.random() < 0.5 else min(len(data), 600)
    for _ in range(chance.choice((1, 1, 2, 8))):
        data[chance.randrange(end)] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def forge(data: bytearray, chance: random.Random) -> None:
    """A number somewhere becomes an extreme one."""
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(max(1, min(len(data), chance.choice((64, 600, len(data)))) - size))
    value = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 1 << 31, (1 << 31) - 1, (1 << 63) - 1, (1 << 64) - 1))
    order: list[str] = ["little", "big"]
    data[at : at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, chance.choice(order))  # type: ignore[arg-type]


def move(data: bytearray, chance: random.Random) -> None:
    """A piece is missing, or there twice, or is another's."""
    at, length = chance.randrange(len(data)), chance.randrange(1, 64)
    piece = bytes(data[at : at + length])
    to = chance.randrange(len(data))
    if chance.random() < 0.4:
        del data[at : at + length]
    elif chance.random() < 0.5:
        data[to:to] = piece
    else:
        data[to : to + len(piece)] = piece


HARMS: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, flip, cut, forge, forge, move)


def one_line(error: BadInput) -> None:
    assert len(str(error).splitlines()) == 1


def read_all(source: Source, sound: list[Example] | None) -> int:
    """Read everything and insist on its form, and on its `sound` values; returns how many could not be read."""
    bad = 0
    for index, example in enumerate(source.read_batch(range(len(source)), 0)):
        if isinstance(example, BadInput):
            one_line(example)
            bad += 1
            continue
        if sound is not None:
            np.testing.assert_array_equal(example.image, sound[index].image)
            np.testing.assert_array_equal(example.label, sound[index].label)
        assert example.image.shape == source.spec.image_shape, index
        assert example.image.dtype == np.float32
        assert np.isfinite(example.image).all()
        assert example.label.shape == source.spec.label_shape
        assert example.label.dtype == np.int32
        assert example.label.min() >= 0
        assert example.label.max() < source.spec.classes
    return bad


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_or_read_as_what_they_still_are(name: str, tmp_path: Path) -> None:
    """One file of a sound data set is damaged, and the whole is opened and read as by a run."""
    sound = tmp_path / "sound"
    sound.mkdir()
    options = options_of(FORMATS[name](sound, *pixels(COUNT, SIZE)))
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    if name in ("tfrecords", "tfrecords_gzip"):
        files = [path for path in files if path.suffix != ".npy"]  # what the shards were packed from
    whole = select(options, key="data.train", seed=7, training=True)
    expected = [whole.read(index, 0) for index in range(COUNT)] if name in CHECKED else None
    kept = tmp_path / "kept"
    shutil.copytree(sound, kept)
    chance = random.Random(name)
    refused, skipped, unharmed = 0, 0, 0
    for case in range(CASES):
        path = files[case % len(files)]
        data = bytearray(path.read_bytes())
        chance.choice(HARMS)(data, chance)
        path.write_bytes(data)
        began = time.monotonic()
        try:
            bad = read_all(select(options, key="data.train", seed=7, training=True), expected)
        except BadInput as error:
            one_line(error)
            refused += 1
        else:
            skipped, unharmed = skipped + (bad > 0), unharmed + (bad == 0)
        assert time.monotonic() - began < SLOWEST
        shutil.copyfile(kept / path.relative_to(sound), path)
    # Formats without checksums let changed pixels pass, which stay pixels.
    assert refused + skipped > CASES / 4, (refused, skipped, unharmed)


def test_forged_messages_behind_sound_checksums() -> None:
    """What a checksum vouches for may still be wrong: 400 messages changed before they are framed."""
    message = example_message.serialised(
        {
            "image": bytes(144),
            "image/shape": [12, 12, 1],
            "image/dtype": b"uint8",
            "label": [1] * 144,
            "deep": list(range(300)),
        }
    )
    chance = random.Random(3)
    refused = 0
    for _ in range(400):
        data = bytearray(message)
        chance.choice(HARMS)(data, chance)
        try:
            features = example_message.parsed(bytes(data), "here")
            for key in features:
                example_message.feature(features, key, "here")
        except BadInput as error:
            one_line(error)
            refused += 1
    assert refused > 40


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ({"image": bytes(144), "image/shape": [12, 12, -1]}, "144 bytes, expected"),
        ({"image": bytes(144), "image/shape": [1 << 40, 1 << 40]}, "expected"),
        ({"image": bytes(144), "image/shape": [12, 13]}, "144 bytes, expected 156"),
        ({"image": bytes(144), "image/shape": [12, 12, 1], "image/dtype": b"object"}, "dtype 'object'"),
        ({"image": bytes(144), "image/shape": [12, 2, 6]}, "expected height x width, or 1 to 4 channels"),
        ({"image": bytes(100), "image/shape": [10, 10, 1], "label": [1] * 100}, "image of .10, 10, 1., expected"),
        ({"image": bytes(144), "image/shape": [12, 12, 1], "label": [1] * 143}, "label of shape .143."),
        ({"image": bytes(144), "image/shape": [12, 12, 1], "label": [CLASSES] * 144}, "label value 3"),
        ({"image": bytes(144), "image/shape": [12, 12, 1], "label": [-1] * 144}, "label value -1"),
        ({"image": np.full(144, np.nan, "f4").tobytes(), "image/shape": [12, 12], "image/dtype": b"float32"}, "NaN"),
        ({"label": [1]}, "has no feature 'image'"),
        ({"image": [1, 2, 3]}, "expected height x width"),
    ],
)
def test_records_that_make_no_sense_are_refused(
    features: dict[str, bytes | list[int]], words: str, tmp_path: Path
) -> None:
    sound: dict[str, bytes | list[int]] = {"image": bytes(144), "image/shape": [12, 12, 1], "label": [0] * 144}
    records = [sound, {"label": [0] * 144, **features} if "image" in features else features]
    path = tmp_path / "shard"
    path.write_bytes(b"".join(tfrecord.framed(example_message.serialised(record)) for record in records))
    tfrecord.build_index(str(path))
    options = options_of({"provider": "tfrecords", "files": str(path), "classes": CLASSES})
    source = select(options, key="data.train", seed=7, training=True)
    assert not isinstance(next(source.read_batch([0], 0)), BadInput)
    with pytest.raises(BadInput, match=words) as caught:
        source.read(1, 0)
    assert f"{path} (record 1)" in str(caught.value)


def test_an_index_of_another_shard_never_gives_another_record(tmp_path: Path) -> None:
    """All records of one length: an offset that is wrong by a whole record still begins one."""
    options = FORMATS["tfrecords"](tmp_path, *pixels(9, SIZE))
    (path, *_) = sorted((tmp_path / "packed").glob("*.index"))
    offsets = np.frombuffer(path.read_bytes()[256:], "<u8").copy()
    offsets[1] = offsets[2]
    path.write_bytes(path.read_bytes()[:256] + offsets.tobytes())
    source = select(options_of(options), key="data.train", seed=7, training=True)
    seen = list(source.read_batch([0, 1, 2], 0))
    assert isinstance(seen[0], BadInput)
    assert isinstance(seen[1], BadInput)
    assert not isinstance(seen[2], BadInput)
    shutil.copyfile(sorted((tmp_path / "packed").glob("*.index"))[1], path)
    again = select(options_of(options), key="data.train", seed=7, training=True)
    assert again.spec == source.spec
