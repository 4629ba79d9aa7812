"""Going on in another world, seen from one worker: what it keeps, lets go of, and tells there."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from distrain.checkpoint import saver, store
from distrain.cli.inspect import summarise
from distrain.errors import BadInput, RunFailed, WorldChanged
from distrain.job.schema import Job
from distrain.log.records import read
from distrain.train.elastic import run_elastic
from distrain.train.opening import Request
from distrain.train.stop import StopRequest
from distrain.train.watch import Watch
from distrain.world.control import AloneControl
from distrain.world.start import Started
from distrain.world.topology import World
from tests.support import make_job

STEPS = 6


class OneWorker:
    """Horovod in a world of one; `on_broadcast` does what it likes to a variable's value."""

    Sum = Max = None

    def __init__(self) -> None:
        self.on_broadcast: Callable[[Any], Any] = lambda value: value

    def rank(self) -> int:
        return 0

    def size(self) -> int:
        return 1

    def grouped_allreduce(self, tensors: list[tf.Tensor], op: Any, name: str) -> list[tf.Tensor]:
        return [tf.identity(tensor) for tensor in tensors]

    def allreduce(self, tensor: tf.Tensor, op: Any, name: str) -> tf.Tensor:
        return tensor

    def broadcast(self, variable: tf.Variable, root_rank: int, name: str) -> Any:
        return self.on_broadcast(variable.numpy())


class Member:
    """Membership in a world that the launcher wants changed when `changes` says so."""

    def __init__(self, changes: Iterator[bool]) -> None:
        self._changes = changes

    @property
    def changed(self) -> bool:
        return next(self._changes, False)


class Alone(Started):
    """A world that may change, of one worker, which all new ones have too."""

    def __init__(self, control: AloneControl, changes: Sequence[bool] = ()) -> None:
        member: Any = Member(iter(changes))
        super().__init__(World(controller="gloo"), control, lambda: None, OneWorker(), member)
        self.rejoined = 0

    def rejoin(self, seconds: float, attempting: Callable[[], None] | None = None) -> None:
        self.rejoined += 1


class Raising(AloneControl):
    """Raises for the first value that `chosen` is true for, as where another rank has gone."""

    def __init__(self, chosen: Callable[[Any], bool]) -> None:
        self._chosen: Callable[[Any], bool] | None = chosen

    def gather(self, value: Any) -> list[Any]:
        if self._chosen is not None and self._chosen(value):
            self._chosen = None
            # Kept, with all that its traceback refers to: nothing may depend on when that is freed.
            self.raised = WorldChanged()
            raise self.raised
        return super().gather(value)


def job(**checkpoint: Any) -> Job:
    return make_job(
        data={"train": {"provider": "tests.support:Numbered", "examples": 12}},
        model={"name": "tests.small_models:convolution"},
        train={"batch_size": 4, "epochs": STEPS // 3},
        checkpoint=checkpoint,
        log={"predictions": 0},
    )


def train(started: Alone, folder: Path, *, fresh: bool = False, **checkpoint: Any) -> int:
    watch = Watch(600, rank=0)
    try:
        return run_elastic(Request(job(**checkpoint), folder, fresh), started, StopRequest(), watch, 600)
    finally:
        watch.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run comes to where its world never changes."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(Alone(AloneControl()), folder) == 0
    return summarise(folder)


def threads() -> set[threading.Thread]:
    """The threads that run, but for the one that waits for checkpoints to write."""
    return {one for one in threading.enumerate() if not one.name.startswith("checkpoint")}


def lingering(before: set[threading.Thread], seconds: float = 10.0) -> list[str]:
    """The threads that have come since, and do not end; one that was told to may take a moment."""
    new = threads() - before
    deadline = time.monotonic() + seconds
    for one in new:
        one.join(max(0.0, deadline - time.monotonic()))
    return sorted(one.name for one in new if one.is_alive())


def is_inventory(value: Any) -> bool:
    return isinstance(value, dict) and "pid" in value


def test_a_world_that_breaks_before_its_first_step_holds_nothing(tmp_path: Path, whole: dict[str, Any]) -> None:
    """The folder's lock above all, which this worker takes again."""
    started, before = Alone(Raising(is_inventory)), threads()
    assert train(started, tmp_path / "run") == 0
    assert started.rejoined == 1
    assert not lingering(before)
    assert summarise(tmp_path / "run")["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_checkpoint_that_fails_while_the_world_changes_is_told(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OSError(errno.ENOSPC, "No space left on device")])
    save = store.save

    def failing_once(*arguments: Any, **options: Any) -> Path:
        for failure in failures:
            raise failure
        return save(*arguments, **options)

    monkeypatch.setattr(saver, "save", failing_once)
    started = Alone(AloneControl(), [False, True])
    if choice == "stop":
        with pytest.raises(RunFailed, match=r"checkpoint of step 2 cannot be written: .*No space left"):
            train(started, tmp_path / "run", every=2, on_error="stop")
    else:
        assert train(started, tmp_path / "run", every=2, on_error="continue") == 0
        failed = [one for one in read(tmp_path / "run" / "metrics.jsonl") if one.get("event") == "checkpoint_failed"]
        assert [one["step"] for one in failed] == [2]
    assert started.rejoined == 1


def test_a_state_that_was_half_overwritten_is_nobodys(tmp_path: Path, whole: dict[str, Any]) -> None:
    """The rank that the state came from is lost in between, and there is no checkpoint."""
    started = Alone(AloneControl())
    left = 3

    def broken_off(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise RuntimeError("Connection closed by peer")
        return value if left < 0 else np.ones_like(value)

    started.horovod.on_broadcast = broken_off
    assert train(started, tmp_path / "run") == 0
    assert started.rejoined == 1
    assert summarise(tmp_path / "run")["weights_sha256"] == whole["weights_sha256"]


def test_a_run_that_has_begun_is_not_moved_aside(tmp_path: Path) -> None:
    """Though all workers are started with `--fresh`, and nobody holds the state."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "job.yaml").write_text("", encoding="utf-8")
    started = Alone(AloneControl())
    left = 1

    def broken_off(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise RuntimeError("Connection closed by peer")
        return value

    started.horovod.on_broadcast = broken_off
    assert train(started, run, fresh=True) == 0
    assert started.rejoined == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_one_whose_job_is_bad_leaves_as_it_would_elsewhere() -> None:
    watch = Watch(600, rank=0)
    with pytest.raises(BadInput, match="no such file"):
        run_elastic(BadInput("job.yaml: no such file"), Alone(AloneControl()), StopRequest(), watch, 600)
    watch.close()
