"""Nodes that meet: each connects to every other, compares clocks, and looks for its file and its lock in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.files import sees_token, write_token

HERE = "@here"  # in the place of a node's name: the machine that the doctor was called on
PREFIX = ".doctor-"  # of the files that are written into the output folder, and removed
_CONNECT_SECONDS = 3.0
_PAUSE_SECONDS = 0.1
_PORTS = 3  # tried one after the other: somebody may listen already
_MOST_BYTES = 4096


@dataclass(frozen=True)
class Acquaintance:
    """What a node learnt of another one."""

    trouble: str = ""
    """Why it could not be reached; empty where it could."""
    address: str = ""
    """That its name stands for here, or of its interface where the profile names one."""
    round_trip: float = 0.0
    """Seconds that a question and its answer took."""
    clock_ahead: float = 0.0
    """Seconds that its clock is ahead of ours, to within half a round trip."""


@dataclass
class Meeting:
    """One node's part. Every node makes one, with the same ``token`` and ``port``, and calls :meth:`run`."""

    name: str
    others: Sequence[str]
    """Names of the other nodes, as SLURM has them."""
    token: str
    port: int
    folder: Path
    """The output folder, in which whoever asks for the meeting has put the file of ``host``."""
    host: str = ""
    host_locked: bool = False
    """Whether its file is locked."""
    address: str = ""
    """Of the interface that the profile names; empty where it names none."""
    patience_seconds: float = 40.0
    """How long others may take to come: Python starts slowly from a network file system."""
    file_seconds: float = 10.0
    """How long files may take to show up once all have come: network file systems cache folders."""

    met: dict[str, Acquaintance] = field(default_factory=dict)
    not_written: str = ""
    """Why this node's file could not be written."""
    not_seen: list[str] = field(default_factory=list)
    """Whose files did not show up though they were written."""
    no_locks: str = ""
    """Why this node could not lock its file; it holds the lock until the others have left."""
    not_locked: list[str] = field(default_factory=list)
    """Whose files this node could lock though they were locked: that of one other node, and that of the host."""

    def run(self, at: Callable[[str], object] = lambda stage: None) -> None:
        """Meet the others; takes moments where all are well, and where not twice the patience. Never raises OSError."""
        self._visits_end = time.monotonic() + self.patience_seconds
        self._left: set[str] = set()  # others that need nothing more of this node
        self._others_wrote: dict[str, bool] = {}
        self._others_locked: dict[str, bool] = {self.host: self.host_locked}
        at("output folder")
        own = token_file(self.folder, self.token, self.name)
        self.not_written = write_token(own, self.token)
        with contextlib.ExitStack() as stack:
            at("locks in the output folder")
            self.no_locks = "" if self.not_written else stack.enter_context(locked(own))
            at("other nodes")
            listener = self._listen()
            if listener is not None:
                stack.callback(listener.close)
                threading.Thread(target=self._answer, args=(listener,), daemon=True).start()
            if self.others:
                with ThreadPoolExecutor(min(32, len(self.others))) as pool:
                    self.met = dict(zip(self.others, pool.map(self._visit, self.others), strict=True))
            at("files of other nodes")
            self.not_seen = self._unseen()
            at("locks of other nodes")
            self.not_locked = self._free_of_locks()
            self._take_leave()
        with contextlib.suppress(OSError):
            own.unlink(missing_ok=True)

    def _listen(self) -> socket.socket | None:
        for port in range(self.port, self.port + _PORTS):
            with contextlib.suppress(OSError):
                return socket.create_server(("", port), backlog=256, reuse_port=False)
        return None

    def _answer(self, listener: socket.socket) -> None:
        """Tell every visitor the time."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection, contextlib.suppress(OSError, ValueError):
                connection.settimeout(_CONNECT_SECONDS)
                question = _read(connection)
                if question.get("token") != self.token:
                    continue
                answer = {"token": self.token, "name": self.name, "time": time.time(), "address": self.address}
                wrote = not self.not_written
                _write(connection, {**answer, "wrote": wrote, "locked": wrote and not self.no_locks})
                if question.get("leaving"):
                    self._left.add(str(question.get("name")))

    def _visit(self, other: str) -> Acquaintance:
        """Ask another node until it answers: by its name, then at its interface's address."""
        trouble = "no answer"
        while True:
            try:
                first = self._ask(other)
                address = str(first[0].get("address") or "") or first[1]
                answer, _, round_trip, ahead = self._ask(address)
                self._others_wrote[other] = bool(answer.get("wrote"))
                self._others_locked[other] = bool(answer.get("locked"))
                return Acquaintance("", address, round_trip, ahead)
            except socket.gaierror as error:
                trouble = f"its name does not resolve: {error.strerror}"
            except TimeoutError:
                trouble = f"no answer on port {self.port} (timed out)"
            except (OSError, ValueError) as error:
                trouble = f"port {self.port}: {getattr(error, 'strerror', None) or error}"
            if time.monotonic() > self._visits_end:
                return Acquaintance(trouble)
            time.sleep(_PAUSE_SECONDS)

    def _ask(self, address: str, leaving: bool = False) -> tuple[dict[str, Any], str, float, float]:
        """The answer, the address that gave it, the round trip and how far its clock is ahead, in seconds."""
        trouble: OSError | ValueError = ConnectionRefusedError("nobody listens")
        for port in range(self.port, self.port + _PORTS):
            try:
                with socket.create_connection((address, port), timeout=_CONNECT_SECONDS) as connection:
                    before = time.time()
                    _write(connection, {"token": self.token, "name": self.name, "leaving": leaving})
                    answer = _read(connection)
                    after = time.time()
                    if answer.get("token") != self.token:
                        raise ValueError("another program answers")
                    ahead = float(answer["time"]) - (before + after) / 2
                    return answer, str(connection.getpeername()[0]), after - before, ahead
            except (ConnectionRefusedError, ValueError) as error:
                trouble = error  # perhaps on the next port
        raise trouble

    def _unseen(self) -> list[str]:
        """Whose files have not shown up in time, of all that were written."""
        wanted = [name for name in (*self.others, self.host) if name and self._others_wrote.get(name, True)]
        end = time.monotonic() + self.file_seconds
        while True:
            with contextlib.suppress(OSError):
                os.listdir(self.folder)  # makes NFS ask its server again; a look at the file alone would not
            wanted = [name for name in wanted if not sees_token(token_file(self.folder, self.token, name), self.token)]
            if not wanted or time.monotonic() > end:
                return wanted
            time.sleep(_PAUSE_SECONDS)

    def _free_of_locks(self) -> list[str]:
        """Who holds a lock that is not felt here; none where this node cannot lock anything itself."""
        if self.no_locks or self.not_written:
            return []
        holding = [name for name in (*self.others, self.host) if self._others_locked.get(name)]
        tried = [name for name in (*holding[:1], *holding[-1:]) if name not in self.not_seen]
        free = []
        for name in dict.fromkeys(tried):
            with locked(token_file(self.folder, self.token, name)) as refused:
                free += [] if refused else [name]
        return free

    def _take_leave(self) -> None:
        """Say so to all that were met, and stay until they have: they may still look for this node's file."""
        met = {name: seen.address for name, seen in self.met.items() if not seen.trouble}
        for address in met.values():
            with contextlib.suppress(OSError, ValueError):
                self._ask(address, leaving=True)
        end = time.monotonic() + self.patience_seconds
        while not {*met} <= self._left and time.monotonic() < end:
            time.sleep(_PAUSE_SECONDS)


def token_file(folder: Path, token: str, name: str) -> Path:
    """The file of ``name`` in one meeting."""
    return folder / f"{PREFIX}{token}-{name}"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[str]:
    """Lock a file as run directories are locked; yields why that could not be done, or nothing."""
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context(open(path, "r+", encoding="ascii"))  # NFS wants it open for writing
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield error.strerror or str(error)
        else:
            yield ""


def _read(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n") and len(data) < _MOST_BYTES:
        part = connection.recv(_MOST_BYTES)
        if not part:
            break
        data += part
    value = json.loads(data or b"{}")
    return value if isinstance(value, dict) else {}


def _write(connection: socket.socket, value: object) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")
