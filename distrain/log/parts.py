"""A table in parts: Parquet files that are whole or absent, grow to a bounded size, and are cut back to a checkpoint.

Every row has a `step`, which never falls from row to row; a part is named by its first. The newest part is written
anew, under another name and then moved into place, whenever what was added since is to be on disk. Names that begin
with a dot are passed over by what reads a whole folder, such as `pandas.read_parquet`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 1 << 16
SECONDS = 60.0

Columns = Mapping[str, npt.NDArray[Any]]


class PartedTable:
    """Appends to the table in `folder`, which need not be there.

    A part is closed once it has `rows` rows. What is appended is on disk after `seconds` at the latest, where more
    comes, and after `flush` and `close`. `flush` may be called by another thread than the one that appends, which goes
    on meanwhile. All methods raise `OSError` where a file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path,
        words: Mapping[str, Sequence[str]] | None = None,
        *,
        rows: int = ROWS,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._words = {name: _texts(texts) for name, texts in (words or {}).items()}
        self._rows = rows
        self._seconds = seconds
        self._clock = clock
        # Of the file and of what is known of it; appending alone does without.
        self._lock = threading.RLock()
        self._written: pa.Table | None = None
        self._waiting: list[Callable[[], Columns]] = []
        self._count = 0
        self._begun = False
        self._written_at = clock()

    def append(self, count: int, columns: Callable[[], Columns]) -> None:
        """Add the `count` rows of one step, if any: equally long arrays under the same names each time.

        They are asked for when they are written: a step must not wait for more than that they are kept. What `words`
        names is numbers into its texts.
        """
        if not count:
            return  # all ranks whose turn it was had no examples
        if not self._begun:
            self._written, self._begun = self._taken_up(), True
            self._count = 0 if self._written is None else self._written.num_rows
        self._waiting.append(columns)
        self._count += count
        full = self._count >= self._rows
        if full or self._clock() - self._written_at >= self._seconds:
            self.flush()
        if full:
            with self._lock:
                self._written, self._count = None, 0

    def flush(self) -> None:
        """Have all rows on disk that were appended before."""
        # At its start: what is appended while another thread writes need not wait for it.
        self._written_at = self._clock()
        with self._lock:
            if waiting := self._waiting[:]:
                table = self._table([columns() for columns in waiting])
                self._folder.mkdir(parents=True, exist_ok=True)
                _write(self._folder / _name(table), table)
                self._written = table
                del self._waiting[: len(waiting)]

    def close(self) -> None:
        self.flush()

    def _table(self, rows: Sequence[Columns]) -> pa.Table:
        """What the newest part has to hold, with these rows."""
        columns = {}
        for name in rows[0]:
            column = _column(np.concatenate([one[name] for one in rows]))
            texts = self._words.get(name)
            columns[name] = column if texts is None else pa.DictionaryArray.from_arrays(column, texts)
        new = pa.table(columns)
        return new if self._written is None else pa.concat_tables([self._written, new]).combine_chunks()

    def _taken_up(self) -> pa.Table | None:
        """The rows of the newest part, where it is not full: a run that goes on fills it up."""
        parts = _parts(self._folder)
        newest = read_part(parts[-1]) if parts else None
        return None if newest is None or newest.num_rows >= self._rows else newest


def read(folder: Path, columns: Sequence[str] | None = None, *, latest: int | None = None) -> pa.Table | None:
    """The rows of all parts in order, of the newest that hold at least `latest` rows where that is given.

    None where there is no part. Raises `OSError` naming a part that cannot be read.
    """
    tables: list[pa.Table] = []
    for path in reversed(_parts(folder)):
        tables.insert(0, read_part(path, columns))
        if latest is not None and sum(table.num_rows for table in tables) >= latest:
            break
    return pa.concat_tables(tables).unify_dictionaries() if tables else None


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """One part. Raises `OSError` where it cannot be read or lacks a column."""
    try:
        with pq.ParquetFile(path) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise OSError(f"{path}: has no column '{min(missing)}'")
            return file.read(columns=None if columns is None else list(columns))
    except pa.ArrowException as error:
        raise OSError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from error


def _column(values: npt.NDArray[Any]) -> pa.Array:
    """Numbers [n] as a column. Not `pa.array`, which loads pandas wherever that is installed, as `to_numpy` does."""
    whole = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(whole.dtype), len(whole), [None, pa.py_buffer(whole)])


def _texts(texts: Sequence[str]) -> pa.Array:
    """Texts [n] as a column; not `pa.array` either."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def values(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of numbers, [n], of the type that it was written with."""
    chunks = [np.from_dlpack(chunk) for chunk in table.column(name).chunks if len(chunk)]
    return np.concatenate(chunks) if chunks else np.empty(0)


def cut(folder: Path, step: int) -> None:
    """Remove the rows after `step`, and what a kill left unfinished. Raises `OSError`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink()
    parts = _parts(folder)
    while parts and int(parts[-1].stem) > step:
        parts.pop().unlink()
    if not parts:
        return
    # Steps never fall, so that no part but the last of those that begin in time can reach beyond.
    table = read_part(parts[-1])
    steps = values(table, "step")
    kept = int((steps <= step).sum())
    if kept < table.num_rows:
        _write(parts[-1], table.slice(0, kept))


def _parts(folder: Path) -> list[Path]:
    """The parts of a table, oldest first."""
    return sorted((path for path in folder.glob("*.parquet") if path.stem.isdecimal()), key=lambda path: int(path.stem))


def _name(table: pa.Table) -> str:
    return f"{table.column('step')[0].as_py():08d}.parquet"


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    integers = [field.name for field in table.schema if pa.types.is_integer(field.type)]
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd", use_dictionary=[*texts, *integers])
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
