"""What a follower makes of a service that answers, one that does not, and one that comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distrain.log import follow
from distrain.log.backlog import Point, Sent, load_sent, save_sent
from distrain.log.folder import RunFolder
from distrain.log.follow import AT_ONCE, Follower, parameters
from distrain.log.records import RecordLog
from tests.support import make_job

JOB = make_job(name="small", train={"epochs": 3}, log={"mlflow": {}})


class Ending:
    """Says how it ends once it was asked so many times; what is due before it is asked each time is done then."""

    def __init__(self, how: str, after: int = 1, due: Callable[[int], None] = lambda asked: None) -> None:
        self._how, self._after, self._due = how, after, due
        self.asked = 0
        self.waited: list[float] = []

    @property
    def how(self) -> str | None:
        self.asked += 1
        self._due(self.asked)
        return self._how if self.asked >= self._after else None

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)


@dataclass
class Service:
    """Remembers what it is told; `down` makes it fail, `broken` are pictures that it cannot take."""

    down: bool = False
    broken: tuple[str, ...] = ()
    failure: Exception = field(default_factory=lambda: ConnectionError("no\nroute"))
    run: str = "r1"
    place: str = "somewhere"
    asked_for: list[str | None] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    def connect(self, run: str | None) -> Service:
        self.asked_for.append(run)
        return self._up()

    def _up(self) -> Service:
        if self.down:
            raise self.failure
        return self

    def parameters(self, parameters: Mapping[str, str]) -> None:
        self._up()

    def points(self, points: Sequence[Point]) -> None:
        self._up().told += [point.step for point in points]

    def picture(self, path: Path, step: int) -> None:
        self.tried.append(path.name)
        if path.name in self.broken:
            raise ModuleNotFoundError("No module named 'boto3'")
        self._up().told.append((path.name, step))

    def end(self, how: str) -> None:
        self._up().told.append(how)

    def leave(self) -> None:
        self._up().told.append("left")


def _steps(folder: RunFolder, first: int, last: int) -> None:
    log = RecordLog(folder.metrics)
    for step in range(first, last + 1):
        log.write_timed("step", step=step, epoch=0, position=8 * step, loss=0.5)
    log.close()


def _draw(folder: RunFolder, *epochs: int) -> None:
    folder.predictions.mkdir(exist_ok=True)
    for epoch in epochs:
        (folder.predictions / f"epoch_{epoch:04d}.png").touch()


def _follow(
    folder: Path, service: Service, ending: Any, *, name: str = "mlflow", where: str = "there"
) -> tuple[bool, list[str]]:
    shown: list[str] = []
    run = RunFolder(folder)
    run.tracking.mkdir(exist_ok=True)
    follower = Follower(run, name, JOB, where, service.connect, shown.append)
    return follower.run(ending), shown


def test_all_is_told_and_then_the_end(tmp_path: Path) -> None:
    folder, service = RunFolder(tmp_path), Service()
    _draw(folder, 0)
    _steps(folder, 1, 2 * AT_ONCE + 3)
    done, shown = _follow(tmp_path, service, Ending("finished", after=2))
    assert done
    assert service.told == [*range(1, 2 * AT_ONCE + 4), ("epoch_0000.png", 2 * AT_ONCE + 3), "finished"]
    assert shown == ["somewhere"]
    assert load_sent(folder.tracking / "mlflow.json").run == "r1"


def test_what_is_written_before_the_end_is_told_before_it(tmp_path: Path) -> None:
    folder, service = RunFolder(tmp_path), Service()
    ending = Ending("stopped", after=3, due=lambda asked: _steps(folder, 10 * asked, 10 * asked + 1))
    assert _follow(tmp_path, service, ending)[0]
    assert service.told == [10, 11, 20, 21, 30, 31, "stopped"]


def test_one_that_goes_on_elsewhere_has_not_ended(tmp_path: Path) -> None:
    service = Service()
    _steps(RunFolder(tmp_path), 1, 1)
    assert _follow(tmp_path, service, Ending("moved"))[0]
    assert service.told == [1, "left"]


def test_the_next_one_goes_on_where_this_one_ended(tmp_path: Path) -> None:
    service, folder = Service(), RunFolder(tmp_path)
    _steps(folder, 1, 3)
    _follow(tmp_path, service, Ending("stopped"))
    _steps(folder, 4, 5)
    _follow(tmp_path, service, Ending("finished"))
    assert service.told == [1, 2, 3, "stopped", 4, 5, "finished"]
    assert service.asked_for == [None, "r1"]
    _draw(folder, 0)
    _follow(tmp_path, service, Ending("finished"))
    assert service.told[-2:] == [("epoch_0000.png", 5), "finished"]


def test_elsewhere_the_run_is_a_new_one_and_told_from_its_beginning(tmp_path: Path) -> None:
    service, folder = Service(), RunFolder(tmp_path)
    _steps(folder, 1, 3)
    _draw(folder, 0)
    _follow(tmp_path, service, Ending("finished"))
    _follow(tmp_path, service, Ending("finished"), where="elsewhere")
    assert service.told == 2 * [1, 2, 3, ("epoch_0000.png", 3), "finished"]
    assert service.asked_for == [None, None]


def test_while_the_service_is_away_it_waits_longer_and_longer_and_says_so_once(tmp_path: Path) -> None:
    service, folder = Service(), RunFolder(tmp_path)

    def due(asked: int) -> None:
        service.down = asked < 7 or 8 < asked < 10
        _steps(folder, asked, asked)

    ending = Ending("finished", after=11, due=due)
    done, shown = _follow(tmp_path, service, ending)
    assert done
    assert ending.waited == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 1.0, 1.0, 5.0, 1.0]
    assert service.told == [*range(1, 12), "finished"]
    assert shown == ["cannot be told (no route); the run goes on, and what waits is sent when it can be", "somewhere"]


def test_an_end_while_it_is_away_is_told_and_the_rest_is_for_the_next_one(tmp_path: Path) -> None:
    service, folder = Service(), RunFolder(tmp_path)
    _steps(folder, 1, 3)

    def due(asked: int) -> None:
        service.down = asked > 1
        _steps(folder, 3 + asked, 3 + asked)

    done, shown = _follow(tmp_path, service, Ending("finished", after=2, due=due))
    assert not done
    assert service.told == [1, 2, 3, 4]
    assert shown == ["somewhere", "not all has been sent (no route); starting the run again sends the rest"]
    service.down = False
    assert _follow(tmp_path, service, Ending("finished"))[0]
    assert service.told == [1, 2, 3, 4, 5, "finished"]


@pytest.mark.parametrize("how", ["finished", "moved"])
def test_what_weights_and_biases_client_holds_is_sent_by_its_own_command(tmp_path: Path, how: str) -> None:
    (line,) = _follow(tmp_path, Service(down=True), Ending(how), name="wandb")[1]
    assert f"`wandb sync --include-online {tmp_path}/tracking/wandb/*run-*` sends what its client holds" in line
    assert line.endswith("starting the run again sends the rest") == (how == "finished")


def test_whatever_a_client_raises_is_a_failure_to_try_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(failure=ModuleNotFoundError("No module named 'psycopg2'"))

    def due(asked: int) -> None:
        service.down = asked == 1

    done, shown = _follow(tmp_path, service, Ending("finished", after=3, due=due))
    assert done
    assert [line.partition(";")[0] for line in shown] == ["cannot be told (No module named 'psycopg2')", "somewhere"]
    assert "in _up" in capsys.readouterr().err


def test_a_picture_that_cannot_be_sent_is_left_until_the_next_start(tmp_path: Path) -> None:
    service, folder = Service(broken=("epoch_0000.png", "epoch_0002.png")), RunFolder(tmp_path)
    _draw(folder, 0, 1, 2)
    done, shown = _follow(
        tmp_path, service, Ending("finished", after=3, due=lambda asked: _steps(folder, asked, asked))
    )
    assert done
    assert service.told == [1, ("epoch_0001.png", 1), 2, 3, "finished"]
    assert service.tried == ["epoch_0000.png", "epoch_0001.png", "epoch_0002.png"]
    assert shown == [
        "somewhere",
        "epoch_0000.png cannot be sent (No module named 'boto3'); all else is, and starting the run again tries anew",
    ]
    service.broken = ()
    assert _follow(tmp_path, service, Ending("finished"))[0]
    assert service.told[5:] == [("epoch_0000.png", 3), ("epoch_0002.png", 3), "finished"]


def test_a_picture_that_was_in_time_for_a_failure_is_sent_after_it(tmp_path: Path) -> None:
    service, folder = Service(), RunFolder(tmp_path)

    def due(asked: int) -> None:
        service.down = asked in (2, 3)
        if asked == 2:
            _draw(folder, 0)
        else:
            _steps(folder, asked, asked)

    assert _follow(tmp_path, service, Ending("finished", after=4, due=due))[0]
    assert service.told == [1, 3, 4, ("epoch_0000.png", 4), "finished"]


def test_a_full_disk_does_not_begin_the_run_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, full = Service(), [True, True, False]

    def save(path: Path, sent: Sent) -> None:
        if full and full.pop(0):
            raise OSError("no space left")
        save_sent(path, sent)

    monkeypatch.setattr(follow, "save_sent", save)
    _steps(RunFolder(tmp_path), 1, 1)
    assert _follow(tmp_path, service, Ending("finished", after=4))[0]
    assert service.asked_for == [None, "r1", "r1"]
    assert service.told == [1, "finished"]


def test_passwords_are_shown_to_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "http://me:secret@there"
    service = Service(place=f"run at {address}:5000/", failure=ConnectionError(f"{'x' * 280} at {address}:5000"))

    def due(asked: int) -> None:
        service.down = asked == 1

    shown = _follow(tmp_path, service, Ending("finished", after=2, due=due))[1]
    data = {"train": {"provider": "image_pairs", "images": f"{address}/i.png", "labels": [f"{address}/l.png"]}}
    told = parameters(make_job(data=data))
    assert (told["data.train.images"], told["data.train.labels"]) == ("http://there/i.png", '["http://there/l.png"]')
    assert shown[1] == "run at http://there:5000/"
    assert "me:" not in " ".join([*shown, *told.values(), *capsys.readouterr()])


def test_the_jobs_keys_are_parameters_but_for_the_log() -> None:
    told = parameters(JOB)
    assert told["train.epochs"] == "3"
    assert told["train.batch_size"] == "null"
    assert told["data.train.provider"] == "circles"
    assert told["data.train.radius"] == "[5, 25]"
    assert not [key for key in told if key.startswith("log")]
