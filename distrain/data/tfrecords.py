"""A data set of TFRecord shards that hold `tf.train.Example` messages, read at random through an index of each shard.

Shards that `distrain data pack` made describe themselves (`dataset.json`, written last, beside them); of any others the
job says what features they have. Shards that are compressed as a whole are read shard by shard.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
from collections.abc import Generator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from distrain.data import images as pictures
from distrain.data.formats import example_message, tfrecord
from distrain.data.formats.files import MAX_SAMPLES, Array
from distrain.data.paths import Wanted, files
from distrain.data.provider import Example, ExampleSpec, LabelArray, Sharding
from distrain.data.sequential import Blocks, Streams
from distrain.data.storage import is_url, one_line, opened, shown
from distrain.data.values import classified, image_values
from distrain.errors import BadInput

MANIFEST = "dataset.json"
FORMAT = "distrain-packed 1"
_DTYPES = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64")
_NO_SHARDS = (tfrecord.SUFFIX, ".json", ".tmp")
_LARGEST_MANIFEST = 1 << 26


class Fields(NamedTuple):
    """Which features an example has. `shape` and `dtype` are of images as raw bytes that do not say so themselves."""

    image: str = "image"
    label: str = "label"
    shape: tuple[int, ...] | None = None
    dtype: str = "uint8"


class TFRecords:
    """Examples from the shards that `names` stand for: a folder, a glob, a file, or several of these.

    The image is a feature of bytes: a PNG or JPEG, or raw numbers, of which the features `IMAGE/shape` and
    `IMAGE/dtype` tell the form, or `fields` does. The label is a whole number, as many as the image has pixels, or
    bytes as for images. `classes` may be left out for packed shards. `normalise` is as in `values.image_values`.

    Raises `BadInput` where a shard or its index is missing, or they do not fit each other.
    """

    def __init__(
        self,
        *,
        names: str | tuple[str, ...],
        index: str | None,
        fields: Fields,
        classes: int | None,
        label_values: tuple[int, ...] | None,
        normalise: str,
        value_range: tuple[float, float] | None,
        same_size: bool,
        shuffle: int,
        lanes: int,
    ) -> None:
        paths = files(names, "files", Wanted("tfrecords", "TFRecord shards", may_be_shard, (".tfrecord",)))
        self._shards = [tfrecord.open_shard(path, index) for path in paths]
        self._starts = list(itertools.accumulate((shard.records for shard in self._shards), initial=0))
        self._fields = fields
        self._label_values = label_values
        self._normalise = normalise
        self._value_range = value_range
        self._same_size = same_size
        self.sharding: Sharding | None = None
        if any(shard.compression != "none" for shard in self._shards):
            counts = tuple(shard.records for shard in self._shards)
            self.sharding = Sharding(counts, shuffle, lanes)
            # Two batches may be read at the same time, each from all lanes.
            streams = Streams(self._records, counts, kept=2 * lanes)
            self._blocks = Blocks(streams.fetch, counts, shuffle, kept=2 * lanes)
        packed = _manifest(paths[0])
        if packed is not None:
            self._require_all(packed, paths)
        if packed is None and classes is None:
            raise BadInput(f"tfrecords: classes is missing, expected it for shards without a {MANIFEST}")
        self._classes = packed.classes if packed is not None and classes is None else classes or 0
        self._spec = spec_of(packed, self._classes) if packed is not None else self._seen_spec()

    @property
    def spec(self) -> ExampleSpec:
        """That of the packed data set, else the form of the first example."""
        return self._spec

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, index: int) -> Example:
        """The example at `index`. Raises `BadInput`, naming shard and record, where it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} examples")
        shard = bisect.bisect_right(self._starts, index) - 1
        example = self._read(shard, index - self._starts[shard])
        if self._same_size and example.image.shape != self._spec.image_shape:
            raise BadInput(
                f"{self._name(shard, index - self._starts[shard])}: has an image of {list(example.image.shape)}, "
                f"expected {list(self._spec.image_shape)}; a crop would allow different sizes"
            )
        return example

    def _read(self, shard: int, number: int) -> Example:
        name = self._name(shard, number)
        payload = self._shards[shard].record(number) if self.sharding is None else self._blocks.get(shard, number)
        features = example_message.parsed(payload, name)
        pixels = self._array(features, self._fields.image, name, indices=False)
        image = image_values(name, pixels, normalise=self._normalise, value_range=self._value_range)
        return Example(image, self._label(features, name, image.shape[:2]))

    def _label(self, features: Mapping[str, memoryview], name: str, size: tuple[int, ...]) -> LabelArray:
        values = self._array(features, self._fields.label, name, indices=True)
        if values.dtype.kind == "i" and values.ndim == 1 and len(values) == int(np.prod(size)):
            values = values.reshape(size)
        if values.shape == (1,):
            values = values.reshape(())
        if values.shape not in ((), size):
            raise BadInput(
                f"{name}: has a label of shape {list(values.shape)}, expected one class, or one for each pixel of "
                f"{list(size)}"
            )
        return classified(name, values, self._classes, self._label_values)

    def _array(self, features: Mapping[str, memoryview], key: str, name: str, *, indices: bool) -> Array:
        value = example_message.feature(features, key, name)
        if not isinstance(value, memoryview):
            return value
        if f"{key}/shape" not in features and pictures.is_encoded(bytes(value[:8])):
            return pictures.decode(name, bytes(value), indices=indices)
        shape, dtype = self._fields.shape, self._fields.dtype
        if f"{key}/shape" in features:
            said = example_message.feature(features, f"{key}/shape", name)
            shape = () if isinstance(said, memoryview) else tuple(int(length) for length in said)
        if f"{key}/dtype" in features:
            kind = example_message.feature(features, f"{key}/dtype", name)
            dtype = str(kind[:16], "ascii", "replace") if isinstance(kind, memoryview) else ""
        if shape is None:
            raise BadInput(f"{name}: feature '{key}' is raw bytes of unknown shape, expected 'image_shape' in the job")
        if dtype not in _DTYPES:
            raise BadInput(f"{name}: feature '{key}' is of dtype '{dtype}', expected one of {', '.join(_DTYPES)}")
        return _raw(value, shape, dtype, f"{name}: feature '{key}'")

    def _records(self, shard: int) -> Generator[memoryview, None, None]:
        opened_shard = self._shards[shard]
        return (
            payload
            for _, payload in tfrecord.records(opened_shard.path, opened_shard.compression, known=opened_shard.status)
        )

    def _name(self, shard: int, number: int) -> str:
        return f"{shown(self._shards[shard].path)} (record {number})"

    def _seen_spec(self) -> ExampleSpec:
        first = next((number for number, shard in enumerate(self._shards) if shard.records), None)
        if first is None:
            raise BadInput("tfrecords: the shards hold no records, expected some")
        example = self._read(first, 0)
        height, width, channels = example.image.shape
        return ExampleSpec((height, width, channels), example.label.shape, self._classes)

    def _require_all(self, packed: Packed, paths: Sequence[str]) -> None:
        """Shards that were packed together are a data set together, unless the job names some of them one by one."""
        for shard in self._shards:
            records = packed.shards.get(os.path.basename(shard.path))
            if records is not None and records != shard.records:
                raise BadInput(
                    f"{shown(shard.path)}: has {shard.records} records, expected {records} by its {MANIFEST}"
                )
        folders = {os.path.dirname(path) for path in paths}
        if len(folders) == 1 and len(paths) > 1:
            missing = packed.shards.keys() - {os.path.basename(path) for path in paths}
            if missing:
                raise BadInput(
                    f"{shown(paths[0])}: its {MANIFEST} names {len(packed.shards)} shards, {len(missing)} are not "
                    f"there, such as {min(missing)}"
                )


class Packed(NamedTuple):
    """What `dataset.json` says of the shards beside it: the form of examples, and each shard's records."""

    image_shape: tuple[int, int, int]
    label_shape: tuple[int, ...]
    classes: int
    shards: dict[str, int]


def spec_of(packed: Packed, classes: int) -> ExampleSpec:
    """The spec of a packed data set, of so many classes."""
    return ExampleSpec(packed.image_shape, packed.label_shape, classes)


def may_be_shard(path: str) -> bool:
    """Whether a file in a folder is taken for a shard: shards have no ending that all writers agree on."""
    name = os.path.basename(path)
    return not name.endswith(_NO_SHARDS) and not name.startswith(".")


def _raw(data: memoryview, shape: tuple[int, ...], dtype: str, name: str) -> Array:
    count = 1
    for length in shape:
        count *= length
    size = count * np.dtype(dtype).itemsize
    if any(length < 0 for length in shape) or len(shape) > 3 or count > MAX_SAMPLES or size != len(data):
        raise BadInput(f"{name} has {len(data)} bytes, expected {size} for {dtype} of shape {list(shape)}")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def _manifest(path: str) -> Packed | None:
    """What the manifest beside a shard says, if there is one. Raises `BadInput` where it makes no sense."""
    manifest = f"{path.rsplit('/', 1)[0]}/{MANIFEST}" if is_url(path) else os.path.join(os.path.dirname(path), MANIFEST)
    if not is_url(path) and not os.path.exists(manifest):
        return None
    try:
        with opened(manifest, "a description of packed shards") as file:
            text = file.read(_LARGEST_MANIFEST)
    except BadInput as error:
        if is_url(path) and "no such file" in str(error):
            return None
        raise
    try:
        said = json.loads(text)
        if said.get("format") != FORMAT:
            return None  # another program's file of this name
        image, label, classes = tuple(said["image_shape"]), tuple(said["label_shape"]), said["classes"]
        shards = {str(shard["file"]): int(shard["records"]) for shard in said["shards"]}
        numbers = (*image, *label, classes)
        if not all(type(number) is int and 0 < number <= MAX_SAMPLES for number in numbers) or len(image) != 3:
            raise ValueError(f"image_shape {image}, label_shape {label}, classes {classes}")
        if label not in ((), image[:2]):
            raise ValueError(f"label_shape {label} beside image_shape {image}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        seen = one_line(error)
        raise BadInput(
            f"{shown(manifest)}: makes no sense ({seen}), expected what 'distrain data pack' writes"
        ) from error
    return Packed(image, label, classes, shards)
