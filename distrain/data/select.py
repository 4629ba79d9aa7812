"""From the job's `data` section to a source: a provider, and what is done to an example after it was read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from distrain.data.circles import Circles
from distrain.data.crop import centre_crop, random_crop
from distrain.data.image_pairs import ImagePairs
from distrain.data.provider import Example, ExampleSpec, Provider
from distrain.errors import BadInput
from distrain.factory import call_factory
from distrain.job import schema


@dataclass(frozen=True)
class Source:
    """A provider with its preparation: `read(index, epoch)` gives an example of `spec`, ready for the model."""

    provider: Provider
    spec: ExampleSpec
    prepare: Callable[[Example, int, int], Example]

    def __len__(self) -> int:
        return len(self.provider)

    def read(self, index: int, epoch: int) -> Example:
        """The example at `index` as epoch `epoch` sees it. Raises `BadInput` where it is not what `spec` says."""
        example = self.prepare(self.provider.read(index), index, epoch)
        if example.image.shape != self.spec.image_shape or example.label.shape != self.spec.label_shape:
            raise BadInput(
                f"example {index}: image {example.image.shape} and label {example.label.shape}, "
                f"expected {self.spec.image_shape} and {self.spec.label_shape}"
            )
        return example


def select(options: schema.ProviderChoice, *, key: str, seed: int, training: bool) -> Source:
    """The source that `options` (the job's `key`) names. Raises `BadInput` where it cannot be had or is empty."""
    provider = _provider(options, key=key, seed=seed)
    if len(provider) < 1:
        raise BadInput(f"'{key}': holds no examples")
    crop = options.crop if isinstance(options, schema.ImagePairs) else None
    if crop is None:
        return Source(provider, provider.spec, lambda example, index, epoch: example)
    size = crop
    height, width, _ = provider.spec.image_shape
    if height < size[0] or width < size[1]:
        raise BadInput(f"'{key}.crop' is {size[0]} x {size[1]}, but the smallest image is {height} x {width}")
    spec = replace(
        provider.spec,
        image_shape=(*size, provider.spec.image_shape[2]),
        label_shape=size if provider.spec.segmentation else (),
    )
    if training:
        return Source(
            provider,
            spec,
            lambda example, index, epoch: random_crop(example, size, seed=seed, epoch=epoch, index=index),
        )
    return Source(provider, spec, lambda example, index, epoch: centre_crop(example, size))


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
    provider: Provider = call_factory(options.provider, options.options, key=key)
    whole = hasattr(provider, "__len__") and callable(getattr(provider, "read", None))
    if not whole or not isinstance(getattr(provider, "spec", None), ExampleSpec):
        raise BadInput(f"'{key}': {options.provider} returned no provider: expected spec, len and read(index)")
    return _Checked(provider)


class _Checked:
    """A user's provider, whose arrays are made to be what the contract says or refused."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.spec = provider.spec

    def __len__(self) -> int:
        return len(self._provider)

    def read(self, index: int) -> Example:
        image, label = self._provider.read(index)
        labels = np.asarray(label)
        if not np.array_equal(labels, np.floor(labels)) and not np.isnan(labels).any():
            raise BadInput(f"example {index}: label values {labels.min()} to {labels.max()}, expected whole numbers")
        if labels.size and not (0 <= labels.min() and labels.max() < self.spec.classes):
            raise BadInput(
                f"example {index}: label values {labels.min()} to {labels.max()}, expected 0 to {self.spec.classes - 1}"
            )
        return Example(np.asarray(image, np.float32), labels.astype(np.int32))
