"""A few of the faults of `make soak`, and those that have to look a certain way, against real worlds."""

from __future__ import annotations

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.harness import STALL_SECONDS, Bench, Case, World, differences
from tests.processes.worlds import begin_program, end, inspect, left_over, records, wait_for_record

# On one worker, which starts the runs that all are compared with once.
pytestmark = pytest.mark.processes

ALONE = World(1, "alone")
TWO = World(2, "gloo")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"))


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers that a launch has started, by rank."""
    children = psutil.Process(process.pid).children(recursive=True)
    own = [child for child in children if child.cmdline()[1:4] == ["-m", "distrain", "train"]]
    return sorted(own, key=lambda child: int(child.environ()["HOROVOD_RANK"]))


@pytest.mark.parametrize("fault", ["before the rename", pytest.param("during restore", marks=pytest.mark.soak)])
def test_killed_where_it_hurts(fault: str, bench: Bench) -> None:
    case, run = Case(fault, ALONE, seed=4), bench.folder / fault.replace(" ", "-")
    assert all(code != 0 for code in bench.trouble(case, run))
    assert bench.finish(case, run).code == 0
    assert differences(run, bench.whole(ALONE)[0]) == []


def test_a_damaged_checkpoint_is_named_and_all_ranks_use_the_one_before(bench: Bench) -> None:
    """It is the last, so that the run was at its end, and goes on all the same."""
    run, whole = bench.folder / "damaged", bench.whole(TWO)[0]
    shutil.copytree(whole, run)
    newest = max((run / "checkpoints").glob("step_*"))
    file = newest / "state.data-00000-of-00001"
    content = bytearray(file.read_bytes())
    place = random.Random(3).randrange(len(content))
    content[place] ^= 16
    file.write_bytes(content)
    ended = bench.start(TWO, run)
    assert ended.code == 0, ended
    assert f"passed over {newest}: {file.name} does not match its sha256" in ended.output
    assert differences(run, whole) == []


def test_a_stopped_rank_is_noticed_and_each_shows_where_it_stands(bench: Bench) -> None:
    run = bench.folder / "stopped"
    # One epoch without end: what the ranks wait for each other in is a step.
    endless = ["-o", "data.train.examples=50000", "-o", "train.epochs=1", "-o", "checkpoint.every=50000"]
    process = begin_program([*TWO.command, "train", str(bench.job), "--run-dir", str(run), *endless])
    wait_for_record(run, "step", 3, process)
    since = time.monotonic()
    workers(process)[1].send_signal(signal.SIGSTOP)
    ended = end(process, 60)
    assert time.monotonic() - since < STALL_SECONDS + 30
    assert ended.code == 1, ended
    assert "rank 0 stands still, this is where:" in ended.errors
    stacks = re.split(r"^(?:Current thread|Thread) .*$", ended.errors, flags=re.MULTILINE)
    (main,) = [stack for stack in stacks if "in <module>" in stack]
    assert re.search(r'File ".*/trainer\.py", line \d+ in make_step$', main, re.MULTILINE), main
    last = ended.errors.splitlines()[-1]
    waited = re.match(r"distrain: rank 0: no progress for (\d+) s after step ", last)
    assert waited is not None, last
    assert int(waited[1]) >= STALL_SECONDS
    assert ", in a step; it waits for another rank" in last
    assert left_over(run) == []


def test_restarts_bring_a_killed_run_to_its_end(bench: Bench) -> None:
    run = bench.folder / "restarted"
    command = TWO.command
    command.insert(command.index("launch") + 1, "--restarts=2")
    process = begin_program([*command, "train", str(bench.job), "--run-dir", str(run), "--fresh"])
    wait_for_record(run, "step", 5, process)
    # A thread of low priority writes the first one.
    while not any((run / "checkpoints").glob("step_*")):
        time.sleep(0.01)
    workers(process)[0].kill()
    ended = end(process)
    assert ended.code == 0, ended
    assert "rank 0 was killed (SIGKILL" in ended.errors
    # One each 3 steps; how many it had come to is a matter of moments.
    restarted = re.search(r"restart 1 of 2 in 1 s, from the checkpoint of step (\d+)\n", ended.errors)
    assert restarted is not None
    assert int(restarted[1]) in range(3, 24, 3)
    assert differences(run, bench.whole(TWO)[0]) == []


def test_a_second_interrupt_ends_all_at_once(bench: Bench) -> None:
    run = bench.folder / "interrupted"
    process = begin_program([*TWO.command, "train", str(bench.job), "--run-dir", str(run), "-o", "train.epochs=500"])
    wait_for_record(run, "step", 3, process)
    # The ranks do not come to the end of their step.
    for worker in workers(process):
        worker.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    assert end(process, 30).code == 1
    assert time.monotonic() - since < 3
    assert left_over(run) == []


HUNGRY = """
import os
import resource

import numpy as np
from distrain.data.circles import Circles


class Hungry(Circles):
    def read(self, index):
        if index == 17 and os.environ.get("HOROVOD_RANK", "0") == "1":
            size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), -1))
            try:
                np.ones(1 << 30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        return super().read(index)


def provider():
    return Hungry(examples=50, size=60, seed=1, discs=3, radius=(3, 9), border=5, noise=20.0)
"""


def test_a_rank_out_of_memory_ends_all_with_its_message_last(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY, encoding="utf-8")
    (tmp_path / "job.yaml").write_text(
        "data: {train: {provider: 'hungry:provider'}}\nmodel: {layers: 2, features: 4}\n"
    )
    arguments = ["train", "job.yaml", "--run-dir", str(tmp_path / "run"), "-o", "train.batch_size=7"]
    ended = end(begin_program([*TWO.command, *arguments], cwd=tmp_path), 60)
    assert ended.code == 1, ended
    message = "MemoryError: Unable to allocate 8.00 GiB"
    last = ended.errors.splitlines()[-1]
    assert last.startswith("distrain: rank 1, after step ")
    assert message in last
    assert ended.errors.count("distrain: ") == 1
    assert left_over(tmp_path / "run") == []


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 3 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_the_log_fills_ends_the_run_in_one_line(bench: Bench, disk: Path) -> None:
    """Pictures and TensorBoard's events are not written by Python, which would raise what it raises elsewhere."""
    (disk / "others").write_bytes(bytes((3 << 20) - (48 << 10)))
    arguments = ["train", str(bench.job), "--run-dir", str(disk / "run"), "-o", "checkpoint.on_error=continue"]
    shown = ["-o", "log.predictions=4", "-o", "log.tensorboard=true"]
    ended = end(begin_program([*ALONE.command, *arguments, *shown]), 120)
    assert ended.code == 1, ended
    (line,) = ended.errors.splitlines()
    assert line.startswith("distrain: ")
    assert "No space left on device" in line
    (disk / "others").unlink()
    assert bench.start(ALONE, disk / "run").code == 0
    assert differences(disk / "run", bench.whole(ALONE)[0]) == []


@pytest.mark.parametrize(("choice", "code"), [("stop", 1), pytest.param("continue", 1, marks=pytest.mark.soak)])
def test_a_full_disk_stops_the_run_or_not_as_chosen(choice: str, code: int, bench: Bench, disk: Path) -> None:
    """The last checkpoint has to be there for a good end, whatever was chosen."""
    (disk / "others").write_bytes(bytes((3 << 20) - (1 << 20) - 150_000))
    more = ["-o", f"checkpoint.on_error={choice}", "-o", "checkpoint.keep=10"]
    ended = end(begin_program([*ALONE.command, "train", str(bench.job), "--run-dir", str(disk / "run"), *more]), 120)
    assert ended.code == code, ended
    last = ended.errors.splitlines()[-1]
    assert "cannot be written" in last
    assert "No space left on device" in last
    summary = inspect(disk / "run")
    assert all(checkpoint["valid"] for checkpoint in summary["checkpoints"])
    assert summary["step"] > 0
    steps = len(records(disk / "run", "step"))
    failures = [event for event in records(disk / "run", "event") if event["event"] == "checkpoint_failed"]
    if choice == "stop":
        assert steps < 24
        assert not failures
    else:
        assert steps == 24
        assert failures
    (disk / "others").unlink()
    assert bench.start(ALONE, disk / "run").code == 0
    assert differences(disk / "run", bench.whole(ALONE)[0]) == []
