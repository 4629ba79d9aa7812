"""The launcher's side of an elastic job: its rendezvous server. Prints port and key, goes on until its input ends."""

from __future__ import annotations

import sys
from typing import Any

from horovod.runner.elastic.rendezvous import create_rendezvous_handler
from horovod.runner.http.http_server import RendezvousServer


class Driver:
    """Notes what it is told; the real one would connect to the address."""

    def register_worker_server(self, host: str, slot: int, addresses: Any, secret_key: bytes) -> None:
        print(f"registered {host}:{slot}", flush=True)


server = RendezvousServer()
port = server.start(create_rendezvous_handler(Driver()))
server.init([])
print(port, getattr(server, "key", b"").hex(), flush=True)
sys.stdin.read()
server.stop()
