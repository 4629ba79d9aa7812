"""Saving in the background: what training waits for, what becomes of failures, what is never saved."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distrain.checkpoint import saver as saver_module
from distrain.checkpoint.retention import Retention
from distrain.checkpoint.saver import SPARE_BYTES, Saver
from distrain.checkpoint.state import Arrays, ReplicaState, sha256, write
from distrain.checkpoint.store import MANIFEST, Progress, find, newest_valid
from distrain.errors import Diverged, RunFailed
from distrain.gradients.statistics import GradientStatistics
from tests.small_models import make_trained


def _state(seed: int = 0) -> ReplicaState:
    trained = make_trained("batch_norm", seed=seed)
    return ReplicaState(trained, GradientStatistics(trained.trainable()))


def _saver(folder: Path, state: ReplicaState, *, keep: int = 3, world_size: int = 1) -> Saver:
    return Saver(folder, state, retention=Retention(keep, None, 8), world_size=world_size, versions={})


def _fill(state: ReplicaState, value: int) -> None:
    for variable in state.variables.values():
        variable.assign(np.full(variable.shape, value, variable.dtype.as_numpy_dtype))


def _bits(state: ReplicaState) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.arrays().items()}


def _progress(step: int) -> Progress:
    return Progress(step=step, position=8 * step)


class Held:
    """A disk so slow that it writes nothing until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()

        def slowly(arrays: Arrays, folder: Path) -> None:
            assert self.go.wait(20)
            write(arrays, folder)

        monkeypatch.setattr(saver_module, "write", slowly)


def test_it_tells_digests_and_takes_up_the_newest(tmp_path: Path) -> None:
    state = _state()
    saver = _saver(tmp_path, state, world_size=2)
    assert saver.restore() == (None, [])
    for step in (10, 20):
        _fill(state, step)
        saver.save(_progress(step), epoch=1, finished=False)
    fresh = _state(seed=1)
    found, rejected = _saver(tmp_path, fresh).restore()
    assert found is not None
    assert found.manifest is not None
    assert (found.step, rejected, found.manifest.world_size) == (20, [], 2)
    assert _bits(fresh) == _bits(state)
    assert found.manifest.optimizer_sha256 == sha256(fresh.arrays(), "optimizer")
    assert found.manifest.parameters == sum(array.size for n, array in fresh.arrays().items() if n.startswith("w"))


def test_what_training_changes_meanwhile_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, state = Held(monkeypatch), _state()
    _fill(state, 3)
    before = _bits(state)
    saver = _saver(tmp_path, state)
    assert saver.begin(_progress(10), epoch=0) is None
    assert find(tmp_path) == []
    _fill(state, 4)
    assert saver.poll() is None
    held.go.set()
    assert saver.wait() is None
    fresh = _state(seed=1)
    _saver(tmp_path, fresh).restore()
    assert _bits(fresh) == before


def test_a_second_one_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, saver = Held(monkeypatch), _saver(tmp_path, _state())
    saver.begin(_progress(10), epoch=0)
    second = threading.Thread(target=saver.save, args=[_progress(20)], kwargs={"epoch": 0, "finished": True})
    second.start()
    second.join(0.3)
    assert second.is_alive()
    with pytest.raises(TimeoutError):
        saver.wait(0.1)
    held.go.set()
    second.join(20)
    assert [(found.step, found.valid) for found in find(tmp_path)] == [(10, True), (20, True)]


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_checkpoint_is_made_of_what_is_not_finite(tmp_path: Path, value: float, background: bool) -> None:
    state = _state()
    saver = _saver(tmp_path, state)
    saver.save(_progress(10), epoch=0, finished=False)
    name = next(name for name in state.variables if "logits/kernel" in name)
    array = state.variables[name].numpy()
    array.flat[-1] = value
    state.variables[name].assign(array)
    if background:
        saver.begin(_progress(20), epoch=0)
        error = saver.wait()
    else:
        with pytest.raises(Diverged) as raised:
            saver.save(_progress(20), epoch=0, finished=True)
        error = raised.value
    assert isinstance(error, Diverged)
    assert str(error).startswith(f"'{name}' is not finite after step 20")
    assert [found.step for found in find(tmp_path)] == [10]


def test_what_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("no folder")
    saver = _saver(tmp_path / "checkpoints", _state())
    with pytest.raises(RunFailed, match="checkpoint of step 7 cannot be written"):
        saver.save(_progress(7), epoch=0, finished=False)
    saver.begin(_progress(8), epoch=0)
    error = saver.begin(_progress(9), epoch=0)
    assert isinstance(error, RunFailed)
    assert "step 8" in str(error)
    assert "step 9" in str(saver.wait())
    assert saver.poll() is None


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("left", [SPARE_BYTES // 2, 0])
def test_a_full_disk_leaves_the_one_before_and_what_the_log_needs(disk: Path, left: int) -> None:
    saver = _saver(disk / "checkpoints", _state())
    saver.save(_progress(10), epoch=0, finished=False)
    with (disk / "others").open("wb", buffering=0) as file:
        while free(disk) > left:
            file.write(bytes(min(4096, free(disk) - left)))
    before = free(disk)
    saver.begin(_progress(20), epoch=0)
    error = saver.wait()
    assert isinstance(error, RunFailed)
    assert "No space left on device" in str(error)
    assert free(disk) == before
    assert [(found.step, found.valid) for found in find(disk / "checkpoints")] == [(10, True)]
    (disk / "others").unlink()
    saver.save(_progress(30), epoch=0, finished=False)
    assert [(found.step, found.valid) for found in find(disk / "checkpoints")] == [(10, True), (30, True)]


def test_a_disk_that_is_full_in_the_midst_leaves_nothing_half_written(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may fill it after the space was looked at."""
    saver = _saver(disk / "checkpoints", _state())
    saver.save(_progress(10), epoch=0, finished=False)
    monkeypatch.setattr(saver_module, "SPARE_BYTES", -(1 << 30))
    (disk / "others").write_bytes(bytes(free(disk) - 8192))
    before = free(disk)
    with pytest.raises(RunFailed, match="step 20 cannot be written"):
        saver.save(_progress(20), epoch=0, finished=False)
    assert free(disk) == before
    assert [(found.step, found.valid) for found in find(disk / "checkpoints")] == [(10, True)]


def free(disk: Path) -> int:
    return shutil.disk_usage(disk).free


def test_any_damage_to_any_file_is_named_and_the_one_before_is_used(tmp_path: Path) -> None:
    """Each file of a real checkpoint, at 200 random places, cut off there and with one bit flipped."""
    state = _state()
    saver = _saver(tmp_path, state)
    for step in (10, 20):
        _fill(state, step)
        saver.save(_progress(step), epoch=0, finished=False)
    newest = tmp_path / "step_00000020"
    draw = random.Random(7)
    files = sorted(newest.iterdir())
    assert len(files) == 3
    for file in files:
        content = file.read_bytes()
        for _ in range(200):
            place = draw.randrange(len(content))
            flipped = bytearray(content)
            flipped[place] ^= 1 << draw.randrange(8)
            for damaged in (content[:place], bytes(flipped)):
                file.write_bytes(damaged)
                found, rejected = newest_valid(tmp_path)
                assert found is not None
                assert (found.step, [other.step for other in rejected]) == (10, [20]), (file.name, place)
                assert file.name.removesuffix(".json") in str(rejected[0].why_not)
        file.write_bytes(content)
    file.write_bytes(file.read_bytes()[:-1])
    fresh = _state(seed=1)
    found, rejected = _saver(tmp_path, fresh).restore()
    assert found is not None
    assert found.step == 10
    assert all(np.all(array == 10) for array in fresh.arrays().values())
    assert json.loads((found.path / MANIFEST).read_text())["progress"]["step"] == 10
