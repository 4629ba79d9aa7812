"""What a run that goes on tells: metrics that Prometheus reads, health, and who may ask."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distrain.errors import BadInput
from distrain.log.live import FIRST_SECONDS, Live
from distrain.log.serve import MOST_CLIENTS, Report, Server


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _live(clock: Clock | None = None) -> Live:
    about = {"name": "circles", "version": "1"}
    return Live(about, workers=2, total_steps=40, stall_seconds=60, clock=clock or Clock())


def _values(live: Live) -> dict[str, float]:
    families = text_string_to_metric_families(live.exposition().decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


PLACE = {"step": 7, "epoch": 1, "position": 56}


def test_the_newest_records_are_told() -> None:
    live = _live()
    assert "distrain_steps_total" not in _values(live)  # not known yet
    live.record("step", {**PLACE, "step": 6, "loss": 0.9, "noise_scale": 3.5})
    live.record("step", {**PLACE, "loss": 0.25, "learning_rate": 0.1})
    live.record("epoch", {**PLACE, "loss": 0.5})
    live.record("validation", {**PLACE, "loss": 0.75, "pixel_error": 0.125})
    live.record("event", {**PLACE, "event": "bad_example", "reason": "x"})
    live.record("event", {**PLACE, "event": "advice", "text": "x"})
    live.stepped(0.5)
    live.stepped(0.25)
    told = _values(live)
    expected = {
        "distrain_workers": 2,
        "distrain_planned_steps": 40,
        "distrain_steps_total": 7,
        "distrain_examples_total": 56,
        "distrain_epoch": 1,
        "distrain_loss": 0.25,
        "distrain_learning_rate": 0.1,
        "distrain_gradient_noise_scale": 3.5,
        "distrain_epoch_loss": 0.5,
        "distrain_validation_loss": 0.75,
        "distrain_validation_pixel_error": 0.125,
        "distrain_bad_examples_total": 1,
        "distrain_skipped_steps_total": 0,
        "distrain_data_wait_seconds_total": 0.75,
    }
    assert {name: told[name] for name in expected} == expected
    assert told["distrain_last_step_timestamp_seconds"] > 1.7e9
    assert told["process_cpu_seconds_total"] > 0


def test_names_keep_prometheus_conventions() -> None:
    live = _live()
    live.record("step", {**PLACE, "loss": 0.25, "examples_per_second": 10.0})
    live.record("validation", {**PLACE, "loss": 0.75})
    for family in text_string_to_metric_families(live.exposition().decode()):
        assert family.documentation.endswith(".")
        assert family.name.startswith(("distrain_", "process_"))
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter")


def test_a_value_that_is_no_number_is_left_out() -> None:
    live = _live()
    live.record("epoch", {**PLACE, "loss": float("nan")})
    assert "distrain_epoch_loss" not in _values(live)


def test_a_run_that_stands_still_is_not_healthy() -> None:
    clock = Clock()
    live = _live(clock)
    clock.now += FIRST_SECONDS - 1
    assert live.health() == (True, f"no step yet, {FIRST_SECONDS - 1:.0f} s since the start")
    clock.now += 1
    assert not live.health()[0]
    live.record("step", PLACE)
    live.stepped(0)
    clock.now += 59
    assert live.health() == (True, "step 7 of 40, 59 s since the last one")
    clock.now += 1
    assert live.health() == (False, "step 7 of 40, 60 s since the last one")
    live.stepped(0)
    assert live.health()[0]


@contextmanager
def _serving(live: Live, address: str = "127.0.0.1") -> Iterator[Server]:
    def report() -> bytes:
        if live.health()[0]:
            return b"<html>now</html>"
        raise OSError("no report")

    server = Server(address, 0, live, report)
    try:
        yield server
    finally:
        server.close()


def _ask(server: Server, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    status, content = answer.status, answer.read()
    connection.close()
    return status, content


def test_it_answers() -> None:
    clock = Clock()
    live = _live(clock)
    with _serving(live) as server:
        assert _ask(server, "/healthz") == (200, b"no step yet, 0 s since the start\n")
        status, content = _ask(server, "/metrics")
        assert (status, b"distrain_workers 2.0\n" in content) == (200, True)
        assert _ask(server, "/") == (200, b"<html>now</html>")
        assert _ask(server, "/", method="HEAD") == (200, b"")
        assert _ask(server, "/../job.yaml")[0] == 404
        assert _ask(server, "/", method="POST")[0] == 501
        clock.now += 1000
        assert _ask(server, "/healthz")[0] == 503
        assert _ask(server, "/") == (500, b"no report\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:9464", 200), ("evil.example", 421), ("10.0.0.1:80", 421)],
)
def test_on_this_machine_alone_a_page_from_elsewhere_learns_nothing(host: str, status: int) -> None:
    """A browser here may be made to believe that a name of others is this machine's."""
    with _serving(_live()) as server:
        assert _ask(server, "/metrics", host=host)[0] == status
    with _serving(_live(), "0.0.0.0") as server:  # noqa: S104 (what is asked for)
        assert _ask(server, "/metrics", host=host)[0] == 200


def test_a_port_that_is_taken() -> None:
    live = _live()
    with _serving(live) as server, pytest.raises(BadInput, match=f"'log.serve': 127.0.0.1 port {server.port} cannot"):
        Server("127.0.0.1", server.port, live, bytes)


def test_clients_that_say_nothing_do_not_pile_up() -> None:
    with _serving(_live()) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MOST_CLIENTS)]
        late = socket.create_connection(("127.0.0.1", server.port))
        late.settimeout(5)
        assert late.recv(1) == b""  # let go at once
        for one in (*idle, late):
            one.close()
        for _ in range(100):
            try:
                status = _ask(server, "/healthz")[0]
            except OSError:
                continue
            break
        assert status == 200


def test_a_client_that_goes_on_and_on_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distrain.log.serve.CLIENT_SECONDS", 0.5)
    with _serving(_live()) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.settimeout(0.1)
        slow.sendall(b"GET /healthz HTTP/1.0\r\n")
        began = time.monotonic()
        told = b""
        while time.monotonic() < began + 10:
            try:
                slow.sendall(b"X: y\r\n")
                told = slow.recv(100)
            except TimeoutError:
                continue
            except ConnectionError:
                pass
            break
        assert time.monotonic() - began < 5
        assert b"step" not in told


def test_a_report_that_cannot_be_made_is_not_tried_again_at_once(tmp_path: Path) -> None:
    report = Report(tmp_path)
    for _ in range(3):
        with pytest.raises(OSError, match="no run here"):
            report()
    made = report._made
    with pytest.raises(OSError, match="no run here"):
        report()
    assert report._made == made
    report.close()


def test_who_comes_while_a_report_is_made_gets_the_one_before(tmp_path: Path) -> None:
    report = Report(tmp_path)
    report._page = b"before"
    with report._making:
        assert report() == b"before"
    report._page = None
    with report._making, pytest.raises(OSError, match="ask again"):
        report()
