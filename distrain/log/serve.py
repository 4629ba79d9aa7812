"""The small HTTP endpoint of a run that goes on: what a monitoring system scrapes, and a report for whoever looks.

GET /metrics   Prometheus metrics
GET /healthz   200 while the run gets on, 503 where it stands still
GET /          the report of now

It answers questions and takes nothing: no request has a body, and nothing that it says changes the run.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from distrain import __version__
from distrain.errors import BadInput
from distrain.log.apart import NICENESS, environment
from distrain.log.live import Live

# A client that is slower than that is let go, and more of them at once are.
CLIENT_SECONDS = 10.0
MOST_CLIENTS = 16
# A report is made anew when it is older, by a process that gives way to training.
REPORT_SECONDS = 15.0
REPORT_LIMIT_SECONDS = 120.0
# The page carries all that it shows; nothing is to be loaded from anywhere.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)


class Server:
    """Answers on `address` and `port` until it is closed; port 0 takes any that is free.

    Raises `BadInput` where it cannot be had.
    """

    def __init__(self, address: str, port: int, live: Live, report: Callable[[], bytes]) -> None:
        self.live = live
        loopback = ipaddress.ip_address(address).is_loopback

        class Handler(_Handler):
            pass

        Handler.live, Handler.report, Handler.loopback = live, staticmethod(report), loopback

        class Listening(_Listening):
            address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

        try:
            self._server = Listening((address, port), Handler)
        except OSError as error:
            seen = f"{address} port {port} cannot be had ({error.strerror})"
            raise BadInput(f"'log.serve': {seen}, expected a free one of this machine; port 0 takes any") from error
        host, self.port = self._server.server_address[:2]
        shown = f"[{host!s}]" if ":" in address else str(host)
        self.url = f"http://{shown}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="serve", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer no longer."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Report:
    """The report of a run as it is now, made at most every `REPORT_SECONDS`, by a process of its own."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._making = threading.Lock()
        self._page: bytes | None = None
        self._failure = "a report is being made: ask again"
        self._made = -math.inf
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def __call__(self) -> bytes:
        """The page; the one before, while a new one is made. Raises `OSError` where there is none."""
        if self._making.acquire(blocking=False):
            try:
                if time.monotonic() - self._made > REPORT_SECONDS:
                    self._make()
            finally:
                self._making.release()
        if self._page is None:
            raise OSError(self._failure)
        return self._page

    def close(self) -> None:
        """Make no more; what is being made is given up."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._making:
            pass

    def _make(self) -> None:
        with tempfile.TemporaryDirectory(prefix="distrain-report-") as folder:
            path = Path(folder) / "report.html"
            program = f"import os, sys; os.nice({NICENESS}); from distrain.cli.main import main; sys.exit(main())"
            command = [sys.executable, "-c", program, "report", str(self._run), "--to", str(path)]
            self._process = process = subprocess.Popen(
                command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            if self._closed:
                process.kill()
            try:
                _, errors = process.communicate(timeout=REPORT_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                _, errors = process.communicate()[0], f"no report within {REPORT_LIMIT_SECONDS:.0f} s"
            if process.returncode:
                self._page, self._failure = None, (errors.strip().splitlines() or ["no report could be made"])[-1]
            else:
                self._page = path.read_bytes()
        self._made = time.monotonic()


class _Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MOST_CLIENTS

    def server_bind(self) -> None:
        # As a plain server does: HTTPServer asks for the address's name, and where no one answers, waits.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def __init__(self, *arguments: Any) -> None:
        self._places = threading.BoundedSemaphore(MOST_CLIENTS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone or is too slow is no matter of the run's."""


class _Handler(BaseHTTPRequestHandler):
    live: Live
    report: Callable[[], bytes]
    loopback: bool
    timeout = CLIENT_SECONDS
    server_version = f"distrain/{__version__}"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        # `timeout` is for each part that comes; all of them together have no longer.
        self._deadline = threading.Timer(CLIENT_SECONDS, self._let_go)
        self._deadline.daemon = True
        self._deadline.start()

    def parse_request(self) -> bool:
        parsed = super().parse_request()
        self._deadline.cancel()
        return parsed

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):  # gone by itself
            self.connection.shutdown(socket.SHUT_RD)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.loopback and not self._means_this_machine():
            # A page from elsewhere, in a browser here, whose name has come to mean this machine.
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"expected the host of this address\n")
        elif self.path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, self.live.exposition())
        elif self.path == "/healthz":
            good, why = self.live.health()
            status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "text/plain; charset=utf-8", f"{why}\n".encode())
        elif self.path == "/":
            try:
                page = self.report()
            except OSError as error:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error}\n".encode())
            else:
                self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"expected /, /metrics or /healthz\n")

    def _means_this_machine(self) -> bool:
        host = self.headers.get("Host", "localhost").strip()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name == "localhost":
            return True
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return False

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """What is asked is no part of the run's log."""
