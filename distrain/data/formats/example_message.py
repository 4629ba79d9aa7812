"""`tf.train.Example`, the message that TFRecord shards usually hold: features by name, each a list of bytes, floats or
whole numbers.

Read and written here without the protobuf library, which copies every image twice on its way; a feature of bytes is a
view of the record. The wire format is that of Protocol Buffers, in which a message is a series of tagged fields:

    Example {1: Features}   Features {1: entry, ...}   entry {1: name, 2: Feature}
    Feature {1: BytesList | 2: FloatList | 3: Int64List}   each list {1: value, ...}, numbers packed or one by one
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from distrain.errors import BadInput

Feature = memoryview | npt.NDArray[np.float32] | npt.NDArray[np.int64]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how a field's value is laid out
_KINDS = {1: "bytes", 2: "floats", 3: "integers"}
_LONGEST_VARINT = 10


class _Malformed(ValueError):
    """The bytes are no message of this kind."""


def parsed(payload: bytes | memoryview, name: str) -> Mapping[str, memoryview]:
    """The features of a serialised example by name, each not looked into. Raises `BadInput`, naming `name`."""
    found: dict[str, memoryview] = {}
    try:
        for number, features in _fields(memoryview(payload)):
            if number != 1 or not isinstance(features, memoryview):
                continue
            for entry_number, entry in _fields(features):
                if entry_number == 1 and isinstance(entry, memoryview):
                    parts = dict(_fields(entry))
                    key, value = parts.get(1, memoryview(b"")), parts.get(2, memoryview(b""))
                    if not isinstance(key, memoryview) or not isinstance(value, memoryview):
                        raise _Malformed
                    found[str(key, "utf-8")] = value
    except ValueError as error:
        raise BadInput(f"{name}: holds no tf.train.Example, expected one") from error
    return found


def feature(features: Mapping[str, memoryview], key: str, name: str) -> Feature:
    """The value of one feature: one piece of bytes, or an array [n]. Raises `BadInput`, naming `name`."""
    if key not in features:
        there = ", ".join(sorted(features)[:10]) or "none"
        raise BadInput(f"{name}: has no feature '{key}', expected one (there are: {ascii(there)[1:-1]})")
    try:
        lists = [(_KINDS[number], value) for number, value in _fields(features[key]) if number in _KINDS]
        kind, values = lists[-1] if lists else ("", memoryview(b""))
        if not isinstance(values, memoryview):
            raise _Malformed
        items = [value for number, value in _fields(values) if number == 1]
        if kind == "floats":
            return _floats(items)
        if kind == "integers":
            return _integers(items)
    except ValueError as error:
        raise BadInput(f"{name}: feature '{key}' cannot be decoded, expected bytes, floats or integers") from error
    if kind != "bytes":
        raise BadInput(f"{name}: feature '{key}' is empty, expected a value")
    if len(items) != 1 or not isinstance(items[0], memoryview):
        raise BadInput(f"{name}: feature '{key}' has {len(items)} pieces of bytes, expected 1")
    return items[0]


def serialised(features: Mapping[str, bytes | list[int]]) -> bytes:
    """An example of these features, sorted by name: always the same bytes for the same values."""
    entries = []
    for key, value in sorted(features.items()):
        if isinstance(value, bytes):
            content = _field(1, _field(1, value))
        else:
            content = _field(3, _field(1, b"".join(_varint(number) for number in value)))
        entries.append(_field(1, _field(1, key.encode()) + _field(2, content)))
    return _field(1, b"".join(entries))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field: bytes where it has a length or a fixed size, else a whole number."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, layout = tag >> 3, tag & 7
        if layout == _VARINT:
            value, at = _read_varint(data, at)
            yield number, value
            continue
        if layout == _BYTES:
            length, at = _read_varint(data, at)
        elif layout in (_FIXED64, _FIXED32):
            length = 8 if layout == _FIXED64 else 4
        else:
            raise _Malformed
        if at + length > len(data):
            raise _Malformed
        yield number, data[at : at + length]
        at += length


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(_LONGEST_VARINT):
        if at + shift >= len(data):
            raise _Malformed
        byte = data[at + shift]
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + shift + 1
    raise _Malformed


def _floats(items: list[memoryview | int]) -> npt.NDArray[np.float32]:
    parts = [part for part in items if isinstance(part, memoryview)]
    if len(parts) != len(items):
        raise _Malformed
    return np.concatenate([np.frombuffer(part, "<f4") for part in parts] or [np.zeros(0, np.float32)])


def _integers(items: list[memoryview | int]) -> npt.NDArray[np.int64]:
    parts = [
        _varints(np.frombuffer(item, np.uint8)) if isinstance(item, memoryview) else np.array([item], np.uint64)
        for item in items
    ]
    return np.concatenate([*parts, np.zeros(0, np.uint64)]).astype(np.uint64).view(np.int64)


def _varints(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The numbers of a packed list, all at once."""
    last = data < 0x80
    if last.all():
        return data.astype(np.uint64)
    if not last[-1]:
        raise _Malformed
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    lengths = np.diff(np.concatenate([starts, [len(data)]]))
    if lengths.max() > _LONGEST_VARINT:
        raise _Malformed
    place = np.arange(len(data)) - np.repeat(starts, lengths)
    bits = (data & np.uint8(0x7F)).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.bitwise_or.reduceat(bits, starts)


def _field(number: int, value: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _BYTES), _varint(len(value)), value))


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)
