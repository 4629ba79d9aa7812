"""Horovod's driver, task and notification services: what they unpickle comes from their own job, once."""

from __future__ import annotations

import io
import os
import pickle
import random
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from horovod.runner.common.util import guard, network, secret
from horovod.runner.elastic.rendezvous import create_rendezvous_handler
from horovod.runner.elastic.worker import (
    HostUpdateResult,
    WorkerNotificationClient,
    WorkerNotificationManager,
)
from horovod.runner.http.http_server import RendezvousServer

from tests.horovod.attacks import CLOSED, Payload, mutated, send, silent_connections, throw

KEY = os.urandom(32)
NAME = "test service"


class Service(network.BasicService):
    """Counts what it is asked, beside pings."""

    asked = 0

    def _handle(self, req: Any, client_address: Any) -> Any:
        if isinstance(req, str):
            self.asked += 1
            return req.upper()
        return super()._handle(req, client_address)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(NAME, KEY, {"lo"})
    yield service
    service.shutdown()


def address(service: Service) -> tuple[str, int]:
    return "127.0.0.1", service.get_port()


def message(obj: Any, key: bytes = KEY, name: str = NAME) -> bytes:
    """A request as a client with this key makes it for the service of this name."""
    written = io.BytesIO()
    network.Wire(key, name).write(obj, written)
    return written.getvalue()


def works(service: Service) -> bool:
    client = network.BasicClient(NAME, service.addresses(), KEY, 0)
    return bool(client._send("ping pong") == "PING PONG")


def test_the_job_is_served_on_its_interface_alone(service: Service) -> None:
    assert works(service)
    assert service._server.socket.getsockname()[0] == "127.0.0.1"
    assert service.addresses() == {"lo": [address(service)]}


def test_an_interface_is_meant_by_its_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = WorkerNotificationManager()
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"l": loopback("127.0.0.2"), "lo": loopback("127.0.0.1")})
    monkeypatch.setattr("horovod.runner.elastic.worker.put_value", lambda *arguments: None)
    monkeypatch.setenv(secret.HOROVOD_JOB_KEY, KEY.hex())
    manager.init("127.0.0.1", 1, "lo", "host", 0)
    assert list(manager._service.addresses()) == ["lo"]
    manager._service.shutdown()


def loopback(host: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(family=socket.AF_INET, address=host)]


@pytest.mark.parametrize(
    ("key", "name"), [(os.urandom(32), NAME), (b"", NAME), (KEY, "another service")], ids=["key", "no key", "service"]
)
def test_nothing_of_others_is_unpickled(
    key: bytes, name: str, service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = tmp_path / "taken"
    assert send(address(service), message(Payload(taken), key, name)) == CLOSED
    assert not taken.exists()
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("horovod: the test service refused a connection from 127.0.0.1:")
    assert works(service)


def test_nor_is_a_message_of_the_released_version(service: Service, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    body = pickle.dumps(Payload(taken))
    data = secret.compute_digest(KEY, body) + struct.pack("i", len(body)) + body
    assert send(address(service), data, all_of_it=True) == CLOSED
    assert not taken.exists()
    assert works(service)


def test_a_body_that_is_not_the_one_that_was_announced_is_not_unpickled(service: Service, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    body = pickle.dumps(Payload(taken))
    data = message("x" * (len(body) - len(pickle.dumps("")) - 20))
    head = data[: secret.DIGEST_LENGTH + network.Wire.HEAD.size]
    assert send(address(service), head + body + b"x" * 1000) == CLOSED
    assert not taken.exists()


def test_a_message_is_taken_once(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    asks = message("ping")
    assert send(address(service), asks) != CLOSED
    assert send(address(service), asks) == CLOSED
    assert service.asked == 1
    assert caplog.messages[0].endswith("it was sent before")


def test_a_head_has_little_time_and_a_length_is_believed_once_it_is_authenticated(service: Service) -> None:
    with socket.create_connection(address(service), timeout=20) as sock:
        sock.sendall(message("x")[: secret.DIGEST_LENGTH] + b"\xff" * network.Wire.HEAD.size)
        since = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - since < 2
        with socket.create_connection(address(service), timeout=20) as slow:
            slow.sendall(b"x")
            assert slow.recv(1) == b""
            assert time.monotonic() - since > guard.STRANGER_SECONDS - 1


def test_a_thousand_silent_connections_and_noise_keep_nobody_waiting(service: Service) -> None:
    with silent_connections(address(service), 1000):
        assert works(service)
    assert throw(address(service), random.Random(3), 500) == 500
    assert works(service)


def test_not_even_a_bit_may_be_another(service: Service) -> None:
    random_ = random.Random(4)
    for _ in range(300):
        assert send(address(service), mutated(random_, message("ping")), all_of_it=True) == CLOSED
    assert service.asked == 0


class Impostor(Service):
    """One without the key in the place of a service: answers with what does harm where it is unpickled."""

    def __init__(self, reply: Any, request_digest: bytes | None) -> None:
        super().__init__(NAME, KEY, {"lo"})
        wire = network.Wire(KEY, NAME)

        class Replay(network.Wire):
            def write(self, obj: Any, wfile: Any, digest: bytes = b"") -> bytes:
                return bytes(wire.write(reply, wfile, digest if request_digest is None else request_digest))

        self._wire = Replay(KEY, NAME)


def test_a_client_unpickles_the_answer_to_its_own_request_alone(tmp_path: Path) -> None:
    impostor = Impostor(network.PingResponse(NAME, "127.0.0.1"), None)
    network.BasicClient(NAME, impostor.addresses(), KEY, 0)
    impostor.shutdown()
    impostor = Impostor(Payload(tmp_path / "taken"), b"x" * 32)
    with pytest.raises(network.NoValidAddressesFound):
        network.BasicClient(NAME, impostor.addresses(), KEY, 0)
    impostor.shutdown()
    assert not (tmp_path / "taken").exists()


class Driver:
    """Connects to workers as the elastic driver does."""

    def __init__(self) -> None:
        self.clients: list[WorkerNotificationClient] = []

    def register_worker_server(self, host: str, slot: int, addresses: Any, key: bytes) -> None:
        self.clients.append(WorkerNotificationClient(addresses, key, 0))


def test_an_elastic_worker_hears_of_new_hosts_and_its_key_is_sent_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    told: list[tuple[int, Any]] = []
    sent: list[bytes] = []
    server = RendezvousServer()
    port = server.start(create_rendezvous_handler(driver), "127.0.0.1")
    server.init([])
    monkeypatch.setenv(secret.HOROVOD_JOB_KEY, server.key.hex())
    sendall = socket.socket.sendall

    def noted(sock: socket.socket, data: bytes, *more: int) -> None:
        sent.append(bytes(data))
        sendall(sock, data, *more)

    monkeypatch.setattr(socket.socket, "sendall", noted)

    class Listener:
        def on_hosts_updated(self, timestamp: int, update: Any) -> None:
            told.append((timestamp, update))

    managers = [WorkerNotificationManager() for _ in range(2)]
    for manager in managers:
        manager.register_listener(Listener())
        # Both in one place, one after the other.
        manager.init("127.0.0.1", port, "lo", "host", 0)
    try:
        for client in driver.clients:
            client.notify_hosts_updated(7, HostUpdateResult.added)
        assert told == [(7, HostUpdateResult.added)] * 2
        keys = [manager._service._wire._key for manager in managers]
        assert keys[0] != keys[1]
        everything = b"".join(sent)
        assert b"worker_addresses" in everything
        for key in (*keys, server.key):
            assert key not in everything
            assert key.hex().encode() not in everything
    finally:
        for manager in managers:
            manager._service.shutdown()
        server.stop()
