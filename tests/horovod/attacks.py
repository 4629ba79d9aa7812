"""What a stranger on the network may send to a job: every way in which it can be wrong, large, slow, many or random."""

from __future__ import annotations

import base64
import pickle
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from horovod.runner.http import http_auth

Address = tuple[str, int]
CLOSED = b"closed"


class Payload:
    """Makes a file where it is unpickled: what an attacker would run instead is theirs to choose."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(path: Path) -> bytes:
    """A payload as the stores of Horovod hold their objects."""
    return base64.b64encode(pickle.dumps(Payload(path)))


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """A plain request, as everyone can make it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: job", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def signed(key: bytes, method: str, path: str, body: bytes = b"") -> bytes:
    """A request as a worker with this key makes it."""
    headers, _ = http_auth.sign_request(key, method, path, body)
    return request(method, path, body, *[f"{name}: {value}" for name, value in headers.items()])


def send(address: Address, data: bytes, *, all_of_it: bool = False, seconds: float = 20.0) -> bytes:
    """Send bytes and return what comes back until the other side closes; `CLOSED` where it only does that.

    `all_of_it`: say that no more will come.
    """
    answer = b""
    with socket.create_connection(address, timeout=seconds) as sock:
        try:
            sock.sendall(data)
            if all_of_it:
                sock.shutdown(socket.SHUT_WR)
            while chunk := sock.recv(65536):
                answer += chunk
        except (ConnectionError, BrokenPipeError):
            pass
    return answer or CLOSED


def status(answer: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    parts = answer.split(b" ", 2)
    return int(parts[1]) if len(parts) > 1 and answer.startswith(b"HTTP/") else 0


@contextmanager
def silent_connections(address: Address, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that say nothing."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(count)]


def drip(address: Address, data: bytes, pause: float, seconds: float) -> float:
    """Send a byte at a time; returns after how many seconds the other side has closed, at most `seconds`."""
    since = time.monotonic()
    with socket.create_connection(address, timeout=20) as sock:
        try:
            for byte in data:
                sock.sendall(bytes([byte]))
                time.sleep(pause)
                if time.monotonic() - since > seconds:
                    break
        except (ConnectionError, BrokenPipeError):
            pass
    return time.monotonic() - since


METHODS = ("GET", "PUT", "DELETE", "HEAD", "POST", "OPTIONS", "", "get", "\x00", "GET" * 50)
PATHS = (
    "/",
    "//",
    "/global/0",
    "/rank_and_size/localhost:0",
    "/worker_addresses/localhost:0",
    "/runfunc/func",
    "*",
    "/../x/",
)
NUMBERS = ("-1", "0", "1", "99999999999999999999", "1e3", "0x10", "", "²", "1,2")


def noise(random_: random.Random) -> bytes:
    """Something random: bytes, a request with one thing or all things wrong, or a message of Horovod's own services."""
    kind = random_.randrange(6)
    if kind == 0:
        return random_.randbytes(random_.choice([0, 1, 3, 36, 88, 200, 5000]))
    if kind == 1:
        return random_.randbytes(random_.randrange(100)) + b"\r\n" + random_.randbytes(50) + b"\r\n\r\n"
    if kind == 2:
        # As the services' wire: a digest, a length, a body.
        return random_.randbytes(48) + random_.randrange(1 << 64).to_bytes(8, "big") + random_.randbytes(40)
    names = [http_auth.NONCE_HEADER, http_auth.BODY_HEADER, http_auth.DIGEST_HEADER, "Transfer-Encoding", "Expect"]
    headers = [f"{random_.choice(names)}: {random_.randbytes(random_.choice([0, 16, 32])).hex()}" for _ in range(4)]
    headers.append(f"Content-Length: {random_.choice(NUMBERS)}")
    body = random_.randbytes(random_.randrange(60))
    text = bytearray(request(random_.choice(METHODS), random_.choice(PATHS), body, *random_.sample(headers, 3)))
    if kind == 3:
        for _ in range(random_.randrange(1, 8)):
            text[random_.randrange(len(text))] = random_.randrange(256)
    if kind == 4:
        del text[random_.randrange(len(text)) :]
    return bytes(text)


def throw(address: Address, random_: random.Random, count: int) -> int:
    """Send so many requests of noise; returns how many, fewer only where the other side has ended.

    Half of the connections are closed without looking at the answer.
    """
    sent = 0
    while sent < count:
        try:
            with socket.create_connection(address, timeout=20) as sock:
                sock.sendall(noise(random_))
                sent += 1
                if random_.random() < 0.5:
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1000)
        except (ConnectionResetError, BrokenPipeError):
            sent += 1
        except ConnectionRefusedError:
            break  # the job has ended
    return sent


def mutated(random_: random.Random, data: bytes) -> bytes:
    """The same bytes but for one to three of them."""
    changed = bytearray(data)
    for place in random_.sample(range(len(data)), random_.randint(1, 3)):
        changed[place] ^= random_.randrange(1, 256)
    return bytes(changed)
