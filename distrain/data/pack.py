"""Packs the examples of any provider into balanced TFRecord shards, each with its index.

A shard gets its name only when it is whole, its index after it, and `dataset.json` comes last: what was interrupted
goes on with the first shard that is not there with its index. `packing.json` says what is packed, so that two different
data sets never meet in one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from distrain.data.formats import tfrecord
from distrain.data.parallel import in_order
from distrain.data.provider import Provider
from distrain.data.record import encoded
from distrain.data.storage import one_line
from distrain.data.tfrecords import FORMAT, MANIFEST
from distrain.errors import BadInput
from distrain.world.topology import share

PLAN = "packing.json"


class Writable(Protocol):
    """What records can be written to."""

    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True)
class Packing:
    """What is to be packed: the examples of `provider`, which the job described as `source`, into so many shards."""

    provider: Provider
    source: dict[str, Any]
    shards: int
    compression: str
    threads: int

    @property
    def plan(self) -> dict[str, Any]:
        """What must be equal for packing to go on in a folder."""
        spec = self.provider.spec
        return {
            "format": FORMAT,
            "source": self.source,
            "examples": len(self.provider),
            "image_shape": list(spec.image_shape),
            "label_shape": list(spec.label_shape),
            "classes": spec.classes,
            "compression": self.compression,
            "shards": [
                {"file": self.name(number), "records": len(self.indices(number))} for number in range(self.shards)
            ],
        }

    def name(self, shard: int) -> str:
        """The file name of a shard."""
        ending = ".tfrecord" if self.compression == "none" else ".tfrecord.gz"
        return f"part-{shard:05d}-of-{self.shards:05d}{ending}"

    def indices(self, shard: int) -> range:
        """The examples of a shard: consecutive ones; the sizes of shards differ by at most 1."""
        return share(len(self.provider), rank=shard, size=self.shards)


def pack(packing: Packing, folder: Path, *, done: Callable[[int], object]) -> int:
    """Pack into `folder`, telling of so many examples as they are done; returns how many shards were there already.

    Raises `BadInput` where an example cannot be read, the folder holds something else, or has no space.
    """
    if not 1 <= packing.shards <= min(len(packing.provider), 100_000):
        raise BadInput(
            f"--shards is {packing.shards}, expected 1 to {min(len(packing.provider), 100_000)}, as there are "
            f"{len(packing.provider)} examples"
        )
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _claimed(folder, packing.plan):
            kept = 0
            for shard in range(packing.shards):
                indices = packing.indices(shard)
                if _is_whole(folder / packing.name(shard), len(indices)):
                    kept += 1
                    done(len(indices))
                else:
                    _write_shard(packing, folder / packing.name(shard), indices, done)
            _write_json(folder / MANIFEST, packing.plan)
    return kept


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({one_line(error)}), expected a folder with space") from error


@contextlib.contextmanager
def _claimed(folder: Path, plan: dict[str, Any]) -> Iterator[None]:
    """Hold the folder for this packing alone. Raises `BadInput` where it is another's."""
    path = folder / PLAN
    if not path.exists():
        strangers = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if strangers:
            raise BadInput(f"{folder}: holds {strangers[0]}, expected an empty or a new folder")
        _write_json(path, plan)
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{folder}: is being packed by another process") from None
        try:
            old = json.load(file)
        except ValueError:
            old = None
        if old != plan:
            keys = [key for key in plan if not isinstance(old, dict) or old.get(key) != plan[key]]
            raise BadInput(f"{folder}: holds another packing (differs in {', '.join(keys)}), expected a new folder")
        yield


def _is_whole(path: Path, records: int) -> bool:
    """Whether a shard is there with its index. What is in its records was verified when they were written."""
    try:
        return tfrecord.open_shard(str(path)).records == records
    except BadInput:
        return False


def _write_shard(packing: Packing, path: Path, indices: range, done: Callable[[int], object]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    index = Path(tfrecord.index_path(str(path)))
    index.unlink(missing_ok=True)

    def record(number: int) -> bytes:
        return tfrecord.framed(encoded(packing.provider.read(number)))

    def ends(file: Writable) -> Iterator[int]:
        end = 0
        for frame in in_order(record, indices, threads=packing.threads):
            file.write(frame)
            end += len(frame)
            done(1)
            yield end

    try:
        with temporary.open("wb") as file:
            ended = list(_compressed(file, packing.compression, ends))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    size = path.stat().st_size
    tfrecord.write_index(index, ended, packing.compression, lambda: size)


def _compressed(file: IO[bytes], compression: str, ends: Callable[[Writable], Iterable[int]]) -> Iterator[int]:
    if compression == "none":
        yield from ends(file)
        return
    # No name and no time in it: the same examples give the same bytes.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as inner:
        yield from ends(inner)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
