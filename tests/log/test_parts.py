"""A table in Parquet parts: whole ones only, also after a kill, and the same rows whatever befell the run."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from distrain.log import parts
from distrain.log.parts import PartedTable, cut, read

KILLED_WHILE_WRITING = """
import sys
from pathlib import Path
import numpy as np
from distrain.log.parts import PartedTable
table = PartedTable(Path(sys.argv[1]), rows=3000)
step = 0
while True:
    step += 1
    table.append(50, lambda: {"step": np.full(50, step), "row": np.arange(50)})
    table.flush()
    if step == 100:
        print("writing", flush=True)
"""


WRITING = """
import sys
from pathlib import Path
import numpy as np
from distrain.log.parts import PartedTable, read
table = PartedTable(Path(sys.argv[1]), {"text": ["", "zwölf"]})
table.append(2, lambda: {"step": np.array([3, 3]), "text": np.array([1, 0], np.int32)})
table.close()
print(read(Path(sys.argv[1])).to_pylist(), "pandas" in sys.modules)
"""


def test_what_is_written_is_written_without_pandas(tmp_path: Path) -> None:
    """pyarrow would load it, where it is installed, in a fifth of a second."""
    command = [sys.executable, "-c", WRITING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout == "[{'step': 3, 'text': 'zwölf'}, {'step': 3, 'text': ''}] False\n"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _rows(step: int) -> dict[str, npt.NDArray[Any]]:
    """Three rows of a step."""
    numbers = np.arange(3, dtype=np.int32)
    return {"step": np.full(3, step), "text": numbers, "value": np.array([step + 0.25, step + 0.5, np.nan])}


def _table(folder: Path, **options: Any) -> PartedTable:
    return PartedTable(folder, {"text": ["one", "two", "three"]}, **options)


def _append(table: PartedTable, first: int, last: int) -> None:
    for step in range(first, last + 1):
        table.append(3, partial(_rows, step))


def _steps(folder: Path) -> list[int]:
    table = read(folder)
    return [] if table is None else table.column("step").to_pylist()[::3]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_parts_grow_to_their_size_and_are_read_in_order(tmp_path: Path) -> None:
    table = _table(tmp_path, rows=30)
    _append(table, 5, 29)
    assert _names(tmp_path) == ["00000005.parquet", "00000015.parquet"]  # full ones; the rest waits
    table.close()
    assert _names(tmp_path) == ["00000005.parquet", "00000015.parquet", "00000025.parquet"]
    assert _steps(tmp_path) == list(range(5, 30))
    newest = read(tmp_path, ["step"], latest=16)
    assert newest is not None
    assert newest.column("step").to_pylist()[::3] == list(range(15, 30))
    frame = pd.read_parquet(tmp_path)
    assert list(frame.step.unique()) == list(range(5, 30))
    assert frame.value.isna().sum() == 25
    assert list(frame.text[:4]) == ["one", "two", "three", "one"]


def test_names_sort_as_numbers_beyond_eight_digits(tmp_path: Path) -> None:
    table = _table(tmp_path, rows=3)
    for step in (99_999_998, 99_999_999, 100_000_000):
        table.append(3, partial(_rows, step))
    assert _steps(tmp_path) == [99_999_998, 99_999_999, 100_000_000]
    cut(tmp_path, 99_999_999)
    assert _steps(tmp_path) == [99_999_998, 99_999_999]


def test_what_waits_is_written_once_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    table = _table(tmp_path, seconds=60, clock=clock)
    for step, now in ((1, 0.0), (2, 59.0), (3, 61.0), (4, 100.0), (5, 122.0)):
        clock.now = now
        table.append(3, partial(_rows, step))
        assert len(_steps(tmp_path)) == {1: 0, 2: 0, 3: 3, 4: 3, 5: 5}[step]


@pytest.mark.parametrize("rows", [12, 1000])
def test_rows_are_added_while_another_thread_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    writing, go = threading.Event(), threading.Event()

    def slowly(path: Path, table: Any) -> None:
        writing.set()
        assert go.wait(20)
        write(path, table)

    write = parts._write
    monkeypatch.setattr(parts, "_write", slowly)
    clock = Clock()
    table = _table(tmp_path, rows=rows, seconds=60, clock=clock)
    _append(table, 1, 2)
    clock.now = 59
    other = threading.Thread(target=table.flush)
    other.start()
    assert writing.wait(20)
    clock.now = 61
    _append(table, 3, 3)  # does not wait: what was due is being written
    assert _steps(tmp_path) == []
    go.set()
    other.join(20)
    assert _steps(tmp_path) == [1, 2]
    _append(table, 4, 9)
    table.close()
    assert _steps(tmp_path) == list(range(1, 10))


def test_rows_that_could_not_be_written_wait_for_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("a file where a folder must be")
    table = _table(tmp_path / "table")
    _append(table, 1, 2)
    with pytest.raises(OSError, match="table"):
        table.flush()
    (tmp_path / "table").unlink()
    _append(table, 3, 3)
    table.flush()
    assert _steps(tmp_path / "table") == [1, 2, 3]


@pytest.mark.parametrize("rows", [3, 12, 1000])
@pytest.mark.parametrize("kills", [[(7, 4)], [(9, 9), (12, 10)], [(5, 0), (13, 12)]])
def test_a_run_that_went_on_has_the_same_rows_as_one_never_touched(
    tmp_path: Path, rows: int, kills: list[tuple[int, int]]
) -> None:
    """Each kill: the last step that came to disk, and the checkpoint that the run goes on from."""
    begin = 1
    for reached, checkpoint in kills:
        table = _table(tmp_path, rows=rows)
        _append(table, begin, reached)
        table.flush()
        cut(tmp_path, checkpoint)
        assert _steps(tmp_path) == list(range(1, checkpoint + 1))
        begin = checkpoint + 1
    table = _table(tmp_path, rows=rows)
    _append(table, begin, 20)
    table.close()
    whole = _table(tmp_path / "whole", rows=rows)
    _append(whole, 1, 20)
    whole.close()
    left, right = read(tmp_path), read(tmp_path / "whole")
    assert left is not None
    assert right is not None
    pd.testing.assert_frame_equal(left.to_pandas(), right.to_pandas())
    assert [name for name in _names(tmp_path) if name != "whole"] == _names(tmp_path / "whole")


def test_a_killed_writer_leaves_whole_parts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    table = read(tmp_path)
    assert table is not None
    steps = table.column("step").to_pylist()
    assert steps == [1 + number // 50 for number in range(len(steps))]
    assert len(steps) >= 5000
    (tmp_path / ".00000001.parquet.tmp").write_bytes(b"half")
    assert len(pd.read_parquet(tmp_path)) == len(steps)
    cut(tmp_path, 70)
    assert _names(tmp_path) == ["00000001.parquet", "00000061.parquet"]
    assert len(pd.read_parquet(tmp_path)) == 70 * 50


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    """The system's limit on the size of a file stands for a full disk."""
    table = _table(tmp_path)
    _append(table, 1, 3)
    table.flush()
    _append(table, 4, 900)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"."):
            table.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _steps(tmp_path) == [1, 2, 3]
    table.flush()
    assert _steps(tmp_path) == list(range(1, 901))


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not Parquet at all"])
def test_a_damaged_part_is_named(tmp_path: Path, damage: bytes) -> None:
    _append(_table(tmp_path, rows=3), 1, 2)
    (tmp_path / "00000002.parquet").write_bytes(damage)
    with pytest.raises(OSError, match=r"00000002\.parquet"):
        read(tmp_path)
    with pytest.raises(OSError, match=r"00000002\.parquet"):
        cut(tmp_path, 2)


def test_nothing_is_written_of_nothing(tmp_path: Path) -> None:
    table = _table(tmp_path / "none")
    table.append(0, lambda: {name: values[:0] for name, values in _rows(1).items()})
    table.close()
    cut(tmp_path / "none", 3)
    assert read(tmp_path / "none") is None
    assert _names(tmp_path) == []


def test_a_step_without_rows_is_none(tmp_path: Path) -> None:
    """A world of 1 has nothing to tell of its ranks."""
    table = PartedTable(tmp_path)
    table.append(0, lambda: {"step": np.empty(0, np.int64)})
    table.close()
    assert list(tmp_path.iterdir()) == []
