"""The log of JSON lines: whole records, also after a kill, and cut back to a checkpoint."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from distrain.log.records import RecordLog, cut, read

KILLED_WHILE_WRITING = """
import sys
from pathlib import Path
from distrain.log.records import RecordLog
log = RecordLog(Path(sys.argv[1]))
step = 0
while True:
    step += 1
    log.write(step=step, indices=list(range(300)))
    if step == 20:
        print("writing", flush=True)
"""


def _log(path: Path, *records: dict[str, object]) -> Path:
    log = RecordLog(path)
    for record in records:
        log.write(**record)
    log.close()
    return path


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "text": "ü\nline", "none": None}]
    path = _log(tmp_path / "new" / "log.jsonl", *records)
    assert list(read(path)) == records
    assert len(path.read_bytes().splitlines()) == 2
    assert _log(path, {"step": 3}) == path
    assert [record["step"] for record in read(path)] == [1, 2, 3]


def test_a_timed_record_begins_with_its_kind_and_ends_with_the_time(tmp_path: Path) -> None:
    log = RecordLog(tmp_path / "log.jsonl", clock=lambda: 1234.56789)
    log.write_timed("step", step=7, loss=0.5)
    log.close()
    assert (tmp_path / "log.jsonl").read_text() == '{"kind": "step", "step": 7, "loss": 0.5, "time": 1234.568}\n'


def test_no_log_has_no_records(tmp_path: Path) -> None:
    assert list(read(tmp_path / "none.jsonl")) == []
    assert cut(tmp_path / "none.jsonl", 3) == 0
    assert not (tmp_path / "none.jsonl").exists()


def test_half_a_line_is_not_read_and_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    path = _log(tmp_path / "log.jsonl", {"position": 1}, {"position": 2})
    path.write_bytes(path.read_bytes() + b'{"position": 3, "lo')
    assert [record["position"] for record in read(path)] == [1, 2]
    cut(path, 2)
    _log(path, {"position": 3})
    assert path.read_text() == '{"position": 1}\n{"position": 2}\n{"position": 3}\n'


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
    steps = [json.loads(line)["step"] for line in path.read_bytes().splitlines()]
    assert len(steps) >= 20
    assert steps == list(range(1, len(steps) + 1))


def test_a_record_that_does_not_fit_is_absent_and_told(tmp_path: Path) -> None:
    """The system's limit on the size of a file stands for a full disk: the write comes back short."""
    path = _log(tmp_path / "log.jsonl", {"step": 1})
    log = RecordLog(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="no space"):
            log.write(step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == '{"step": 1}\n'
    log.write(step=3)
    log.close()
    assert [record["step"] for record in read(path)] == [1, 3]


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"."):
        RecordLog(tmp_path / "file" / "log.jsonl")


@pytest.mark.parametrize(
    ("position", "left", "removed"), [(0, [], 4), (1, [1], 3), (2, [1, 2, 2], 1), (9, [1, 2, 2, 3], 0)]
)
def test_what_is_after_the_checkpoint_is_cut_off(tmp_path: Path, position: int, left: list[int], removed: int) -> None:
    kinds = ["step", "step", "epoch", "step"]
    records = [{"kind": kind, "position": number} for kind, number in zip(kinds, [1, 2, 2, 3], strict=True)]
    path = _log(tmp_path / "log.jsonl", *records)
    assert cut(path, position) == removed
    assert [record["position"] for record in read(path)] == left
    assert os.listdir(tmp_path) == ["log.jsonl"]


def test_cutting_leaves_every_digit(tmp_path: Path) -> None:
    path = _log(
        tmp_path / "log.jsonl", {"position": 1, "loss": 0.1 + 0.2, "small": 5e-324, "text": "ü"}, {"position": 2}
    )
    first = path.read_bytes().splitlines()[0]
    cut(path, 1)
    assert path.read_bytes().splitlines() == [first]


def test_starts_and_stops_stay_what_is_done_again_goes(tmp_path: Path) -> None:
    """A step that was skipped after the checkpoint has the checkpoint's number; it comes again, and is told again."""
    events = [("started", 0, 0), ("skipped", 2, 12), ("stopped", 2, 20), ("resumed", 2, 16), ("skipped", 2, 20)]
    fields = ({"kind": "event", "event": name, "step": step, "position": position} for name, step, position in events)
    path = _log(tmp_path / "log.jsonl", *fields)
    cut(path, 16)
    assert [record["event"] for record in read(path)] == ["started", "skipped", "stopped", "resumed"]
