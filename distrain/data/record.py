"""An example as the bytes of one record: a `tf.train.Example` that says its own shapes and dtypes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distrain.data.formats import example_message
from distrain.data.provider import Example, LabelArray


def encoded(example: Example) -> bytes:
    """Image and label as raw little-endian numbers, with features `.../shape` and `.../dtype` for each.

    The image is float32 as it is; the label has the smallest unsigned dtype that holds its classes. The same example
    gives the same bytes.
    """
    label = _smallest(example.label)
    return example_message.serialised(
        {
            "image": example.image.astype("<f4", copy=False).tobytes(),
            "image/shape": list(example.image.shape),
            "image/dtype": b"float32",
            "label": label.astype(label.dtype.newbyteorder("<"), copy=False).tobytes(),
            "label/shape": list(label.shape),
            "label/dtype": label.dtype.name.encode(),
        }
    )


def decoded(payload: bytes | memoryview, name: str) -> Example:
    """The example of a record that `encoded` made; nothing is checked but that it is one."""
    features = example_message.parsed(payload, name)

    def array(key: str) -> npt.NDArray[np.generic]:
        data, shape, kind = (example_message.feature(features, key + part, name) for part in ("", "/shape", "/dtype"))
        assert isinstance(data, memoryview), key
        assert isinstance(shape, np.ndarray), key
        assert isinstance(kind, memoryview), key
        return np.frombuffer(data, np.dtype(str(kind, "ascii")).newbyteorder("<")).reshape(shape.tolist())

    return Example(array("image").astype(np.float32, copy=False), array("label").astype(np.int32))


def _smallest(label: LabelArray) -> npt.NDArray[np.unsignedinteger]:
    highest = int(label.max()) if label.size else 0
    return label.astype(np.uint8 if highest < 1 << 8 else np.uint16 if highest < 1 << 16 else np.uint32)
