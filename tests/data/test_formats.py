"""Every format: the same examples, each exactly once an epoch on any number of workers, and nothing unnoticed."""

from __future__ import annotations

import gzip
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from distrain.data.batches import Batches, LocalBatch, Plan
from distrain.data.formats import tfrecord
from distrain.data.pack import Packing, pack
from distrain.data.select import select
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.world.topology import World
from tests.data.datasets import CLASSES, FORMATS, Options, options_of, pixels, provider_of
from tests.support import make_job

COUNT, SIZE = 23, 8


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Options]:
    """The data set in every format."""
    images, labels = pixels(COUNT, SIZE)
    return {name: make(tmp_path_factory.mktemp(name), images, labels) for name, make in FORMATS.items()}


def source_of(options: Options) -> Source:
    return select(options_of(options), key="data.train", seed=7, training=True)


def epoch_of(source: Source, plan: Plan, size: int, position: int, stop: int) -> list[LocalBatch]:
    """All ranks' batches from a position on, up to another, rank by rank within each batch."""
    ranks = [Batches(source, plan, World(rank, size, rank, size), position) for rank in range(size)]
    try:
        found: list[LocalBatch] = []
        while not found or found[-1].batch.stop < stop:
            found += [rank.next() for rank in ranks]
        return found
    finally:
        for rank in ranks:
            rank.close()


@pytest.mark.parametrize("name", FORMATS)
def test_examples_are_what_was_written(name: str, made: dict[str, Options]) -> None:
    images, labels = pixels(COUNT, SIZE)
    provider = provider_of(made[name])
    assert len(provider) == COUNT
    assert provider.spec.image_shape == (SIZE, SIZE, 1)
    assert provider.spec.classes == CLASSES
    # Folders of classes hold the images in the order of the classes.
    order = sorted(range(COUNT), key=lambda n: (labels[n, 0, 0], n)) if name == "class_folders" else range(COUNT)
    for index, number in enumerate(order):
        example = provider.read(index)
        assert (example.image.dtype.name, example.label.dtype.name) == ("float32", "int32")
        np.testing.assert_array_equal(example.image[:, :, 0], images[number] / np.float32(255))
        expected = labels[number, 0, 0] if name == "class_folders" else labels[number]
        np.testing.assert_array_equal(example.label, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_each_example_once_an_epoch_whoever_reads_it(name: str, made: dict[str, Options]) -> None:
    """Also where the number of workers changes in the middle of an epoch, and the order is the same for all."""
    source, plan = source_of(made[name]), Plan(7, 5, "keep")
    orders = []
    for size in (1, 2, 3):
        drawn = [index for local in epoch_of(source, plan, size, 0, 2 * COUNT) for index in local.indices]
        assert sorted(drawn[:COUNT]) == sorted(drawn[COUNT:]) == list(range(COUNT))
        assert drawn[:COUNT] != drawn[COUNT:]
        orders.append(drawn)
    assert orders[0] == orders[1] == orders[2]
    parts = [epoch_of(source, plan, 3, 0, 10), epoch_of(source, plan, 2, 10, 15), epoch_of(source, plan, 1, 15, COUNT)]
    assert [index for part in parts for local in part for index in local.indices] == orders[0][:COUNT]
    for local in itertools.chain(*parts):
        assert local.error is None
        for index, image in zip(local.indices, local.images, strict=False):
            np.testing.assert_array_equal(image, source.read(index, 0).image)


def test_compressed_shards_are_each_read_by_one_rank_at_a_time(tmp_path: Path) -> None:
    """With as many lanes as examples in a batch, and shards that are not longer than lanes."""
    images, labels = pixels(32, SIZE)
    folder = tmp_path / "z"
    folder.mkdir()
    options = FORMATS["tfrecords_gzip"](folder, images, labels)
    options = {**options, "lanes": 2}
    source, plan = source_of(options), Plan(7, 2, "keep")
    shard = np.searchsorted([10, 21, 32], np.arange(32), side="right")
    batches = epoch_of(source, plan, 2, 0, 32)
    for one, other in zip(batches[::2], batches[1::2], strict=True):
        assert {shard[index] for index in one.indices}.isdisjoint({shard[index] for index in other.indices})
    assert Counter(index for local in batches for index in local.indices) == Counter(range(32))


def test_a_compressed_shard_of_several_parts_is_read_whole(tmp_path: Path) -> None:
    """As programs write them that append; parts longer and shorter than what is read at a time."""
    random = np.random.default_rng(3)
    records = [random.bytes(size) for size in (1_500_000, 10, 900_000, 3_000_000, 0, 5)]
    parts = [b"".join(map(tfrecord.framed, records[start : start + 2])) for start in (0, 2, 4)]
    path = tmp_path / "shard.tfrecord.gz"
    path.write_bytes(b"".join(map(gzip.compress, parts)))
    assert [bytes(payload) for _, payload in tfrecord.records(str(path), "gzip")] == records


FILES = {name for name in FORMATS if name not in ("image_pairs", "class_folders", "tiff_pages")}


def _files(folder: Path) -> list[Path]:
    """The files that hold the examples."""
    packed = folder / "packed"
    found = (packed if packed.exists() else folder).iterdir()
    return sorted(path for path in found if path.suffix not in (".index", ".json"))


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("harm", ["cut short", "changed", "gone"])
def test_files_that_change_under_a_running_job_are_an_error_that_names_them(
    name: str, harm: str, tmp_path: Path
) -> None:
    """A mapped file that is cut short would end the process with a signal."""
    provider = provider_of(FORMATS[name](tmp_path, *pixels(COUNT, 32)))
    provider.read(0)
    for path in _files(tmp_path):
        if harm == "gone":
            path.unlink()
        elif harm == "cut short":
            os.truncate(path, path.stat().st_size // 3)
        else:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            os.utime(path, ns=(1, 1))
    seen = []
    for index in range(COUNT):
        try:
            provider.read(index)
        except BadInput as error:
            seen.append(str(error))
    assert seen
    assert all(str(tmp_path) in text and len(text.splitlines()) == 1 for text in seen)
    words = {"gone": "no such file", "changed": "changed", "cut short": "cut short|changed"}[harm]
    assert any(word in seen[-1] for word in words.split("|")), seen[-1]


@pytest.mark.parametrize("name", ["class_folders", "npy", "npz", "hdf5", "hdf5_chunked"])
def test_whole_images_with_a_class_each_are_read_and_packed(name: str, tmp_path: Path) -> None:
    images, labels = pixels(COUNT, SIZE)
    whole = labels[:, 0, 0] if name != "class_folders" else labels
    (tmp_path / "data").mkdir()
    options = FORMATS[name](tmp_path / "data", images, whole)
    provider = provider_of(options)
    assert provider.spec.label_shape == ()
    pack(Packing(provider, {}, 2, "none", 1), tmp_path / "packed", done=lambda count: None)
    packed = provider_of({"provider": "tfrecords", "files": str(tmp_path / "packed")})
    assert packed.spec == provider.spec
    for index in range(COUNT):
        one, other = provider.read(index), packed.read(index)
        assert np.array_equal(one.image, other.image)
        assert one.label.shape == other.label.shape == ()
        assert int(one.label) == int(other.label)
        assert one.label.dtype == other.label.dtype
    if name != "class_folders":
        assert [int(provider.read(index).label) for index in range(COUNT)] == labels[:, 0, 0].tolist()
    image, label = _augmented(options).read(0, 0)
    assert (image.shape, label.shape) == ((SIZE, SIZE, 1), ())


def _augmented(options: Options) -> Source:
    augment = {"quarter_turns": True, "elastic": 1}
    job = make_job(data={"train": options, "augment": augment})
    return select(job.data.train, key="data.train", seed=7, training=True, data=job.data)
