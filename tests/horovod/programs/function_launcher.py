"""The launcher's side of `horovod.run`: a store with the function. Prints port and key, then the worker's result."""

from __future__ import annotations

import sys
from typing import Any

from horovod.runner.http.http_client import put_data_into_kvstore, read_data_from_kvstore
from horovod.runner.http.http_server import KVStoreServer


def work() -> str:
    return "the job's own function"


server = KVStoreServer(verbose=0)
port = server.start_server()
key: list[Any] = [server.key] if hasattr(server, "key") else []
put_data_into_kvstore("127.0.0.1", port, "runfunc", "func", work, *key)
print(port, key[0].hex() if key else "", flush=True)
sys.stdin.readline()
print(read_data_from_kvstore("127.0.0.1", port, "runfunc_result", "0", *key), flush=True)
server.shutdown_server()
