"""`tf.train.Example`, the message that TFRecord shards usually hold: features by name, each a list of bytes, floats or
whole numbers. TensorFlow is not needed to read it: the message is declared here anew, in a pool of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from distrain.errors import BadInput

Feature = bytes | npt.NDArray[np.float32] | npt.NDArray[np.int64]


def parsed(payload: bytes, name: str) -> Mapping[str, Any]:
    """The features of a serialised example, by name. Raises `BadInput`, naming `name`, where it is none."""
    try:
        features: Mapping[str, Any] = _message().FromString(payload).features.feature
    except DecodeError as error:
        raise BadInput(f"{name}: holds no tf.train.Example, expected one") from error
    return features


def feature(features: Mapping[str, Any], key: str, name: str) -> Feature:
    """The value of one feature: one piece of bytes, or an array [n]. Raises `BadInput`, naming `name`."""
    if key not in features:
        there = ", ".join(sorted(features)[:10]) or "none"
        raise BadInput(f"{name}: has no feature '{key}', expected one (there are: {there})")
    value = features[key]
    kind = value.WhichOneof("kind")
    if kind == "bytes_list":
        parts = value.bytes_list.value
        if len(parts) != 1:
            raise BadInput(f"{name}: feature '{key}' has {len(parts)} pieces of bytes, expected 1")
        return bytes(parts[0])
    if kind == "int64_list":
        return np.array(value.int64_list.value, np.int64)
    if kind == "float_list":
        return np.array(value.float_list.value, np.float32)
    raise BadInput(f"{name}: feature '{key}' is empty, expected a value")


def serialised(features: Mapping[str, bytes | list[int]]) -> bytes:
    """An example of these features, always the same bytes for the same values."""
    message = _message()()
    for key, value in features.items():
        if isinstance(value, bytes):
            message.features.feature[key].bytes_list.value.append(value)
        else:
            message.features.feature[key].int64_list.value.extend(value)
    result: bytes = message.SerializeToString(deterministic=True)
    return result


@functools.cache
def _message() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="distrain/example.proto", package="tensorflow", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind, packed in (
        ("BytesList", field.TYPE_BYTES, False),
        ("FloatList", field.TYPE_FLOAT, True),
        ("Int64List", field.TYPE_INT64, True),
    ):
        column = file.message_type.add(name=name).field.add(
            name="value", number=1, type=kind, label=field.LABEL_REPEATED
        )
        if packed:
            column.options.packed = True
    feature_type = file.message_type.add(name="Feature")
    feature_type.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), start=1):
        feature_type.field.add(
            name=name.removesuffix("List").lower() + "_list",
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=f".tensorflow.{name}",
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value", number=2, type=field.TYPE_MESSAGE, type_name=".tensorflow.Feature", label=field.LABEL_OPTIONAL
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))
