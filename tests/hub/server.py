"""A loopback server that answers the Hugging Face hub's read requests, over a folder of repositories.

The folder: ``datasets/ORG/NAME/commits/SHA/FILES`` and ``.../refs/BRANCH`` (a file that holds a SHA), the same
under ``models``; a file ``private`` or ``gated`` in a repository closes it to those without a token.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

API = re.compile(
    r"/api/(datasets|models)/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info|refs)(?:/([^/]+)(?:/(.*))?)?)?"
)
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def publish(root: Path, kind: str, repository: str, files: Mapping[str, bytes], revision: str = "main") -> str:
    """Make ``files`` the content of a branch of ``datasets`` or ``models``; the commit's name is their hash."""
    digest = hashlib.sha1(f"{repository} {revision}".encode())
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha1(files[name]).digest())
    folder, commit = root / kind / repository, digest.hexdigest()
    for name, data in files.items():
        path = folder / "commits" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    ref = folder / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)
    return commit


class Hub:
    """The server, as a context: ``url`` is what HF_ENDPOINT must be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tokens: set[str] = set()
        """Tokens that open private and gated repositories."""
        self.cuts: dict[str, int] = {}
        """File -> number of bytes after which its next download is cut off, once."""
        self.failures: Counter[str] = Counter()
        """File -> how many of its next downloads are answered with an error 500."""
        self.log: list[tuple[str, str, str]] = []
        """Method, path and Range of every request."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self.open: set[socket.socket] = set()
        """Connections that clients keep for their next request."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self.open):  # or they would go on being answered
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def downloads(self, name: str = "") -> list[tuple[str, str]]:
        """File and Range of the downloads so far whose path ends in ``name``."""
        return [
            (path.partition("/resolve/")[2].partition("/")[2], span)
            for method, path, span in self.log
            if method == "GET" and "/resolve/" in path and path.endswith(name)
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.open.add(self.connection)

    def finish(self) -> None:
        self.hub.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error; the log is in the hub."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.log.append((self.command, unquote(path), self.headers.get("Range", "")))
        if match := API.fullmatch(path):
            kind, repository, verb, revision, _ = match.groups()
            self._about(kind, repository, verb or "revision", unquote(revision or "main"))
        elif match := RESOLVE.fullmatch(path):
            kind = "datasets" if match[1] else "models"
            self._file(kind, match[2], unquote(match[3]), unquote(match[4]))
        else:
            self._refuse(404, "", "Not Found")

    def _about(self, kind: str, repository: str, verb: str, revision: str) -> None:
        folder = self._repository(kind, repository)
        if folder is None:
            return
        if verb == "refs":
            self._json(self._refs(folder))
            return
        commit = self._commit(folder, revision)
        if commit is None:
            return
        files = _files(folder / "commits" / commit)
        if verb == "revision":
            siblings = [{"rfilename": name} for name in files]
            about = {"id": repository, "sha": commit, "private": False, "gated": False, "tags": [], "cardData": {}}
            self._json({**about, "modelId": repository, "siblings": siblings, "downloads": 0, "likes": 0})
            return
        entries = [_entry(name, path) for name, path in files.items()]
        if verb == "paths-info":
            wanted = json.loads(self._body)["paths"]
            entries = [entry for entry in entries if entry["path"] in wanted]
        self._json(entries)

    def _refs(self, folder: Path) -> dict[str, list[dict[str, str]]]:
        found: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
        for name, path in _files(folder / "refs").items():
            short = name.removeprefix("refs/convert/")
            ref = name if short != name else f"refs/heads/{name}"
            group = found["converts" if short != name else "branches"]
            group.append({"name": short, "ref": ref, "targetCommit": path.read_text()})
        return found

    def _file(self, kind: str, repository: str, revision: str, name: str) -> None:
        folder = self._repository(kind, repository)
        commit = self._commit(folder, revision) if folder else None
        if folder is None or commit is None:
            return
        path = folder / "commits" / commit / name
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        data = path.read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        if self.command == "GET" and self.hub.failures[name] > 0:
            self.hub.failures[name] -= 1
            self._refuse(500, "", "Internal Error")
            return
        status, first = 200, 0
        if span := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, first = 206, int(span[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        cut = self.hub.cuts.pop(name, None) if self.command == "GET" else None
        self._send(status, data[first:], headers, cut)

    def _repository(self, kind: str, repository: str) -> Path | None:
        """Its folder; else None, and it is answered as the hub does: 401 to whom it does not know."""
        folder = self.hub.root / kind / repository
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif (folder / "gated").exists() and not token:
            self._refuse(401, "GatedRepo", f"Access to {kind} {repository} is restricted.")
        elif not (folder / "refs").is_dir() or ((folder / "private").exists() and not token):
            status, code = (404, "RepoNotFound") if token else (401, "")
            self._refuse(status, code, "Repository not found" if token else "Invalid username or password.")
        elif (folder / "forbidden").exists():
            self._refuse(403, "", "Your token may not read this repository")
        else:
            return folder
        return None

    def _commit(self, folder: Path, revision: str) -> str | None:
        if (folder / "commits" / revision).is_dir():
            return revision
        ref = folder / "refs" / revision
        if ref.is_file():
            return ref.read_text()
        self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        more = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Message": message, **more, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _files(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def _entry(name: str, path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
