"""From the job's `data` section to a source: a provider, and what is done to an example after it was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distrain.data.arrays import hdf5_arrays, npy_arrays, npz_arrays
from distrain.data.augment import Augmenter, require_fit
from distrain.data.cache import Cached, DiskStore, MemoryStore
from distrain.data.callable_provider import CallableProvider
from distrain.data.circles import Circles
from distrain.data.class_folders import ClassFolders
from distrain.data.crop import centre_crop, random_crop
from distrain.data.image_pairs import ImagePairs
from distrain.data.provider import BatchReader, Example, ExampleSpec, Provider
from distrain.data.source import Source
from distrain.data.tfrecords import Fields, TFRecords
from distrain.errors import BadInput
from distrain.factory import call_factory
from distrain.job import schema


def select(
    options: schema.ProviderChoice, *, key: str, seed: int, training: bool, data: schema.Data | None = None
) -> Source:
    """The source that `options` (the job's `key`) names. Raises `BadInput` where it cannot be had or is empty.

    `data` is the job's whole section: what is done to all examples, to bad ones, and how they are read.
    """
    provider = make_provider(options, key=key, seed=seed)
    caveats = tuple(getattr(provider, "caveats", ()))
    class_names = tuple(getattr(provider, "class_names", ()))
    augment = data.augment if data is not None and training else schema.Augment()
    skips = data is not None and data.on_bad_example == "skip"
    spec, crop = _cropped(options, provider.spec, key)
    require_fit(augment, spec)
    if data is not None:
        provider = _cached(provider, data.reading)
    augmenter = Augmenter(augment, seed)

    def prepare(example: Example, index: int, epoch: int) -> Example:
        if crop is not None and training:
            example = random_crop(example, crop, seed=seed, epoch=epoch, index=index)
        elif crop is not None:
            example = centre_crop(example, crop)
        return augmenter(example, index, epoch) if augment.enabled else example

    return Source(provider, spec, prepare, skips=skips, caveats=caveats, class_names=class_names)


def _cropped(options: schema.ProviderChoice, spec: ExampleSpec, key: str) -> tuple[ExampleSpec, tuple[int, int] | None]:
    """The form of examples after the crop that the job asks for, and its size. Raises `BadInput`."""
    crop = options.crop if isinstance(options, schema.Files) else None
    if crop is None:
        return spec, None
    height, width, channels = spec.image_shape
    if height < crop[0] or width < crop[1]:
        raise BadInput(
            f"'{key}.crop' is {crop[0]} x {crop[1]}, expected at most {height} x {width}, the smallest image"
        )
    return replace(spec, image_shape=(*crop, channels), label_shape=crop if spec.segmentation else ()), crop


def _cached(provider: Provider, reading: schema.Reading) -> Provider:
    limit = int(reading.cache_gigabytes * 1e9)
    if reading.cache == "none" or isinstance(provider, CallableProvider):
        return provider
    store = MemoryStore(limit) if reading.cache == "memory" else DiskStore(limit, reading.cache_folder)
    return Cached(provider, store)


def make_provider(options: schema.ProviderChoice, *, key: str, seed: int) -> Provider:
    """The provider alone, as it reads. Raises `BadInput` where it cannot be had or is empty."""
    try:
        provider = _provider(options, key=key, seed=seed)
    except BadInput as error:
        if f"'{key}" in str(error):
            raise
        raise BadInput(f"'{key}': {error}") from error
    if len(provider) < 1:
        raise BadInput(f"'{key}': holds no examples, expected at least one")
    return provider


def _provider(options: schema.ProviderChoice, *, key: str, seed: int) -> Provider:
    if isinstance(options, schema.Circles):
        return Circles(
            examples=options.examples,
            size=options.size,
            seed=seed if options.seed is None else options.seed,
            discs=options.discs,
            radius=options.radius,
            border=options.border,
            noise=options.noise,
        )
    if isinstance(options, schema.ImagePairs):
        return ImagePairs(
            images=options.images,
            labels=options.labels,
            pair_by=options.pair_by,
            classes=options.classes,
            label_values=options.label_values,
            value_range=options.value_range,
            same_size=options.crop is None,
        )
    if isinstance(options, schema.CustomProvider):
        return _own(options, key)
    return _of_files(options, key)


def _of_files(options: schema.ProviderChoice, key: str) -> Provider:
    if isinstance(options, schema.ClassFolders):
        return ClassFolders(
            folder=options.folder,
            class_names=options.class_names,
            value_range=options.value_range,
            same_size=options.crop is None,
        )
    if isinstance(options, schema.TFRecords):
        return TFRecords(
            names=options.files,
            index=options.index,
            fields=Fields(options.image, options.label, options.image_shape, options.image_dtype),
            classes=options.classes,
            label_values=options.label_values,
            normalise=options.normalise,
            value_range=options.value_range,
            same_size=options.crop is None,
            shuffle=options.shuffle,
            lanes=options.lanes,
        )
    if isinstance(options, schema.CallableProvider):
        function = call_factory(options.factory, options.options, key=key)
        if not callable(function):
            seen = type(function).__name__
            raise BadInput(f"'{key}': {options.factory} returned {seen}, expected a function provider(n) -> (x, y)")
        return CallableProvider(function, examples=options.examples, classes=options.classes, name=options.factory)
    assert isinstance(options, schema.Arrays | schema.HDF5)
    common = {
        "classes": options.classes,
        "label_values": options.label_values,
        "normalise": options.normalise,
        "value_range": options.value_range,
    }
    if isinstance(options, schema.HDF5):
        return hdf5_arrays(options.files, options.image_array, options.label_array, shuffle=options.shuffle, **common)
    if options.files is not None:
        return npz_arrays(options.files, options.image_array, options.label_array, **common)
    assert options.images is not None
    assert options.labels is not None
    return npy_arrays(options.images, options.labels, **common)


def _own(options: schema.CustomProvider, key: str) -> Provider:
    provider: Provider = call_factory(options.provider, options.options, key=key)
    whole = hasattr(provider, "__len__") and callable(getattr(provider, "read", None))
    if not whole or not isinstance(getattr(provider, "spec", None), ExampleSpec):
        seen = type(provider).__name__
        raise BadInput(f"'{key}': {options.provider} returned {seen}, expected a provider: spec, len and read(index)")
    return _CheckedBatches(provider) if isinstance(provider, BatchReader) else _Checked(provider)


class _Checked:
    """A user's provider, whose arrays are made to be what the contract says or refused."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.spec = provider.spec
        self.sharding = getattr(provider, "sharding", None)
        self.caveats = tuple(getattr(provider, "caveats", ()))

    def __len__(self) -> int:
        return len(self._provider)

    def read(self, index: int) -> Example:
        return self._checked(self._provider.read(index), index)

    def _checked(self, example: Example, index: int) -> Example:
        image, label = example
        labels = np.asarray(label)
        if not np.array_equal(labels, np.floor(labels)) and not np.isnan(labels).any():
            raise BadInput(f"example {index}: label values {labels.min()} to {labels.max()}, expected whole numbers")
        if labels.size and not (0 <= labels.min() and labels.max() < self.spec.classes):
            raise BadInput(
                f"example {index}: label values {labels.min()} to {labels.max()}, expected 0 to {self.spec.classes - 1}"
            )
        return Example(np.asarray(image, np.float32), labels.astype(np.int32))


class _CheckedBatches(_Checked):
    """The same of one that reads several examples together."""

    def read_batch(self, indices: Sequence[int]) -> list[Example]:
        assert isinstance(self._provider, BatchReader)
        read = self._provider.read_batch(indices)
        if len(read) != len(indices):
            raise BadInput(f"read_batch gave {len(read)} examples, expected {len(indices)}")
        return [self._checked(example, index) for example, index in zip(read, indices, strict=True)]
