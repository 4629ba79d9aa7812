"""Real jobs, launched in every way that opens a store, train on undisturbed while strangers try all that they can."""

from __future__ import annotations

import functools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.horovod.attacks import (
    Address,
    drip,
    pickled,
    request,
    send,
    signed,
    silent_connections,
    status,
    throw,
)
from tests.horovod.running_jobs import command_lines, key_of, processes, store_of, until
from tests.processes.elastic import Elastic
from tests.processes.worlds import (
    BIN,
    Ended,
    begin,
    begin_program,
    end,
    inspect,
    left_over,
    records,
    wait_for_record,
    write_job,
)

pytestmark = pytest.mark.processes

OLD_KEY = os.urandom(32)
SESAME = "sesame"
EPOCHS = 20


class Attack:
    """Strangers who go on, each in a thread of its own, until they are told to stop; counts what they have done."""

    def __init__(self, address: Address, taken: Path, key: bytes) -> None:
        self.address = address
        self.done: Counter[str] = Counter()
        self.let_in: list[str] = []
        self._over = threading.Event()
        pickle, huge = pickled(taken), b"x" * 100_000_000
        paths = ("/worker_addresses/localhost:0", "/runfunc/func", "/global/0", "/distrain.meeting/complete")
        tries: dict[str, Callable[[int], bytes]] = {
            "no token": lambda n: self.send(request("PUT", paths[n % 4], pickle)),
            "read": lambda n: self.send(request("GET", ("/rank_and_size/localhost:0", "/global/0")[n % 2])),
            "a wrong token": lambda n: self.send(request("PUT", paths[n % 4], pickle, "Horovod-Digest: " + "0" * 64)),
            "an old job's token": lambda n: self.send(signed(key, ("PUT", "DELETE")[n % 2], paths[n % 4], pickle)),
            "a huge body": lambda n: self.send(request("PUT", paths[n % 4], huge)),
            "a slow body": self.slowly,
            "a thousand connections": self.silently,
            "at random": self.randomly,
        }
        self._threads = [threading.Thread(target=self._go_on, args=each) for each in tries.items()]
        self._names = set(tries)

    def send(self, data: bytes) -> bytes:
        return send(self.address, data)

    def slowly(self, number: int) -> bytes:
        drip(self.address, request("PUT", "/global/0", b"x" * 1000), 0.3, 3)
        return b""

    def silently(self, number: int) -> bytes:
        with silent_connections(self.address, 1000):
            time.sleep(0.2)
        return b""

    def randomly(self, number: int) -> bytes:
        throw(self.address, random.Random(number), 20)
        return b""

    def _go_on(self, name: str, attempt: Callable[[int], bytes]) -> None:
        number = 0
        while not self._over.is_set():
            try:
                if status(attempt(number)) in (200, 404):
                    self.let_in.append(name)
            except OSError:
                # The job has ended, or this one thread is turned away for now.
                time.sleep(0.05)
            else:
                self.done[name] += 1
            number += 1
            # The machine is the job's too, and what is seen here is not how busy it can be made.
            time.sleep(0.2)

    def __enter__(self) -> Attack:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Each has been tried and none has got in."""
        assert self.let_in == []
        assert set(self.done) == self._names, self.done


def refused(errors: str) -> list[str]:
    return re.findall(r"horovod: the [a-z -]+ refused .* from 127\.0\.0\.1:\d+: .*", errors)


# Takes the place of ssh: writes its command line down and runs what it was to run, here.
SSH = """#!/bin/sh
printf '%s\\n' "$*" >> "$SSH_LOG"
while [ "${1#-}" != "$1" ]; do shift 2; done
shift
while [ "${1#-}" != "$1" ]; do shift 2; done
exec sh -c "$*"
"""


@contextmanager
def watched(process: subprocess.Popen[str]) -> Iterator[set[str]]:
    """The command lines of all processes while another runs."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.update(command_lines())
            time.sleep(0.02)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        for each in processes(process.pid):
            each.kill()


def is_worker(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[1:4] == ["-m", "distrain", "train"]
    except psutil.Error:
        return False


@dataclass(frozen=True)
class Watched:
    """A job that ran to its end: its folder and key, what it said, and the command lines that were seen meanwhile."""

    run: Path
    key: bytes
    ended: Ended
    lines: set[str]


def watch_job(folder: Path, where: str) -> Watched:
    """Run a job whose environment has a secret, `here` or, by ssh, `elsewhere`, with all that horovodrun can log."""
    job = write_job(folder, train={"epochs": EPOCHS if where == "here" else 2})
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(SSH, encoding="utf-8")
    ssh.chmod(0o755)
    command = [str(BIN / "horovodrun"), "--verbose", "--log-level", "TRACE", "--gloo", "-np", "2", "--disable-cache"]
    command += ["--network-interfaces", "lo"]
    # A name that is no host's is taken for one that ssh knows.
    command += ["-H", "no-such-host:2"] if where == "elsewhere" else []
    command += ["env", f"PATH={BIN}:{os.environ['PATH']}", sys.executable, "-m", "distrain", "train", str(job)]
    command += ["--run-dir", str(folder / "run")]
    environment = {
        "PATH": f"{folder / 'bin'}:{BIN}:{os.environ['PATH']}",
        "SSH_LOG": str(folder / "ssh.log"),
        "PASSWORD_OF_MINE": f"open '{SESAME}' \"$HOME\"\\",
    }
    process = begin_program(command, cwd=folder, environment=environment)
    with watched(process) as seen:
        key = key_of(process.pid)
        worker = until(lambda: next((each for each in processes(process.pid) if is_worker(each)), None), "worker")
        assert worker.environ()["PASSWORD_OF_MINE"] == environment["PASSWORD_OF_MINE"]
        ended = end(process)
    assert ended.code == 0, ended
    return Watched(folder / "run", key, ended, seen)


@pytest.fixture(scope="module")
def watched_job(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Watched]:
    return functools.cache(lambda where: watch_job(tmp_path_factory.mktemp(where), where))


def test_a_job_trains_on_undisturbed_and_tells_who_was_refused(
    watched_job: Callable[[str], Watched], tmp_path: Path
) -> None:
    """To the same bits as one that nobody disturbs; that earlier job's token is among what is tried."""
    undisturbed = watched_job("here")
    assert refused(undisturbed.ended.errors) == []

    job = write_job(tmp_path, train={"epochs": EPOCHS})
    attacked, taken = tmp_path / "attacked", tmp_path / "taken"
    process = begin("launch", job, "--run-dir", attacked, cwd=tmp_path)
    try:
        with Attack(store_of(process.pid), taken, undisturbed.key) as attack:
            assert key_of(process.pid) != undisturbed.key
            ended = end(process)
    finally:
        process.kill()
    assert ended.code == 0, ended
    attack.check()
    assert not taken.exists()
    for name in ("weights_sha256", "optimizer_sha256", "gradient_mean_sha256", "step", "finished"):
        assert inspect(attacked)[name] == inspect(undisturbed.run)[name]
    lines = refused(ended.errors)
    assert any("refused PUT /worker_addresses/localhost:0 HTTP/1.1 from" in line for line in lines), ended.errors
    assert left_over(attacked) == []


@pytest.mark.soak
def test_an_elastic_world_is_formed_anew_under_attack(tmp_path: Path) -> None:
    """While a worker is killed: then all others ask the store for their places, and find each other there."""
    job = write_job(tmp_path, train={"epochs": 15}, log={"predictions": 0, "tensorboard": False})
    elastic = Elastic(tmp_path, job, size=2)
    taken = tmp_path / "taken"
    try:
        with Attack(store_of(elastic.process.pid), taken, OLD_KEY) as attack:
            wait_for_record(elastic.run, "step", 3, elastic.process)
            elastic.kill(1)
            ended = end(elastic.process)
    finally:
        elastic.process.kill()
    assert ended.code == 0, ended
    assert elastic.worlds()[:2] == [2, 1]
    assert [record["step"] for record in records(elastic.run, "step")] == list(range(1, 121))
    attack.check()
    assert not taken.exists()
    assert refused(ended.errors)


FUNCTION = """
import sys

import horovod


def work(factor):
    import os

    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    total = hvd.allreduce(tf.constant([hvd.rank() + 1.0]), op=hvd.Sum)
    assert "_HOROVOD_JOB_KEY" in os.environ
    return factor * int(total.numpy()[0])


if __name__ == "__main__":
    print(horovod.run(work, args=(7,), num_proc=2, **{sys.argv[1]: True}))
"""


@pytest.mark.soak
@pytest.mark.parametrize("controller", ["use_gloo", "use_mpi"])
def test_functions_are_run_and_their_results_come_back_under_attack(controller: str, tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(FUNCTION, encoding="utf-8")
    taken = tmp_path / "taken"
    process = begin_program([sys.executable, "function.py", controller], cwd=tmp_path)
    try:
        address = until(lambda: listening_in(process.pid), "store")
        with Attack(address, taken, OLD_KEY) as attack:
            ended = end(process)
    finally:
        process.kill()
    assert ended.code == 0, ended
    assert ended.output.splitlines()[-1] == "[21, 21]"
    attack.check()
    assert not taken.exists()
    assert refused(ended.errors)


def listening_in(pid: int) -> tuple[str, int] | None:
    """What the process itself listens on, beside none of its children."""
    connections = psutil.Process(pid).net_connections("tcp")
    found = [connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN]
    assert all(each.ip == "127.0.0.1" for each in found)
    return (found[0].ip, found[0].port) if found else None


# --- where the key is not --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["here", pytest.param("elsewhere", marks=pytest.mark.soak)])
def test_neither_key_nor_environment_is_in_a_command_line_or_a_log(
    where: str, watched_job: Callable[[str], Watched]
) -> None:
    """Neither here nor, by ssh, on another host; with all that horovodrun can log."""
    found = watched_job(where)
    assert any(str(found.run) in line for line in found.lines)
    texts = [*found.lines, found.ended.output, found.ended.errors]
    if where == "elsewhere":
        texts.append((found.run.parent / "ssh.log").read_text(encoding="utf-8"))
        assert "no-such-host" in texts[-1]
    texts += [path.read_text("latin-1") for path in found.run.rglob("*") if path.is_file()]
    for secret in (found.key.hex(), SESAME):
        assert not [text for text in texts if secret in text]


@pytest.mark.soak
def test_the_hosts_of_a_job_are_compared_without_the_key_in_a_command_line(tmp_path: Path) -> None:
    """Where no interface is named, horovodrun starts a service on each host that finds those that all can reach."""
    (tmp_path / "ssh").write_text(SSH, encoding="utf-8")
    (tmp_path / "ssh").chmod(0o755)
    program = (
        "import sys\n"
        "from horovod.runner.common.util import secret, settings, timeout\n"
        "from horovod.runner.driver import driver_service\n"
        "key = secret.make_secret_key()\n"
        "wait = timeout.Timeout(60, 'no {activity}')\n"
        "asked = settings.Settings(num_proc=2, verbose=2, key=key, start_timeout=wait, hosts='a:1,localhost:1')\n"
        "nics = driver_service.get_common_interfaces(asked, ['a', 'localhost'], ['a'])\n"
        "print('found', *sorted(nics), key.hex())\n"
    )
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SSH_LOG": str(tmp_path / "log")}
    process = begin_program([sys.executable, "-c", program], cwd=tmp_path, environment=environment)
    with watched(process) as seen:
        ended = end(process)
    assert ended.code == 0, ended
    (found,) = [line for line in ended.output.splitlines() if line.startswith("found ")]
    *nics, key = found.split()[1:]
    assert "lo" in nics
    # As it was passed: pickled, in base64, of which any three bytes are four digits.
    parts = {base64_of(bytes.fromhex(key)[start:])[:36] for start in range(3)} | {key}
    told = [*seen, (tmp_path / "log").read_text(encoding="utf-8"), ended.errors, ended.output.replace(found, "")]
    everything = "\n".join(told)
    assert "horovod.runner.task_fn" in everything
    assert not [part for part in parts if part in everything]


def base64_of(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


# --- for long --------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_random_requests(tmp_path: Path) -> None:
    """Against the store of an elastic job that loses a worker meanwhile, and goes on until it is stopped."""
    job = write_job(tmp_path, train={"epochs": 100_000}, log={"predictions": 0, "tensorboard": False})
    elastic = Elastic(tmp_path, job, size=2)
    counts: list[int] = []
    try:
        address = store_of(elastic.process.pid)
        throwing = [
            threading.Thread(target=lambda seed=seed: counts.append(throw(address, random.Random(seed), 50_000)))
            for seed in range(2)
        ]
        for thread in throwing:
            thread.start()
        wait_for_record(elastic.run, "step", 3, elastic.process)
        elastic.kill(1)
        for thread in throwing:
            thread.join()
        before = len(records(elastic.run, "step"))
        elastic.steps(20)
        elastic.process.send_signal(signal.SIGTERM)
        ended = end(elastic.process)
    finally:
        elastic.process.kill()
    assert ended.code == 75, ended
    assert sum(counts) >= 100_000
    assert inspect(elastic.run)["step"] >= before
    steps: list[Any] = [record["step"] for record in records(elastic.run, "step")]
    assert steps == list(range(1, len(steps) + 1))
