"""A launcher and three workers as pods of the rendered manifests: trained, drained, cut off, killed, taken up again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clusters import hosts, pods
from tests.clusters.hosts import Host, Network
from tests.clusters.pods import Image, Job
from tests.processes.worlds import inspect, records

# For an idle machine a minute would do.
STARTS, ENDS = 900.0, 240.0
# Few and small steps: of eight of the 64 examples, so that eight are an epoch.
STEPS = 40
SMALL = f"train.epochs=null train.steps={STEPS} data.train.examples=64 data.train.size=92 data.validation.examples=4"
SMALL += " data.validation.size=92 checkpoint.every=4 log.every=1 log.examples=true"
FEW = [part for override in SMALL.split() for part in ("-o", override)]
# Whole epochs, and more than are made while a pod is asked to end and does so.
MORE = 1504

pytestmark = [pytest.mark.clusters, pytest.mark.timeout(3000)]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    reason = hosts.why_not() or pods.why_not()
    if reason is not None:
        pytest.skip(reason)
    with pods.image() as mounted:
        yield mounted


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with hosts.network(tmp_path / "network") as made:
        yield made


def until(reached: Callable[[], bool], launcher: Host, seconds: float = STARTS) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert launcher.first is not None
        assert launcher.first.poll() is None, f"ended with {launcher.first.poll()}: {launcher.log[-3000:]}"
        assert time.monotonic() < deadline, launcher.log[-3000:]
        time.sleep(0.1)


def step(run: Path) -> int:
    found = records(run, "step") if (run / "metrics.jsonl").exists() else []
    return int(found[-1]["step"]) if found else 0


def examples(run: Path) -> list[int]:
    """All examples that were drawn, by all ranks, in no order."""
    lines = [line for path in (run / "examples").glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(index for line in lines for index in json.loads(line)["indices"])


def seen_equally(run: Path, steps: int = STEPS) -> bool:
    """Whether every example was seen once an epoch."""
    return examples(run) == sorted(steps // 8 * list(range(64)))


def test_mpirun(image: Image, network: Network, tmp_path: Path) -> None:
    job = Job(network, image, "cpu-smoke", tmp_path, overrides=FEW)
    run = job.runs / "smoke"

    # Drained: every pod is asked to end, the workers stop, saved, and the launcher says so.
    job.start_workers()
    launcher = job.launch()
    until(lambda: step(run) >= 2, launcher)
    for pod in job.pods.values():
        pod.terminate()
    assert pods.ended(launcher, ENDS) == 75, launcher.log
    assert [pods.ended(job.pods[name], ENDS) for name in job.workers] == [0, 0, 0]
    saved = inspect(run)
    assert (saved["finished"], saved["world_size"], saved["step"] >= 2) == (False, 3, True)

    # A link is cut: the run ends everywhere, since nobody can know more.
    job.start_workers()
    launcher = job.launch()
    until(lambda: step(run) >= saved["step"] + 1, launcher)
    job.pods[job.workers[2]].cut()
    begin = time.monotonic()
    assert pods.ended(launcher, ENDS) == 1, launcher.log
    print(f"link cut: the launcher ended after {time.monotonic() - begin:.0f} s")
    job.pods[job.workers[2]].join()
    until_no_workers(job)

    # A host dies: so does the run, with a failure.
    launcher = job.launch()
    before = step(run)
    until(lambda: step(run) > before, launcher)
    job.pods[job.workers[1]].kill()
    begin = time.monotonic()
    assert pods.ended(launcher, ENDS) == 1, launcher.log
    print(f"host killed: the launcher ended after {time.monotonic() - begin:.0f} s")
    until_no_workers(job)

    # The host is back only after the launcher, which waits for it; the run goes on to its end.
    launcher = job.launch()
    time.sleep(3)
    job.start_workers(job.workers[1])
    assert pods.ended(launcher, STARTS) == 0, launcher.log
    done = inspect(run)
    assert (done["finished"], done["step"], done["world_size"]) == (True, STEPS, 3)
    assert [record["step"] for record in records(run, "step")] == list(range(1, STEPS + 1))
    assert seen_equally(run)


def until_no_workers(job: Job) -> None:
    """Wait until no host has a process of the run any more."""
    deadline = time.monotonic() + ENDS
    program = "import sys; from distrain.launcher.processes import started; print(len(started(None)))"
    for name in job.workers:
        if job.running(name):
            while job.pods[name].run("python", "-c", program).strip() != "0":
                assert time.monotonic() < deadline, f"{name} still has workers"
                time.sleep(0.5)


def test_elastic_horovodrun(image: Image, network: Network, tmp_path: Path) -> None:
    job = Job(network, image, "elastic", tmp_path, overrides=[*FEW, "-o", f"train.steps={MORE}"])
    run = job.runs / "elastic"
    one, two, three = job.workers

    # A host dies, the others go on from memory.
    job.start_workers()
    launcher = job.launch()
    until(lambda: step(run) >= 2, launcher)
    job.pods[two].kill()
    job.discover([one, three])
    before = step(run)
    until(lambda: step(run) >= before + 3, launcher)

    # The launcher is drained: its workers, all of them on other hosts, stop and save.
    launcher.terminate()
    assert pods.ended(launcher, ENDS) == 75, launcher.log
    until_no_workers(job)
    saved = inspect(run)
    assert (saved["finished"], saved["world_size"]) == (False, 2)

    # Again with the third, whose link is cut: the others go on without it.
    job.start_workers(two)
    launcher = job.launch()
    until(lambda: step(run) > saved["step"], launcher)
    job.pods[two].cut()
    job.discover([one, three])
    before = step(run)
    until(lambda: step(run) > before + 1, launcher)

    # Another's pod is to end: it leaves, and the last goes on to the end.
    job.pods[three].terminate()
    assert pods.ended(job.pods[three], ENDS) == 0
    job.discover([one])
    assert pods.ended(launcher, 2 * STARTS) == 0, launcher.log
    done = inspect(run)
    assert (done["finished"], done["step"], done["world_size"]) == (True, MORE, 1)
    assert [record["step"] for record in records(run, "step")] == list(range(1, MORE + 1))
    assert seen_equally(run, MORE)
    job.pods[two].join()
    until_no_workers(job)


def test_a_host_that_does_not_come_is_waited_for_so_long(image: Image, network: Network, tmp_path: Path) -> None:
    job = Job(network, image, "cpu-smoke", tmp_path, overrides=FEW)
    (container,) = job.spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    container["args"] = ["--wait", "5", *container["args"][2:]]
    job.start_workers(*job.workers[:2])
    launcher = job.launch()
    assert pods.ended(launcher, ENDS) == 2, launcher.log
    assert "2 of 3 hosts answer by ssh after 5 s, expected all 3" in launcher.log
