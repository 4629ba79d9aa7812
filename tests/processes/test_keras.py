"""Keras programs written for Horovod, with `import distrain.keras as hvd` in place of Horovod's import."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.processes.worlds import BIN, Ended, begin_program, end

PROGRAMS = Path(__file__).parent / "programs"
HOROVODS = "import horovod.tensorflow.keras as hvd\n"
OURS = "import distrain.keras as hvd\n"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.processes


def run(ranks: int, program: Path, folder: Path) -> Ended:
    """Run a program in a world of so many ranks, with a folder to leave files in."""
    world = [str(BIN / "horovodrun"), "--gloo", "--network-interfaces", "lo", "-np", str(ranks)] if ranks > 1 else []
    command = [*world, sys.executable, str(program), str(folder)]
    return end(begin_program(command, cwd=folder, environment={"PYTHONPATH": str(ROOT)}))


def digits(folder: Path, *replacements: tuple[str, str]) -> Path:
    """The digits program with some of its text replaced."""
    text = (PROGRAMS / "horovod_digits.py").read_text(encoding="utf-8")
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    return path


def weights(folder: Path, place: str) -> list[npt.NDArray[np.float64]]:
    with np.load(folder / f"weights_{place}.npz") as arrays:
        return list(arrays.values())


def history(folder: Path, place: str) -> dict[str, list[float]]:
    result: dict[str, list[float]] = json.loads((folder / f"history_{place}.json").read_text())
    return result


def equal(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_with_its_import_changed_ranks_train_as_one(tmp_path: Path) -> None:
    program = digits(tmp_path, (HOROVODS, OURS))
    for ranks in (1, 2):
        ended = run(ranks, program, tmp_path)
        assert ended.code == 0, ended.errors[-3000:]
    assert equal(weights(tmp_path, "0_of_2"), weights(tmp_path, "1_of_2"))
    alone, together = history(tmp_path, "0_of_1"), history(tmp_path, "0_of_2")
    assert history(tmp_path, "1_of_2") == together
    assert len(together["loss"]) == 50
    assert together["loss"][-1] < 0.5 * together["loss"][0]
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-10)
    one, two = (np.concatenate([each.ravel() for each in weights(tmp_path, place)]) for place in ("0_of_1", "0_of_2"))
    assert np.linalg.norm(one - two) < 1e-10 * np.linalg.norm(one)


@pytest.mark.soak
def test_with_horovods_own_wrapper_ranks_end_apart(tmp_path: Path) -> None:
    """Why `distrain.keras` is there: Keras 3 calls none of the methods that Horovod's wrapper overrides.

    Nothing says so where the program does without Horovod's callbacks and saves no checkpoint, which fail.
    """
    broadcast = "    hvd.callbacks.BroadcastGlobalVariablesCallback(0),\n"
    program = digits(
        tmp_path,
        (HOROVODS, f"{OURS}import horovod.tensorflow.keras as horovods\n"),
        ("opt = hvd.DistributedOptimizer(", "opt = horovods.DistributedOptimizer("),
        (broadcast, ""),
        ("# Train the model", "hvd.broadcast_variables(model.weights, root_rank=0)\n# Train the model"),
        ("if hvd.rank() == 0:", "if False:  # no checkpoints"),
    )
    ended = run(2, program, tmp_path)
    if ended.code != 0:
        # A Horovod that says so instead.
        assert "Keras 3" in ended.output + ended.errors, ended.errors[-3000:]
        return
    assert not equal(weights(tmp_path, "0_of_2"), weights(tmp_path, "1_of_2"))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cases leave behind in worlds of 1 and of 2."""
    folder = tmp_path_factory.mktemp("cases")
    for ranks in (1, 2):
        ended = run(ranks, PROGRAMS / "keras_cases.py", folder)
        assert ended.code == 0, ended.errors[-3000:]
    return folder


def left(folder: Path, case: str, place: str) -> npt.NDArray[np.float64]:
    """The weights that a case has ended with, one after the other."""
    with np.load(folder / f"{case}_{place}.npz") as arrays:
        return np.concatenate([array.ravel().astype(np.float64) for array in arrays.values()])


def apart(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(one))


SAME = {
    "a_share_of_nothing": 1e-10,
    "accumulated": 1e-10,
    "accumulated_in_one": 1e-10,
    "clipped": 1e-10,
    "compressed": 1e-2,
    "drawn": 1e-10,
    "eagerly": 1e-10,
    "half_precision": 1e-2,
    "measured": 1e-10,
    "own_training_step": 1e-10,
    "reloaded": 1e-10,
    "several_steps_per_execution": 1e-10,
    "shared": 1e-10,
    "sparse": 1e-10,
    "synchronized": 1e-10,
    "uneven_shares": 1e-10,
    "without_xla": 1e-10,
}
# What a rank does with its own examples alone makes a difference here.
OTHERWISE = ("batch_normalized", "resumed", "with_dropout")


@pytest.mark.parametrize("case", [*SAME, *OTHERWISE])
def test_ranks_end_with_equal_bits(cases: Path, case: str) -> None:
    ours = left(cases, case, "0_of_2")
    assert np.isfinite(ours).all()
    assert np.array_equal(ours, left(cases, case, "1_of_2"))


@pytest.mark.parametrize(("case", "most"), SAME.items())
def test_ranks_train_as_one(cases: Path, case: str, most: float) -> None:
    assert apart(left(cases, case, "0_of_1"), left(cases, case, "0_of_2")) < most


def test_several_backward_passes_are_one_of_a_larger_batch(cases: Path) -> None:
    assert apart(left(cases, "accumulated", "0_of_2"), left(cases, "accumulated_in_one", "0_of_2")) < 1e-10


def test_the_learning_rate_warms_up_with_the_number_of_ranks(cases: Path) -> None:
    np.testing.assert_allclose(left(cases, "warmed_up", "0_of_1"), 0.1)
    expected = 0.1 / 2 * (np.arange(1, 13) / 6 / 2 + 1)
    np.testing.assert_allclose(left(cases, "warmed_up", "1_of_2"), expected)


def example() -> str:
    """The example of the documentation."""
    page = (ROOT / "docs" / "keras.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# digits.py.*?)```", page, re.DOTALL)
    return str(code)


def run_example(folder: Path, code: str) -> Ended:
    folder.mkdir(exist_ok=True)
    (folder / "digits.py").write_text(code, encoding="utf-8")
    launch = [sys.executable, "-m", "distrain", "launch", "-n", "2", "--", "digits.py"]
    return end(begin_program(launch, cwd=folder, environment={"PYTHONPATH": str(ROOT)}))


def manifest(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint of the example says of itself."""
    newest = max((folder / "digits" / "checkpoints").iterdir())
    result: dict[str, Any] = json.loads((newest / "manifest.json").read_text())
    return result


KILLED = """
if hvd.rank() == 1:
    import os
    import signal

    class Killed(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 55:
                os.kill(os.getpid(), signal.SIGKILL)

    callbacks.append(Killed())
"""


@pytest.mark.soak
def test_the_documented_example_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_example(whole, example()).code == 0
    assert run_example(parts, example().replace("folder.mkdir", f"{KILLED}\nfolder.mkdir")).code != 0
    ended = run_example(parts, example())
    assert ended.code == 0, ended.errors[-3000:]
    assert "Epoch 1/4" not in ended.output
    for name in ("progress", "finished", "weights_sha256", "optimizer_sha256", "gradient_mean_sha256"):
        assert manifest(whole)[name] == manifest(parts)[name]


@pytest.mark.soak
def test_killed_and_stopped_in_fit_a_program_ends_with_the_same_bits(tmp_path: Path) -> None:
    """A rank is killed, and when the program was started again its launcher is asked to stop."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def begin(folder: Path) -> subprocess.Popen[str]:
        launch = [sys.executable, "-m", "distrain", "launch", "-n", "2", "--"]
        program = [str(PROGRAMS / "keras_goes_on.py"), str(folder)]
        return begin_program([*launch, *program], cwd=folder, environment={"PYTHONPATH": str(ROOT)})

    def made(folder: Path) -> list[int]:
        path = folder / "steps"
        return [int(line) for line in path.read_text().rpartition("\n")[0].splitlines()] if path.exists() else []

    def wait_for(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while step not in made(folder):
            assert process.poll() is None, end(process).errors[-3000:]
            assert time.monotonic() < deadline, made(folder)
            time.sleep(0.02)

    for folder in (whole, parts):
        folder.mkdir()
    ended = end(begin(whole))
    assert ended.code == 0, ended.errors[-3000:]
    assert made(whole) == list(range(1, 41))

    (parts / "slow").touch()
    process = begin(parts)
    wait_for(parts, 11, process)
    os.kill(int((parts / "pid_1").read_text()), signal.SIGKILL)
    assert end(process, 60).code not in (0, 2)
    process = begin(parts)
    wait_for(parts, 22, process)
    process.terminate()
    assert end(process, 60).code not in (0, 2)
    assert not list(parts.glob("weights_*"))
    (parts / "slow").unlink()
    ended = end(begin(parts))
    assert ended.code == 0, ended.errors[-3000:]
    # It went on, twice, from one of the last checkpoints, and left no step out.
    again = [later for step, later in pairwise(made(parts)) if later < step]
    assert len(again) == 2
    assert 6 < again[0] < again[1]
    assert set(made(parts)) == set(range(1, 41))
    for place in ("0_of_2", "1_of_2"):
        assert equal(weights(parts, place), weights(whole, place))
    assert not equal(weights(whole, "0_of_2")[:1], [np.zeros((6, 8))])


def steps(folder: Path) -> list[dict[str, int]]:
    """What the ranks of the elastic program have written down of their steps."""
    lines = [line for path in folder.glob("steps_*.jsonl") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def wait_for_step(folder: Path, process: subprocess.Popen[str], **like: int) -> int:
    """Wait for a step of this kind; returns the process that made it."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, "ended too soon"
        assert time.monotonic() < deadline, f"no step {like} in time"
        for step in steps(folder):
            if like.items() <= step.items():
                return step["pid"]
        time.sleep(0.1)


@pytest.mark.soak
def test_an_elastic_program_loses_a_worker_and_gains_another_and_comes_to_the_same(tmp_path: Path) -> None:
    program = PROGRAMS / "keras_elastic.py"
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    ended = run(1, program, alone)
    assert ended.code == 0, ended.errors[-3000:]

    (together / "slow").touch()
    discover, hosts = tmp_path / "discover.sh", tmp_path / "hosts"
    hosts.write_text("localhost:1\n127.0.0.1:1\n", encoding="utf-8")
    discover.write_text(f"#!/bin/sh\ncat {hosts}\n", encoding="utf-8")
    discover.chmod(0o755)
    command = [sys.executable, "-m", "distrain", "launch", "-n", "2", "--elastic", "1:2", "--discover", str(discover)]
    process = begin_program([*command, "--", str(program), str(together)], environment={"PYTHONPATH": str(ROOT)})
    os.kill(wait_for_step(together, process, rank=1, size=2, epoch=1, batch=2), signal.SIGKILL)
    wait_for_step(together, process, rank=0, size=1)
    # A host that has lost a worker is not taken again for a while; this one is new.
    renamed = hosts.with_suffix(".tmp")
    renamed.write_text("localhost:1\n127.0.0.1:1\n127.1:1\n", encoding="utf-8")
    renamed.replace(hosts)
    wait_for_step(together, process, rank=0, size=2, resets=2)
    (together / "slow").unlink()
    ended = end(process)
    assert ended.code == 0, ended.errors[-3000:]
    assert (together / "resets").read_text().split() == ["1", "2"]
    # Every step once, whoever made it; the one under way when the worker was lost may have been begun twice.
    first = {(step["epoch"], step["batch"]) for step in steps(together) if step["rank"] == 0}
    assert first == {(epoch, batch) for epoch in range(4) for batch in range(6)}
    assert equal(weights(together, "0_of_2"), weights(together, "1_of_2"))
    assert int(weights(together, "0_of_2")[-1]) == int(weights(alone, "0_of_1")[-1]) == 24
    one, two = (
        np.concatenate([each.ravel() for each in weights(folder, place)])
        for folder, place in ((alone, "0_of_1"), (together, "0_of_2"))
    )
    assert apart(one, two) < 1e-10
