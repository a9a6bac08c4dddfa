"""A line from every rank to rank 0, beside training: what is said over it arrives, and a rank that dies drops it.

Plain TCP with one JSON object a line. The kernel closes a dead process's connections, so that a killed rank is known
at once, whoever started it; a store key or a heartbeat file would have to go stale first. Nothing here blocks, and
torch.distributed's store is used once, to find rank 0: its calls wait for ever while its host stands still, and hold
a lock that the main thread may be waiting in.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import selectors
import signal
import socket
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, Any]

STORE_KEY = "xtrain/peers"
MEET_SECONDS = 60.0  # for all ranks to reach rank 0 once the process group stands
LINE_LIMIT = 1 << 20  # bytes of a message; more is no message of ours
STACK_SIGNAL = signal.SIGRTMIN + 5  # makes a rank write its stacks, even while native code holds the interpreter


class Store(Protocol):
    """What is used of torch.distributed's store."""

    def set(self, key: str, value: str, /) -> None:
        """Make ``value`` known to all ranks under ``key``."""

    def get(self, key: str, /) -> bytes:
        """The value of ``key``, waited for."""


@dataclass(frozen=True)
class Process:
    """Which process a rank is, so that nobody else's is ever taken for it."""

    host: str
    pid: int
    machine: str
    """Boot id and PID namespace: equal where a PID means the same process."""
    started: str
    """Clock ticks from boot to its start: a PID that was given out again has another."""

    @classmethod
    def this(cls) -> Process:
        """The calling process."""
        return cls(socket.gethostname(), os.getpid(), _machine(), _started(os.getpid()))

    def send(self, number: int) -> bool:
        """Send it a signal if it is on this machine and still there; returns whether that was so."""
        if not self.started or self.machine != _machine() or _started(self.pid) != self.started:
            return False
        try:
            os.kill(self.pid, number)
        except OSError:
            return False
        return True


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Field 22 of ``/proc/PID/stat``; empty where there is no such process (or no ``/proc``)."""
    try:
        # The second field, the command's name, may hold anything, parentheses too: count from behind it.
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Link:
    """One connection: whole messages in, whole messages out, never waiting for either."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.rank: int | None = None
        self.process: Process | None = None
        self.open = True
        self.said_goodbye = False
        self.silent_seconds = 0.0
        """How long nothing came, as counted by whoever polls."""
        self._incoming = bytearray()
        self._outgoing = bytearray()

    def send(self, message: Message) -> None:
        """Send ``message``, or what of it goes out now; the rest with the next :meth:`flush`."""
        if self.open:
            self._outgoing += json.dumps(message).encode() + b"\n"
            self.flush()

    def flush(self) -> bool:
        """Send what is left; returns whether all of it is with the kernel."""
        while self.open and self._outgoing:
            try:
                del self._outgoing[: self.socket.send(self._outgoing)]
            except (BlockingIOError, InterruptedError):
                # Someone who stands still reads nothing: what he misses are beats, which the next one replaces.
                if len(self._outgoing) > LINE_LIMIT:
                    self._outgoing.clear()
                return False
            except OSError:
                # Not closed yet: what the other side said before it went is still to be read.
                self._outgoing.clear()
        return True

    def receive(self) -> list[Message]:
        """The messages that have come; not ``open`` any more after the last."""
        while self.open:
            try:
                data = self.socket.recv(1 << 16)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            self._incoming += data
            if not data or len(self._incoming) > LINE_LIMIT:
                self.open = False
            self.silent_seconds = 0.0
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming = bytearray(rest)
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.open = False
                break
            messages.append(message)
        return messages

    def end_writing(self) -> None:
        """No more will be sent; the other side reads what there is, and then the end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close; may be called again."""
        self.open = False
        self.socket.close()


class Peers:
    """This rank's links: on rank 0 one to every other rank, elsewhere one to rank 0.

    All but :meth:`wake` and the constructor belong to one thread.
    """

    def __init__(self, rank: int, world_size: int, store: Store | None) -> None:
        """Meet the other ranks; all ranks call it together. Without a store (a world of one) there is nobody.

        A rank that cannot be reached is in ``missing`` (on rank 0 and on itself).
        """
        self.rank = rank
        self.links: dict[int, Link] = {}
        self.missing: list[int] = []
        self.token = ""
        self._pending: list[Link] = []
        self._early: list[tuple[Link, Message]] = []  # heard while others were still awaited
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        _LIVE.add(self)
        if store is not None and world_size > 1:
            (self._listen if rank == 0 else self._connect)(store, world_size)

    def _listen(self, store: Store, world_size: int) -> None:
        master = os.environ.get("MASTER_ADDR", "")
        self._listener = _listener(master)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.token = secrets.token_hex(16)
        hosts = [host for host in (master, socket.gethostname(), _own_address()) if host]
        meeting = {
            "hosts": list(dict.fromkeys(hosts)),
            "port": self._listener.getsockname()[1],
            "token": self.token,
            "process": asdict(Process.this()),
        }
        store.set(STORE_KEY, json.dumps(meeting))
        deadline = time.monotonic() + MEET_SECONDS
        early: list[tuple[Link, Message]] = []
        while len(self.links) < world_size - 1 and time.monotonic() < deadline:
            early += self.poll(0.2)
        self._early = early
        self.missing = [rank for rank in range(1, world_size) if rank not in self.links]

    def _connect(self, store: Store, world_size: int) -> None:
        meeting = json.loads(store.get(STORE_KEY))
        self.token = meeting["token"]
        for host in meeting["hosts"]:
            with contextlib.suppress(OSError):
                connection = socket.create_connection((host, meeting["port"]), timeout=MEET_SECONDS / 4)
                link = Link(connection)
                link.rank, link.process = 0, Process(**meeting["process"])
                link.send({"hello": self.rank, "token": self.token, "process": asdict(Process.this())})
                self.links[0] = link
                self._selector.register(link.socket, selectors.EVENT_READ, link)
                return
        self.missing = [0]

    def wake(self) -> None:
        """Make a :meth:`poll` that waits return at once; for any thread."""
        with contextlib.suppress(OSError):
            self._wake_out.send(b"x")

    def poll(self, seconds: float) -> list[tuple[Link, Message]]:
        """Wait for messages for at most ``seconds``; gives those that came, each with its link."""
        heard, self._early = self._early, []
        for key, _ in self._selector.select(0 if heard else seconds):
            if key.fileobj is self._wake_in:
                with contextlib.suppress(OSError):
                    self._wake_in.recv(1 << 12)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                link: Link = key.data
                messages = link.receive()
                if not link.open:
                    self.drop(link)
                heard += [(link, message) for message in self._introduced(link, messages)]
        for link in self.links.values():
            link.flush()
        return heard

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            link = Link(self._listener.accept()[0])
            self._pending.append(link)
            self._selector.register(link.socket, selectors.EVENT_READ, link)

    def _introduced(self, link: Link, messages: list[Message]) -> list[Message]:
        """``messages`` without the introduction; a caller who does not know the token is hung up on."""
        if link.rank is not None or not messages:
            return messages
        hello, *rest = messages
        self._pending.remove(link)
        if not hmac.compare_digest(str(hello.get("token", "")).encode(), self.token.encode()):
            self.drop(link)
            return []
        link.rank, link.process = int(hello["hello"]), Process(**hello["process"])
        self.links[link.rank] = link
        return rest

    def drop(self, link: Link) -> None:
        """Hang up."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.socket)
        link.close()

    def tell(self, message: Message, leave_out: int | None = None) -> None:
        """Send ``message`` to every link but that of rank ``leave_out``."""
        for rank, link in self.links.items():
            if rank != leave_out:
                link.send(message)

    def say_goodbye(self, seconds: float) -> None:
        """End writing, and read for at most ``seconds`` until the others have hung up.

        Closing while something of theirs is unread would reset the connection, and what was just said be lost.
        """
        deadline = time.monotonic() + seconds
        ended: set[int] = set()
        while time.monotonic() < deadline and any(link.open for link in self.links.values()):
            for rank, link in self.links.items():
                if rank not in ended and link.flush():
                    link.end_writing()
                    ended.add(rank)
            self.poll(0.05)

    def close(self) -> None:
        """Close everything."""
        self._selector.close()
        _close_all(self)


def _close_all(peers: Peers) -> None:
    for link in [*peers.links.values(), *peers._pending]:
        link.close()
    for end in (peers._listener, peers._wake_in, peers._wake_out):
        if end is not None:
            end.close()


_LIVE: weakref.WeakSet[Peers] = weakref.WeakSet()


def _close_inherited() -> None:
    """Close the links in a forked child (a data worker): a copy there would outlive a killed rank, and hide it."""
    for peers in _LIVE:
        _close_all(peers)


os.register_at_fork(after_in_child=_close_inherited)


def _listener(master: str) -> socket.socket:
    """A socket that listens where the others look for rank 0: on this machine alone if that is where they all are."""
    if master in ("localhost", "127.0.0.1"):
        return socket.create_server(("127.0.0.1", 0), backlog=1024)
    with contextlib.suppress(OSError, ValueError):  # where there is no IPv6
        return socket.create_server(("", 0), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=1024)


def _own_address() -> str:
    """The address of this machine's first route to the outside; no packet is sent to find it."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a documentation address, RFC 5737
        return str(probe.getsockname()[0])
    return ""
