"""TFRecord: records one after the other in a shard, each behind its length, both with a CRC-32C.

A shard has no directory. An index beside it (`NAME.index`), made once, tells where each record starts, so that any can
be read alone; where the shard is compressed as a whole, the index counts bytes of what it holds.

The index is one line of text, padded to 256 bytes,

    distrain-index 1 {"compression": "none", "records": 3, "size": 1234, "length": 1234}

(size of the shard's file, and length of what it holds), and then records + 1 little-endian 64-bit offsets, the last one
being the end. A record that does not begin and end where the index says, or whose checksums are wrong, is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt

from distrain.data.storage import Status, is_url, one_line, opened, read, regular, shown
from distrain.errors import BadInput

WHAT = "a TFRecord"
INDEX = "an index"
SUFFIX = ".index"
FRAME = 16  # bytes of a record beside its payload
LONGEST = 1 << 31  # of a record, in bytes
_MAGIC = b"distrain-index 1 "
_HEAD = 256
_LENGTH = struct.Struct("<QI")
_CRC = struct.Struct("<I")
_OFFSET = np.dtype("<u8")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Shard:
    """A shard whose index was read. `length` is that of what it holds, `first` where the index's offsets begin."""

    path: str
    index: str
    records: int
    length: int
    compression: str
    first: int
    status: Status
    index_status: Status

    def record(self, number: int) -> memoryview:
        """The payload of a record of a shard that is not compressed. Raises `BadInput`."""
        start, stop = self.span(number)
        frame = read(self.path, start, stop - start, WHAT, known=self.status)
        return checked(frame, f"{shown(self.path)}: record {number} at byte {start}")

    def span(self, number: int) -> tuple[int, int]:
        """Where a record begins and ends. Raises `BadInput` where the index makes no sense."""
        place = self.first + number * _OFFSET.itemsize
        data = read(self.index, place, 2 * _OFFSET.itemsize, INDEX, known=self.index_status)
        start, stop = (int(value) for value in np.frombuffer(data, _OFFSET))
        if not start + FRAME <= stop <= self.length or stop - start > LONGEST:
            raise _mismatch(self.index, f"record {number} reaches from byte {start} to {stop} of {self.length}")
        return start, stop


def _mismatch(index: str, seen: str) -> BadInput:
    return BadInput(f"{shown(index)}: does not fit its shard ({seen}): make it anew by 'distrain data index'")


def masked_crc(data: bytes | npt.NDArray[np.uint8]) -> int:
    """The checksum that TFRecord stores: a CRC-32C, turned and shifted so that a CRC of data with CRCs stays useful."""
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload: bytes) -> bytes:
    """A record as it stands in a shard."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _CRC.pack(masked_crc(length)), payload, _CRC.pack(masked_crc(payload))))


def checked(frame: bytes | memoryview, name: str) -> memoryview:
    """The payload of a whole record, both checksums verified; a view of `frame`. Raises `BadInput`."""
    length = _payload_length(frame, name)
    if length != len(frame) - FRAME:
        raise BadInput(f"{name}: is of {length} bytes, expected {len(frame) - FRAME} by its index")
    payload = np.frombuffer(frame, np.uint8)[12:-4]
    if masked_crc(payload) != _CRC.unpack_from(frame, len(frame) - 4)[0]:
        raise BadInput(f"{name}: does not match its checksum, expected an undamaged record")
    return memoryview(frame)[12:-4]


def _payload_length(head: bytes | memoryview, name: str) -> int:
    length, crc = _LENGTH.unpack_from(head)
    if masked_crc(bytes(head[:8])) != crc:
        raise BadInput(f"{name}: no record starts here (its length does not match its checksum)")
    if length + FRAME > LONGEST:
        raise BadInput(f"{name}: claims {length} bytes, expected at most {LONGEST - FRAME}")
    return int(length)


# --- the whole shard, in order ---


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_of(path: str) -> str:
    """How a shard is compressed, by its first bytes: "none", "gzip" or "zlib". Raises `BadInput` for anything else."""
    with opened(path, WHAT) as file:
        head = file.read(12)
    if len(head) == 12 and masked_crc(head[:8]) == _CRC.unpack_from(head, 8)[0]:
        return "none"
    if head[:3] == b"\x1f\x8b\x08":
        return "gzip"
    if len(head) > 1 and head[0] & 0x0F == 8 and (head[0] << 8 | head[1]) % 31 == 0:
        return "zlib"
    raise BadInput(f"{shown(path)}: does not begin with a record, expected a TFRecord file, plain or of gzip or zlib")


def records(path: str, compression: str, *, known: Status | None = None) -> Iterator[tuple[int, memoryview]]:
    """Each record's start and payload, from the shard's beginning, all checksums verified. Raises `BadInput`.

    The file stays open until the iterator is closed or comes to its end.
    """
    if known is not None and regular(path, WHAT) != known:
        raise BadInput(f"{shown(path)}: has changed since it was opened, expected data that stays as it is")
    with opened(path, WHAT) as file, _reading(path):
        source: _Source = file if compression == "none" else _Inflated(file, path)
        start, number = 0, 0
        while head := source.read(12):
            name = f"{shown(path)}: record {number} at byte {start}"
            if len(head) < 12:
                raise _cut_short(name)
            length = _payload_length(head, name)
            rest = source.read(length + 4)
            if len(rest) < length + 4:
                raise _cut_short(name)
            yield start, checked(head + rest, name)
            start += length + FRAME
            number += 1


def _cut_short(name: str) -> BadInput:
    return BadInput(f"{name}: is cut short, expected a whole record")


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, zlib.error, EOFError) as error:
        raise BadInput(f"{shown(path)}: cannot be read ({one_line(error)}), expected an undamaged TFRecord") from error


class _Inflated:
    """What a file compressed by gzip or zlib holds, in order, in bounded memory."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._ready = bytearray()

    def read(self, size: int, /) -> bytes:
        while len(self._ready) < size and self._more():
            pass
        result = bytes(self._ready[:size])
        del self._ready[:size]
        return result

    def _more(self) -> bool:
        data = self._inflate.unconsumed_tail or self._inflate.unused_data or self._file.read(_CHUNK)
        if self._inflate.eof:
            # Files of several compressed parts, as some writers make.
            if not data:
                return False
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
        elif not data:
            raise BadInput(f"{shown(self._path)}: is cut short, expected the end of its compressed data")
        self._ready += self._inflate.decompress(data, _CHUNK)
        return True


# --- the index ---


def index_path(path: str, folder: str | None = None) -> str:
    """Where the index of a shard is looked for: beside it, or in a folder of indices."""
    return path + SUFFIX if folder is None else os.path.join(folder, os.path.basename(path) + SUFFIX)


def open_shard(path: str, folder: str | None = None) -> Shard:
    """A shard with its index. Raises `BadInput` where one of the two is missing or they do not fit each other."""
    status = regular(path, WHAT)
    index = index_path(path, folder)
    if not is_url(index) and not os.path.exists(index):
        raise BadInput(
            f"{shown(index)}: no such file, expected an index of the shard: make it by 'distrain data index'"
        )
    index_status = regular(index, INDEX)
    with opened(index, INDEX) as file:
        line = file.read(_HEAD).partition(b"\n")[0] + b"\n"
    try:
        if not line.startswith(_MAGIC) or len(line) != _HEAD:
            raise ValueError("its first line is not that of an index")
        said = json.loads(line[len(_MAGIC) :])
        values = [said[name] for name in ("records", "size", "length")]
        compression = said["compression"]
        if not all(type(value) is int and value >= 0 for value in values) or compression not in (
            "none",
            "gzip",
            "zlib",
        ):
            raise ValueError("its first line makes no sense")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _mismatch(index, one_line(error)) from error
    count, size, length = values
    if size != status.size or (compression == "none" and length != size):
        raise _mismatch(index, f"it is of a shard of {size} bytes, the shard has {status.size}")
    if index_status.size != len(line) + _OFFSET.itemsize * (count + 1):
        raise _mismatch(index, f"{index_status.size} bytes for {count} records")
    return Shard(path, index, count, length, compression, len(line), status, index_status)


def build_index(path: str, folder: str | None = None) -> int:
    """Read a shard through, every checksum verified, and write its index; returns its records. Raises `BadInput`."""
    compression = compression_of(path)
    status = regular(path, WHAT)
    index = index_path(path, folder)
    if is_url(index):
        raise BadInput(f"{shown(index)}: cannot be written there, expected --index-dir with a local folder")

    def ends() -> Iterator[int]:
        for start, payload in records(path, compression):
            yield start + len(payload) + FRAME

    return write_index(Path(index), ends(), compression, lambda: status.size)


def write_index(path: Path, ends: Iterable[int], compression: str, size: Callable[[], int]) -> int:
    """Write an index of records that end at `ends`; `size` tells the shard's once they are through. Atomic."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(bytes(_HEAD))
            count, last = 0, 0
            file.write(struct.pack("<Q", 0))
            for end in ends:
                file.write(struct.pack("<Q", end))
                count, last = count + 1, end
            said = {"compression": compression, "records": count, "size": size(), "length": last}
            head = _MAGIC + json.dumps(said).encode()
            # The line keeps the place that was left for it.
            file.seek(0)
            file.write(head.ljust(_HEAD - 1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise BadInput(
            f"{shown(str(path))}: cannot be written ({one_line(error)}), expected space for an index"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return count
