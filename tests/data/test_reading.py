"""What reading does beside the order: skipping, caching, batches read together, functions as providers, memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain.data.batches import Batches, Plan
from distrain.data.cache import Cached, DiskStore, MemoryStore, Store
from distrain.data.parallel import in_order
from distrain.data.pool import ALIGNMENT, SMALLEST, Pool
from distrain.data.provider import Example, Provider
from distrain.data.select import select
from distrain.data.source import Source
from distrain.errors import BadInput
from distrain.job.schema import Reading
from distrain.world.topology import World
from tests.support import Numbered, make_job


def _as_read(example: Example, index: int, epoch: int) -> Example:
    return example


def _source(provider: Provider, *, skips: bool = False) -> Source:
    return Source(provider, provider.spec, _as_read, skips=skips)


class Counting(Numbered):
    """Counts how often each example is read."""

    def __init__(self, examples: int, unreadable: tuple[int, ...] = ()) -> None:
        super().__init__(examples, unreadable)
        self.read_indices: list[int] = []

    def read(self, index: int) -> Example:
        self.read_indices.append(index)
        return super().read(index)


class Together(Counting):
    """Reads several at once."""

    def read_batch(self, indices: Sequence[int]) -> list[Example]:
        return [super(Counting, self).read(index) for index in indices]


def test_bad_examples_are_left_out_of_their_batch_and_told() -> None:
    source = _source(Numbered(10, (3, 4)), skips=True)
    batches = Batches(source, Plan(7, 4, "keep"), World(), 0)
    found = [batches.next() for _ in range(3)]
    batches.close()
    assert sorted(index for local in found for index in local.indices) == list(range(10))
    assert sorted(report for local in found for report in local.bad) == [
        (3, "picture_3.png: broken"),
        (4, "picture_4.png: broken"),
    ]
    for local in found:
        good = [index for index in local.indices if index not in (3, 4)]
        assert local.error is None
        assert local.images[:, 0, 0, 0].tolist() == good
        assert local.weights.tolist() == [1] * len(good)


def test_a_share_without_a_good_example_takes_part_with_weight_0() -> None:
    source = _source(Numbered(4, (0, 1, 2, 3)), skips=True)
    batches = Batches(source, Plan(7, 2, "keep"), World(), 0)
    local = batches.next()
    batches.close()
    assert local.weights.tolist() == [0]
    assert len(local.bad) == 2
    assert local.error is None


def test_where_batches_are_read_together_the_bad_one_is_still_found() -> None:
    provider = Together(10, (3,))
    read = list(_source(provider).read_batch([1, 3, 5], 0))
    assert [isinstance(item, BadInput) for item in read] == [False, True, False]
    provider.read_indices.clear()
    list(_source(provider).read_batch([1, 5], 0))
    assert provider.read_indices == []


def _memory(limit: int, folder: Path) -> Store:
    return MemoryStore(limit)


def _disk(limit: int, folder: Path) -> Store:
    return DiskStore(limit, str(folder))


STORES = [_memory, _disk]


@pytest.mark.parametrize("store", STORES)
def test_a_cache_reads_each_example_once_and_gives_the_same(
    store: Callable[[int, Path], Store], tmp_path: Path
) -> None:
    provider = Counting(6)
    cached = Cached(provider, store(10**6, tmp_path))
    for _ in range(3):
        for index in range(6):
            image, label = cached.read(index)
            whole = Numbered(6).read(index)
            assert (image.dtype, label.dtype) == (whole.image.dtype, whole.label.dtype)
            assert np.array_equal(image, whole.image)
            assert np.array_equal(label, whole.label)
    assert provider.read_indices == list(range(6))
    assert list(tmp_path.iterdir()) == []  # its file has no name


@pytest.mark.parametrize("store", STORES)
def test_a_full_cache_keeps_what_it_has(store: Callable[[int, Path], Store], tmp_path: Path) -> None:
    provider = Counting(50)
    cached = Cached(provider, store(1000, tmp_path))
    for _ in range(2):
        for index in range(50):
            assert cached.read(index).image[0, 0, 0] == index
    again = provider.read_indices[50:]
    assert 30 < len(again) < 50
    assert again == list(range(50 - len(again), 50))


def test_a_cache_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(BadInput, match="/nowhere: no cache can be made there"):
        DiskStore(10, "/nowhere")


def test_the_job_says_how_examples_are_cached(tmp_path: Path) -> None:
    for cache in ("memory", "disk"):
        reading = {"cache": cache, "cache_folder": str(tmp_path)}
        job = make_job(data={"train": {"provider": "circles", "size": 48}, "reading": reading})
        source = select(job.data.train, key="data.train", seed=7, training=True, data=job.data)
        assert isinstance(source.provider, Cached)
        assert np.array_equal(source.read(2, 0).image, source.read(2, 1).image)


def make_function(classes: int = 3, size: int = 4) -> Callable[[int], Any]:
    """As the data providers of tf_unet: pictures one after the other, labels one-hot."""
    drawn = iter(range(10**6))

    def provider(n: int) -> tuple[Any, Any]:
        numbers = [next(drawn) for _ in range(n)]
        x = np.stack([np.full((size, size, 1), number) for number in numbers])
        return x, np.stack([np.eye(classes)[np.full((size, size), number % classes)] for number in numbers])

    return provider


def make_wrong(what: Any) -> Callable[[int], Any]:
    return lambda n: what if what != "short" else (np.zeros((n - 1, 4, 4)), np.zeros(n - 1))


def make_nothing() -> None:
    return None


def _callable(factory: str, **options: Any) -> Source:
    data = {"provider": "callable", "factory": f"tests.data.test_reading:{factory}", "examples": 10, **options}
    return select(make_job(data={"train": data}).data.train, key="data.train", seed=7, training=True)


def test_a_function_is_a_provider_that_says_what_it_cannot_promise() -> None:
    source = _callable("make_function", options={"classes": 5})
    assert (len(source), source.spec.classes, source.spec.label_shape) == (10, 5, (4, 4))
    assert "epochs are not exact" in source.caveats[0]
    batches = Batches(source, Plan(7, 4, "keep"), World(), 0, Reading(threads=1))
    seen = [batches.next() for _ in range(3)]
    batches.close()
    values = [int(value) for local in seen for value in local.images[:, 0, 0, 0]]
    assert values == list(range(1, 11))  # the first was drawn to learn the form
    assert [int(label[0, 0]) for local in seen for label in local.labels] == [value % 5 for value in values]


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        ("make_wrong", {"what": 3}, "gave int, expected a pair"),
        ("make_wrong", {"what": "short"}, r"gave x of shape \[0, 4, 4\]"),
        ("make_nothing", {}, "returned NoneType, expected a function"),
        ("nowhere", {}, "has no function 'nowhere'"),
    ],
)
def test_functions_that_give_something_else_are_refused(factory: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        _callable(factory, options=options)


def test_memory_comes_back_once_the_last_part_of_it_is_gone() -> None:
    pool = Pool()
    whole = pool.take(2 * SMALLEST).view("f4").reshape(4, -1)
    address = whole.ctypes.data
    part = whole[2:, ::2]
    del whole
    assert pool.waiting == 0
    assert pool.take(2 * SMALLEST).ctypes.data != address
    kept = part.data
    del part
    assert pool.take(2 * SMALLEST).ctypes.data != address
    del kept
    assert pool.take(2 * SMALLEST - 5).ctypes.data == address


@pytest.mark.parametrize("size", [SMALLEST, SMALLEST + 12, 3 * SMALLEST + 1])
def test_memory_begins_where_tensorflow_wants_it(size: int) -> None:
    pool = Pool()
    pieces = [pool.take(size) for _ in range(8)]
    assert [(len(piece), piece.ctypes.data % ALIGNMENT) for piece in pieces] == 8 * [(size, 0)]


def test_memory_that_waits_is_bounded() -> None:
    pool = Pool(kept=4 * SMALLEST)
    lent = [pool.take(SMALLEST) for _ in range(20)]
    lent.clear()
    assert 0 < pool.waiting <= 4 * SMALLEST


@pytest.mark.parametrize(("threads", "ahead"), [(3, 14), (0, 0)])
def test_results_come_in_order_and_no_more_is_begun_than_needed(threads: int, ahead: int) -> None:
    begun: list[int] = []

    def action(item: int) -> int:
        begun.append(item)
        return item * item

    results = in_order(action, iter(range(10**9)), threads=threads)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(begun) <= 5 + ahead
    results.close()  # type: ignore[attr-defined]


def test_more_threads_read_as_many_batches_ahead() -> None:
    source = _source(Numbered(1000))
    batches = Batches(source, Plan(7, 4, "keep"), World(), 0, Reading(threads=9))
    batches.next()
    assert len(batches._pending) == 10
    batches.close()


def test_an_example_of_a_wrong_form_counts_as_bad() -> None:
    source = replace(_source(Numbered(3), skips=True), spec=replace(Numbered(3).spec, image_shape=(5, 5, 1)))
    assert all(isinstance(item, BadInput) for item in source.read_batch([0, 1], 0))
