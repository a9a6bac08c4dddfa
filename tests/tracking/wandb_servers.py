"""Servers for the tests of W&B: one that speaks its protocol, and some that misbehave."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY = "local0000000000000000000000000000000000000000"  # the key that an openwandb server starts with


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], object]) -> None:
    """Return once ``true()`` holds; the test's own timeout ends a wait in vain."""
    while not true():
        time.sleep(0.05)


class OpenWandb:
    """A W&B-compatible server on loopback, and what has arrived there."""

    def __init__(self, executable: str, folder: Path) -> None:
        self._executable, self._folder = executable, folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        address = ["--host", "127.0.0.1", "--port", str(self._port), "--base-url", self.url]
        with open(self._folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                [self._executable, "serve", *address, "--data-dir", str(self._folder)], stdout=log, stderr=log
            )
        wait_until(self._answers)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "server.log").read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=1):
            return True
        return False

    def query(self, statement: str, *values: object) -> list[tuple]:
        database = self._folder / "openwandb.db"
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()

    def runs(self) -> list[str]:
        return [name for (name,) in self.query("select run_id from runs")]

    def artifacts(self, run: str) -> list[tuple]:
        return self.query("select name, artifact_type from artifacts where run_id = ?", run)

    def metrics(self, run: str, repeated: bool = False) -> dict[tuple[int, str], float]:
        """{(step of the trainer, key): value}; each value must have arrived once, or be ``repeated``.

        (A second upload of a file begins at its first row; W&B's servers replace rows, this one appends them.)
        """
        rows: dict[int, dict[str, float]] = {}
        for counter, key, value in self.query("select step, key, value from metrics where run_id = ?", run):
            known = rows.setdefault(counter, {})
            assert key not in known or (repeated and known[key] == value), (counter, key)
            known[key] = value
        return {
            (int(row["trainer/step"]), key): value
            for row in rows.values()
            for key, value in row.items()
            if key != "trainer/step" and not key.startswith("_")
        }


class Misbehaving:
    """Answers every request with one status; ``hang`` accepts and never answers; an upstream is asked first."""

    def __init__(self, behaviour: str, upstream: str = "") -> None:
        self.behaviour, self.upstream = behaviour, upstream
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_PUT = do_GET

            def log_message(self, *arguments: object) -> None:
                pass

        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if not self.behaviour:
            status, body = self._ask_upstream(handler, data)
        else:
            self.requests += 1
            if self.behaviour == "hang":
                self._released.wait()
                return
            status, body = int(self.behaviour), b'{"errors": [{"message": "refused by the test"}]}'
        with contextlib.suppress(OSError):
            handler.send_response(status)
            if status == 429:
                handler.send_header("Retry-After", "60")
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

    def _ask_upstream(self, handler: BaseHTTPRequestHandler, data: bytes) -> tuple[int, bytes]:
        dropped = ("host", "content-length", "accept-encoding", "connection")
        headers = {key: value for key, value in handler.headers.items() if key.lower() not in dropped}
        request = urllib.request.Request(
            self.upstream + handler.path, data=data or None, headers=headers, method=handler.command
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def stop(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
