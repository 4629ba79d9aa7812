"""Every socket of a running job that a stranger could connect to is in docs/security.md, however it was launched."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.horovod.running_jobs import listening
from tests.processes.elastic import Elastic
from tests.processes.worlds import BIN, WAYS, begin_program, end, write_job

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
MARK = "<!-- read by tests/horovod/test_listening.py -->\n"

# As the page calls them: what starts a job that runs until it is stopped.
DISTRAIN = [sys.executable, "-m", "distrain"]
STARTS: dict[str, list[str]] = {
    "distrain train": DISTRAIN,
    "distrain launch": WAYS["launch"],
    "distrain launch --controller mpi": WAYS["launch-mpi"],
    "horovodrun --gloo": [str(BIN / "horovodrun"), "--gloo", "-np", "2", *DISTRAIN],
    "horovodrun --mpi": WAYS["horovodrun-mpi"],
    "mpirun": WAYS["mpirun"],
    "distrain launch --elastic": [],
}
ADDRESSES = {"127.0.0.1": "loopback", "::1": "loopback", "0.0.0.0": "all", "::": "all"}  # noqa: S104

# A process, the addresses that it listens on, and when.
Row = tuple[str, str, str]


def table() -> list[list[str]]:
    """The cells of the page's table, row by row."""
    lines = PAGE.read_text(encoding="utf-8").split(MARK)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def documented(way: str) -> set[Row]:
    return {(row[1], row[2], row[3]) for row in table() if f"`{way}`" in row[0].split(", ")}


def start(way: str, folder: Path) -> tuple[Path, subprocess.Popen[str]]:
    """Start a job that has more steps than it will make."""
    job = write_job(folder, train={"epochs": 100_000}, log={"predictions": 0, "tensorboard": False})
    if way == "distrain launch --elastic":
        elastic = Elastic(folder, job, size=2)
        return elastic.run, elastic.process
    run = folder / "run"
    return run, begin_program([*STARTS[way], "train", str(job), "--run-dir", str(run)], cwd=folder)


def found_until(pid: int, over: Callable[[], bool]) -> set[tuple[str, str]]:
    """All that a job listens on at any time until then."""
    found = set()
    while not over():
        found |= {(each.process, ADDRESSES.get(each.host, each.host)) for each in listening(pid)}
        # Looking takes a while itself; what workers of Open MPI that poll leave of two cores, they need.
        time.sleep(0.2)
    return found


# The one that people use; all others have their turn in the soak.
@pytest.mark.parametrize(
    "way", [way if way == "distrain launch" else pytest.param(way, marks=pytest.mark.soak) for way in STARTS]
)
def test_what_listens_is_documented(way: str, tmp_path: Path) -> None:
    run, process = start(way, tmp_path)

    def steps() -> int:
        assert process.poll() is None, "ended too soon"
        log = run / "metrics.jsonl"
        return log.read_text(encoding="utf-8").count('"kind": "step"') if log.exists() else 0

    try:
        forming = found_until(process.pid, lambda: steps() > 0)
        begun = steps()
        running = found_until(process.pid, lambda: steps() > begun + 5)
    finally:
        process.send_signal(signal.SIGTERM)
        end(process)
    expected = documented(way)
    always = {(name, address) for name, address, when in expected if when == "always"}
    while_forming = {(name, address) for name, address, when in expected if when == "forming"}
    assert running == always
    assert always <= forming <= always | while_forming


def test_the_page_says_of_each_what_it_is_and_who_may() -> None:
    rows = table()
    assert rows
    for row in rows:
        assert len(row) == 7
        assert all(row)
        assert row[3] in ("always", "forming")
        assert {way.strip("`") for way in row[0].split(", ")} <= set(STARTS)
