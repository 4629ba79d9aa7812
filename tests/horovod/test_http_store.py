"""The launcher's HTTP store serves the job's own workers, whatever others send, and believes nothing of that."""

from __future__ import annotations

import hashlib
import http.server
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from horovod.runner.common.util import guard
from horovod.runner.elastic.rendezvous import create_rendezvous_handler
from horovod.runner.http import http_auth, http_client
from horovod.runner.http.http_server import RENDEZVOUS_MAX_BODY, KVStoreServer, RendezvousServer

from tests.horovod.attacks import (
    CLOSED,
    drip,
    mutated,
    request,
    send,
    signed,
    silent_connections,
    status,
    throw,
)


class Store:
    """A running server, and what a worker does with it."""

    def __init__(self, server: RendezvousServer, port: int) -> None:
        self.key = server.key
        self.address = ("127.0.0.1", port)
        self.server = server._httpd

    def put(self, scope: str, name: str, value: bytes) -> None:
        http_client.put_value(*self.address, scope, name, value, self.key)

    def get(self, scope: str, name: str) -> bytes | None:
        value: bytes | None = http_client.get_value(*self.address, scope, name, self.key)
        return value

    def works(self) -> bool:
        """A worker's value arrives and comes back."""
        value = os.urandom(16)
        self.put("works", "value", value)
        return self.get("works", "value") == value


class Driver:
    """What the elastic handler asks of the driver: counts who says to be ready, and waits for `complete`."""

    def __init__(self) -> None:
        self.ready = 0
        self.complete = threading.Event()

    def record_ready(self, host: str, slot: int) -> None:
        self.ready += 1
        assert self.complete.wait(20)

    def get_slot_info(self, host: str, slot: int) -> Driver:
        return self

    rank, size = 0, 1

    def to_response_string(self) -> str:
        return "0,1,0,1,0,1"


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[RendezvousServer, int]]:
    server = RendezvousServer()
    yield server, server.start(address="127.0.0.1")
    server.stop()


@pytest.fixture
def store(running: tuple[RendezvousServer, int]) -> Store:
    """One server for all, since each takes half a second to stop; emptied, and with nothing to tell."""
    running[0].init([])
    running[0]._httpd.refusals = guard.RefusalLog("rendezvous server")
    return Store(*running)


def test_workers_put_read_and_take_away(store: Store) -> None:
    assert store.get("scope", "name") is None
    store.put("scope", "name", b"\x00value")
    assert store.get("scope", "name") == b"\x00value"
    assert status(send(store.address, signed(store.key, "DELETE", "/scope/name"))) == 200
    assert store.get("scope", "name") is None


def wrong_requests(key: bytes) -> dict[str, bytes]:
    """Requests that somebody without the key can make, with an earlier job's and with a worker's recorded one."""
    genuine = signed(key, "PUT", "/scope/name", b"value")
    return {
        "no token": request("PUT", "/scope/name", b"stolen"),
        "an empty token": request("PUT", "/scope/name", b"stolen", f"{http_auth.DIGEST_HEADER}: "),
        "a wrong token": request("PUT", "/scope/name", b"stolen", f"{http_auth.DIGEST_HEADER}: {'0' * 64}"),
        "another job's token": signed(os.urandom(32), "PUT", "/scope/name", b"stolen"),
        "another body": genuine.replace(b"value", b"stole"),
        "another path": genuine.replace(b"/scope/name", b"/scope/mane"),
        "another method": genuine.replace(b"PUT", b"GET"),
        "a longer body": genuine.replace(b"Content-Length: 5", b"Content-Length: 6") + b"s",
        "a second length": genuine.replace(b"Content-Length: 5", b"Content-Length: 6\r\nContent-Length: 5") + b"s",
        "another nonce": genuine.replace(
            http_auth.NONCE_HEADER.encode() + b": ", http_auth.NONCE_HEADER.encode() + b": 0"
        ),
        "no length": genuine.replace(b"Content-Length: 5\r\n", b""),
        "a digest of letters": request("GET", "/scope/name", b"", f"{http_auth.DIGEST_HEADER}: {'é' * 64}"),
        "a file": request("HEAD", "/README.md"),
        "chunks": request("PUT", "/scope/name", b"6\r\nstolen\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    }


@pytest.mark.parametrize("what", list(wrong_requests(b"")))
def test_nobody_else_puts_or_reads(what: str, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.put("scope", "name", b"value")
    store.put("scope", "mane", b"other")
    answer = send(store.address, wrong_requests(store.key)[what])
    assert status(answer) in (0, 401)
    assert b"value" not in answer
    assert (store.get("scope", "name"), store.get("scope", "mane")) == (b"value", b"other")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("horovod: the rendezvous server refused ")
    assert " from 127.0.0.1:" in caplog.messages[0]


def test_what_is_refused_is_refused_before_its_body_is_read(store: Store) -> None:
    """The answer comes while the body is still to be sent, of which there would be a terabyte."""
    head = request("PUT", "/scope/name", b"").replace(b"Content-Length: 0", b"Content-Length: 999999999999")
    since = time.monotonic()
    assert status(send(store.address, head)) == 401
    assert time.monotonic() - since < guard.STRANGER_SECONDS


def test_a_request_that_changes_something_is_taken_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    put = signed(store.key, "PUT", "/scope/name", b"first")
    assert status(send(store.address, put)) == 200
    store.put("scope", "name", b"second")
    assert status(send(store.address, put)) == 401
    delete = signed(store.key, "DELETE", "/scope/name")
    assert status(send(store.address, delete)) == 200
    store.put("scope", "name", b"third")
    assert status(send(store.address, delete)) == 401
    assert store.get("scope", "name") == b"third"
    assert [message.rsplit(": ", 1)[1] for message in caplog.messages] == ["it was sent before"] * 2


@pytest.fixture
def elastic() -> Iterator[tuple[Driver, Store]]:
    driver = Driver()
    server = RendezvousServer()
    port = server.start(create_rendezvous_handler(driver), "127.0.0.1")
    server.init([])
    yield driver, Store(server, port)
    server.stop()


def test_who_asks_for_a_rank_says_to_be_ready_and_nobody_says_it_again(elastic: tuple[Driver, Store]) -> None:
    driver, store = elastic
    driver.complete.set()
    asks = signed(store.key, "GET", "/rank_and_size/host:0")
    assert [status(send(store.address, asks)) for _ in range(2)] == [200, 401]
    assert driver.ready == 1


def test_who_waits_for_a_rank_is_not_turned_away_for_strangers(elastic: tuple[Driver, Store]) -> None:
    driver, store = elastic
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(send, store.address, signed(store.key, "GET", "/rank_and_size/host:0"))
        with silent_connections(store.address, 4 * guard.MAX_STRANGERS):
            assert store.works()
            assert driver.ready == 1
            driver.complete.set()
            assert status(answer.result()) == 200


@pytest.mark.parametrize("path", ["/scope", "/scope/name/more", "/", "*"])
def test_a_workers_own_mistakes_are_answered(path: str, store: Store) -> None:
    assert status(send(store.address, signed(store.key, "GET", path))) == 400
    assert status(send(store.address, signed(store.key, "POST", "/scope/name"))) == 400
    assert store.works()


def test_no_body_is_larger_than_a_limit(store: Store) -> None:
    store.put("scope", "name", b"x" * RENDEZVOUS_MAX_BODY)
    with pytest.raises(RuntimeError):
        store.put("scope", "name", b"x" * (RENDEZVOUS_MAX_BODY + 1))
    assert store.get("scope", "name") == b"x" * RENDEZVOUS_MAX_BODY


def test_a_head_has_little_time_and_few_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert send(store.address, b"GET /" + b"a" * 9000) == CLOSED
    assert send(store.address, request("GET", "/", b"", *[f"a{number}: {'b' * 90}" for number in range(90)])) == CLOSED
    seconds = drip(store.address, signed(store.key, "GET", "/scope/name"), pause=0.2, seconds=30)
    assert guard.STRANGER_SECONDS - 1 < seconds < guard.STRANGER_SECONDS + 3


def test_a_body_has_its_time_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MESSAGE_SECONDS", 0.5)
    data = signed(store.key, "PUT", "/scope/name", b"value")
    with socket.create_connection(store.address, timeout=20) as sock:
        sock.sendall(data[:-3])
        since = time.monotonic()
        assert sock.recv(100) == b""
        assert time.monotonic() - since < 5
    assert store.get("scope", "name") is None


def test_a_thousand_silent_connections_keep_no_worker_waiting(store: Store) -> None:
    threads = threading.active_count()
    with silent_connections(store.address, 1000):
        since = time.monotonic()
        assert all(store.works() for _ in range(5))
        assert time.monotonic() - since < guard.STRANGER_SECONDS
        assert threading.active_count() - threads < 2 * guard.MAX_STRANGERS


def test_many_who_shout_keep_no_worker_waiting(store: Store) -> None:
    """Some of a worker's connections may be dropped meanwhile, and it comes again."""
    over = threading.Event()

    def shout(seed: int) -> int:
        random_, sent = random.Random(seed), 0
        while not over.is_set():
            sent += throw(store.address, random_, 20)
        return sent

    with ThreadPoolExecutor(4) as executor:
        shouting = [executor.submit(shout, seed) for seed in range(4)]
        try:
            assert all(store.works() for _ in range(50))
        finally:
            over.set()
        assert all(future.result() > 0 for future in shouting)


def test_where_all_cannot_wait_those_of_the_address_that_most_are_from_go_first() -> None:
    strangers = {
        "a": ("10.0.0.1", 1),
        "b": ("10.0.0.2", 1),
        "c": ("10.0.0.2", 2),
        "d": ("10.0.0.1", 2),
        "e": ("10.0.0.2", 3),
    }
    server = object.__new__(guard.GuardedThreadingMixIn)
    server._strangers = strangers
    assert server._one_too_many() == "b"


def test_nothing_random_gets_in(store: Store) -> None:
    assert throw(store.address, random.Random(1), 2000) == 2000
    assert store.server.cache == {}
    assert store.works()


def test_not_even_a_bit_may_be_another(store: Store) -> None:
    """A worker's own request with a few bytes changed: nothing comes of it, but for the parts that mean nothing."""
    random_ = random.Random(2)
    for number in range(500):
        put = signed(store.key, "PUT", f"/scope/{number}", b"some value")
        if status(send(store.address, mutated(random_, put), all_of_it=True)) == 200:
            assert store.get("scope", str(number)) == b"some value"
    assert set(store.server.cache.get("scope", {}).values()) <= {b"some value"}
    assert store.works()


def test_little_is_logged_however_much_comes_and_nothing_of_it_breaks_lines(caplog: pytest.LogCaptureFixture) -> None:
    log = guard.RefusalLog("store")
    for number in range(1000):
        log.add((f"10.0.0.{number % 3}", number), "why", "PUT /\n\x1b[31mERROR all is lost" + "x" * 1000)
    log.close()
    assert len(caplog.messages) == guard.REFUSALS_SHOWN + 1
    assert caplog.messages[0].startswith(r"horovod: the store refused PUT /\n\x1b[31mERROR all is lost")
    assert caplog.messages[0].endswith(" from 10.0.0.0:0: why")
    assert max(map(len, caplog.messages)) < 160
    told = caplog.messages[-1]
    assert all(f"330 more from 10.0.0.{host}" in told for host in range(3))
    assert caplog.records[0].levelno == logging.WARNING


def test_it_listens_where_it_is_told(store: Store) -> None:
    assert store.server.socket.getsockname()[0] == "127.0.0.1"
    functions = KVStoreServer(verbose=0)
    port = functions.start_server("127.0.0.1")
    assert functions.httpd.socket.getsockname() == ("127.0.0.1", port)
    functions.shutdown_server()


def test_each_server_has_a_key_of_its_own_where_none_is_given() -> None:
    assert len({RendezvousServer().key, RendezvousServer().key, KVStoreServer(0).key}) == 3


# --- what clients believe --------------------------------------------------------------------------------------------


@pytest.fixture
def impostor() -> Iterator[Callable[[Callable[[http.server.BaseHTTPRequestHandler], None]], tuple[str, int]]]:
    """Starts a server that answers in a worker's store's place, as it is told."""
    servers = []

    def start(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> tuple[str, int]:
        class Handler(http.server.BaseHTTPRequestHandler):
            do_GET = do_PUT = answer  # noqa: N815 - the names are the base class's

            def log_message(self, *arguments: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return "127.0.0.1", server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


KEY = os.urandom(32)
Impostor = Callable[[Callable[[http.server.BaseHTTPRequestHandler], None]], tuple[str, int]]


def answer_with(
    handler: http.server.BaseHTTPRequestHandler, code: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("code", [200, 404, 302, 401])
def test_a_client_believes_no_one_without_the_key(code: int, impostor: Impostor) -> None:
    address = impostor(lambda handler: answer_with(handler, code, b"1,2,3", {"Location": "http://127.0.0.1:1/"}))
    with pytest.raises(RuntimeError, match="not from the KVStore server of this job"):
        http_client.get_value(*address, "scope", "name", KEY)
    with pytest.raises(RuntimeError, match="not from the KVStore server of this job"):
        http_client.put_value(*address, "scope", "name", b"", KEY)


def test_an_answer_to_one_request_is_none_to_another(impostor: Impostor) -> None:
    """As somebody between the two could give it who has recorded them."""
    recorded: dict[str, dict[str, str]] = {}

    def replay(handler: http.server.BaseHTTPRequestHandler) -> None:
        digest = handler.headers[http_auth.DIGEST_HEADER]
        headers = recorded.setdefault("first", http_auth.sign_answer(KEY, digest, 200, b"old"))
        answer_with(handler, 200, b"old", headers)

    address = impostor(replay)
    assert http_client.get_value(*address, "scope", "name", KEY) == b"old"
    with pytest.raises(RuntimeError, match="not from the KVStore server of this job"):
        http_client.get_value(*address, "scope", "name", KEY)


def test_neither_status_nor_body_of_an_answer_can_be_changed(impostor: Impostor) -> None:
    def changing(code: int, body: bytes) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            genuine = http_auth.sign_answer(KEY, handler.headers[http_auth.DIGEST_HEADER], 200, b"value")
            answer_with(handler, code, body, genuine)

        return answer

    assert http_client.get_value(*impostor(changing(200, b"value")), "scope", "name", KEY) == b"value"
    for code, body in ((404, b"value"), (200, b"other"), (200, b"")):
        with pytest.raises(RuntimeError, match="not from the KVStore server of this job"):
            http_client.get_value(*impostor(changing(code, body)), "scope", "name", KEY)


def test_a_client_whose_connection_is_dropped_comes_again_with_another_nonce(impostor: Impostor) -> None:
    nonces = []

    def drops_two(handler: http.server.BaseHTTPRequestHandler) -> None:
        nonces.append(handler.headers[http_auth.NONCE_HEADER])
        if len(nonces) < 3:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        answer_with(handler, 200, b"", http_auth.sign_answer(KEY, handler.headers[http_auth.DIGEST_HEADER], 200, b""))

    http_client.put_value(*impostor(drops_two), "scope", "name", b"value", KEY)
    assert len(set(nonces)) == 3


def test_a_client_asks_the_store_and_no_proxy(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert store.works()


def test_without_a_key_nothing_is_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "not hexadecimal"):
        if value is None:
            monkeypatch.delenv("_HOROVOD_JOB_KEY", raising=False)
        else:
            monkeypatch.setenv("_HOROVOD_JOB_KEY", value)
        with pytest.raises(RuntimeError, match="_HOROVOD_JOB_KEY"):
            http_client.get_value(*store.address, "scope", "name")


def test_the_key_itself_is_never_sent(store: Store) -> None:
    data = signed(store.key, "PUT", "/scope/name", b"value")
    derived = http_auth.secret.derive_key(store.key, http_auth.KEY_PURPOSE)
    for secret in (store.key, derived):
        assert secret not in data
        assert secret.hex().encode() not in data
        assert hashlib.sha256(secret).hexdigest().encode() not in data
