"""Ends the run rather than let it hang: a stall on any rank, a rank that died or failed; each rank says which.

Each rank has a thread, and a line to rank 0 (peers.py). Three things end a run: a rank fails and says so; a line
drops without a goodbye (the process died) or stays silent (stopped, its node down); or no rank's main thread makes
progress for the stall limit, upon which every rank writes its Python stacks. Rank 0 tells the others, each prints
the one cause and leaves by ``os._exit``: its main thread waits in a collective that will never end.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist

from xtrain.errors import EXIT_OURS, Fenced, UserError
from xtrain.training.peers import STACK_SIGNAL, Link, Message, Peers, Process, Store

POLL_SECONDS = 0.25
BEAT_SECONDS = 1.0
# A thread that did not run for longer than this was stopped itself (Ctrl-Z, a suspended job, a call that held the
# interpreter): that time says nothing about others and is counted for nobody.
MOST_COUNTED = 1.0
# A dead process is known at once by its closed connection. Silence alone is a stopped process, a node without power
# or network, or native code that holds the interpreter: long enough for the longest call of the last kind (reading a
# large file from a slow disk), and for a switch of the network that restarts.
SILENT_SECONDS = 60.0
HOLD_SECONDS = 5.0  # an error that a lost peer may have caused waits so long for the true cause
LEAVE_SECONDS = 1.0  # the rank to blame ends first: launchers report the first that fails
FAREWELL_SECONDS = 10.0  # for printing and for the stacks: either may hang where the disk does
EXIT_SECONDS = FAREWELL_SECONDS + 3 * LEAVE_SECONDS  # within which a thread that leaves has ended the process
TEXT_LIMIT = 20_000  # characters of an error that are told to the others


@dataclass(frozen=True)
class Ending:
    """Why the run ends, as every rank prints it."""

    kind: str  # "failed", "died", "silent", "stall"
    rank: int
    host: str
    text: str
    code: int
    process: Process | None = None
    """Of a silent rank: whoever is on its machine ends it."""

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Ending:
        """The ending that ``asdict`` made ``message`` of."""
        process = message["process"]
        return cls(**{**message, "process": Process(**process) if process else None})

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} {self.text}"


@dataclass(frozen=True)
class Standing:
    """What a rank's main thread does."""

    what: str  # its last tick
    age: float  # seconds since, as counted by its thread
    limit: float  # seconds after which it counts as stalled
    silent_limit: float  # seconds that its thread may be silent for


class Watchdog:
    """Watches over one rank. ``tick`` is for the main thread; nothing happens before ``start``.

    ``stall_seconds`` without a tick on any rank end the run, and ``silent_seconds`` without a sign of a rank's thread.
    ``store`` is the process group's, None in a world of one. ``on_ending(kind, code, fields)`` is told before a rank
    leaves with exit code ``code`` (for ``events.jsonl``), on all but the one that ends of its own error; it runs in a
    thread of its own, and is not waited for longer than a few seconds.
    """

    def __init__(
        self,
        logs: Path,
        rank: int,
        world_size: int,
        stall_seconds: float,
        store: Store | None = None,
        on_ending: Callable[[str, int, Mapping[str, Any]], None] | None = None,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self.stack_path = logs / f"stack-rank-{rank}.txt"
        self._store = store
        self._stall_seconds, self._silent_seconds = stall_seconds, silent_seconds
        self._on_ending = on_ending
        self._host = socket.gethostname()
        self._ticked: tuple[int, str] = (0, "the start")
        self._allowed = 0.0
        self._beats_due = threading.Event()
        self._beats_sent = threading.Event()
        self._request: Ending | str | None = None
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self._stacks: IO[str] | None = None

        # Of the thread alone.
        self._seen_tick = 0
        self._age = 0.0
        self._standings: dict[int, Standing] = {}
        self._next_beat = 0.0

    def start(self) -> None:
        """Meet the other ranks and begin; all ranks call it together, in the main thread."""
        self.stack_path.parent.mkdir(parents=True, exist_ok=True)
        self._stacks = open(self.stack_path, "a", encoding="utf-8")  # noqa: SIM115 -- open now: later the disk may hang
        if not faulthandler.is_enabled():
            faulthandler.enable()  # a crash in native code then shows where
        faulthandler.register(STACK_SIGNAL, self._stacks, all_threads=True)
        self._peers = Peers(self.rank, self.world_size, self._store)
        if self._peers.missing:
            names = ", ".join(map(str, self._peers.missing))
            self._say(f"warning: no line to rank {names}: if it dies, only the stall limit will end the run")
        self._beat(time.monotonic())  # the main thread may begin with a call that lets no other run
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def tick(self, what: str) -> None:
        """The main thread is alive and begins ``what``."""
        self._ticked = (self._ticked[0] + 1, what)

    @contextlib.contextmanager
    def allow(self, what: str, seconds: float) -> Iterator[None]:
        """Let ``what`` take ``seconds`` without a tick, on this rank and for those who wait for it.

        The others are told first, so it may also hold the interpreter so long.
        """
        before = self._allowed
        self._allowed = max(before, seconds)
        self.tick(what)
        self._beats_sent.clear()
        self._beats_due.set()
        if self._running():
            self._peers.wake()
            self._beats_sent.wait(1.0)
        try:
            yield
        finally:
            self._allowed = before
            self.tick(f"after {what}")
            self._beats_due.set()  # told at once: a rank that is stopped now must not have all that time
            if self._running():
                self._peers.wake()

    def failed(self, error: BaseException, code: int = EXIT_OURS) -> None:
        """Tell all others that this rank ends of ``error``, and with which exit code.

        Returns when they have been told: the caller then prints ``error`` and leaves. An error that comes of a lost
        peer waits for the true cause first; where there is one, it is printed and this call never returns.
        """
        if self._thread is None or not self._thread.is_alive():
            return
        if lost_peer(error):
            self._leaving.wait(HOLD_SECONDS)
            if self._leaving.is_set():
                self._thread.join(EXIT_SECONDS)
        if isinstance(error, Fenced):
            text = f"leaves: {error}"
        elif isinstance(error, KeyboardInterrupt):
            text = "was interrupted (Ctrl-C)"
        elif isinstance(error, UserError):
            text = f"failed: {error}"
        else:
            text = "failed: " + "".join(traceback.format_exception_only(error)).strip()
        self._ask(Ending("failed", self.rank, self._host, text[:TEXT_LIMIT], code))

    def stop(self) -> None:
        """Take leave of the others: from now on, nobody misses this rank. Safe to call twice, or without a start."""
        if self._running():
            self._ask("goodbye")

    def _ask(self, request: Ending | str) -> None:
        """Have the thread say something, and end. A goodbye comes too late for a run that is being ended."""
        assert self._thread is not None
        self._request = request
        self._peers.wake()
        deadline = time.monotonic() + 3 * LEAVE_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline and not self._leaving.is_set():
            self._thread.join(0.05)
        if self._leaving.is_set() and request == "goodbye":
            self._thread.join(EXIT_SECONDS)

    def _running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._watch()
        except Exception:
            self._say(f"warning: the watchdog of rank {self.rank} ended:\n{traceback.format_exc()}")
            with contextlib.suppress(Exception):  # training is well: the others are not to take it for dead
                self._peers.tell({"goodbye": True})
                self._peers.say_goodbye(LEAVE_SECONDS)
        finally:
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(STACK_SIGNAL)
            self._peers.close()
            assert self._stacks is not None
            self._drop_empty_stacks()
            self._stacks.close()

    def _watch(self) -> None:
        """The thread: listen, count, judge, until asked to end."""
        last = time.monotonic()
        while True:
            messages = self._peers.poll(POLL_SECONDS)
            now = time.monotonic()
            passed, last = min(now - last, MOST_COUNTED), now
            self._count(passed)
            endings = [one for link, message in messages if (one := self._heard(link, message))]
            request = self._request
            if isinstance(request, Ending):
                self._peers.tell({"end": asdict(request)})
                self._peers.say_goodbye(LEAVE_SECONDS)
                return
            ending = endings[0] if endings else self._judge()
            if ending is not None:
                try:
                    self._leave(ending)
                finally:
                    os._exit(ending.code or EXIT_OURS)
            if request is not None:
                self._peers.tell({"goodbye": True})
                self._peers.say_goodbye(LEAVE_SECONDS)
                return
            due = self._beats_due.is_set()
            if due or now >= self._next_beat:
                self._beats_due.clear()
                self._beat(now)
            if due:
                self._beats_sent.set()

    def _count(self, passed: float) -> None:
        number, _ = self._ticked
        self._age = self._age + passed if number == self._seen_tick else 0.0
        self._seen_tick = number
        for link in self._peers.links.values():
            link.silent_seconds += passed

    def _heard(self, link: Link, message: Message) -> Ending | None:
        assert link.rank is not None
        if "standing" in message:
            self._standings[link.rank] = Standing(**message["standing"])
        if "goodbye" in message:
            link.said_goodbye = True
            self._age = 0.0  # what it was waited for came to an end
            self._standings.pop(link.rank, None)
            self._peers.drop(link)
        return Ending.of(message["end"]) if "end" in message else None

    def _beat(self, now: float) -> None:
        """Tell the others where this rank stands, and wind up the clock of the last resort."""
        standing = self._standing()
        self._peers.tell({"standing": asdict(standing)})
        # Where this thread cannot run at all (C code that holds the interpreter for ever) and nobody else ends this
        # process: faulthandler's own thread prints the stacks and ends it. It also counts the time for which the
        # whole job stood still, so a run that was stopped for longer than this ends when it wakes.
        faulthandler.dump_traceback_later(standing.limit + self._silent_seconds, exit=True)
        self._next_beat = now + BEAT_SECONDS

    def _standing(self) -> Standing:
        allowed = self._allowed
        limit = max(self._stall_seconds, allowed)
        return Standing(self._ticked[1], round(self._age, 2), limit, max(self._silent_seconds, allowed))

    def _judge(self) -> Ending | None:
        """What this rank finds by itself: a lost or silent link, or a stall (rank 0, or one that has no line)."""
        for rank, link in self._peers.links.items():
            if link.said_goodbye or link.process is None:
                continue
            standing = self._standings.get(rank)
            since = f" (last: {standing.what!r})" if standing else ""
            if not link.open:
                text = (
                    f"died{since}: its process {link.process.pid} is gone without a word; killed from outside, "
                    "out of memory, or crashed in native code"
                )
                return Ending("died", rank, link.process.host, text, EXIT_OURS)
            if link.silent_seconds > (standing.silent_limit if standing else self._silent_seconds):
                text = (
                    f"has not been heard of for {duration(link.silent_seconds)}{since}: it was stopped, hangs in "
                    "native code, or its node is down"
                )
                return Ending("silent", rank, link.process.host, text, EXIT_OURS, link.process)
        if self.rank == 0 or not any(link.open for link in self._peers.links.values()):
            return self._stalled()
        return None

    def _stalled(self) -> Ending | None:
        """A stall, if no rank goes on: one that hangs soon has all others wait for it.

        One that waits is no sign by itself: what it waits for may be allowed its time, or just be over.
        """
        standings = {self.rank: self._standing(), **self._standings}
        limit = max(one.limit for one in standings.values())
        if min(one.age for one in standings.values()) <= limit:
            return None
        rank, worst = max(standings.items(), key=lambda item: item[1].age)
        link = self._peers.links.get(rank)
        host = link.process.host if link is not None and link.process is not None else self._host
        text = f"has made no progress for {duration(worst.age)} since {worst.what!r}"
        if len(standings) > 1:
            text += f"; {standings_text(standings)}"
        return Ending("stall", rank, host, text, EXIT_OURS)

    def _leave(self, ending: Ending) -> None:
        """Tell the others, print the cause, and write the stacks if it is a stall; this process then ends."""
        self._leaving.set()
        faulthandler.cancel_dump_traceback_later()
        started = time.monotonic()
        if self.rank == 0:
            self._peers.tell({"end": asdict(ending)}, leave_out=ending.rank if ending.kind == "failed" else None)
        farewell = threading.Thread(target=self._farewell, args=[ending], daemon=True)
        farewell.start()
        silent = ending.process
        if silent is not None:
            silent.send(STACK_SIGNAL)
        link = self._peers.links.get(ending.rank)
        if link is not None and ending.kind == "failed":
            self._peers.drop(link)  # it waits for that to leave
        self._peers.say_goodbye(LEAVE_SECONDS)
        farewell.join(FAREWELL_SECONDS)
        time.sleep(max(0.0, started + LEAVE_SECONDS - time.monotonic()))
        if silent is not None:
            silent.send(signal.SIGKILL)

    def _farewell(self, ending: Ending) -> None:
        """All that may hang with the disk or the terminal, in a thread of its own."""
        if ending.kind != "failed" or not self._fails_alike(ending):
            self._say(f"error: {ending}")
        if ending.kind == "stall":
            self._dump()
            what = self._ticked[1]
            self._say(f"rank {self.rank} on {self._host}: in {what!r} for {duration(self._age)}; {self.stack_path}")
        else:
            self._drop_empty_stacks()
        if self._on_ending is not None:
            with contextlib.suppress(Exception):
                fields = {"rank": ending.rank, "host": ending.host, "text": ending.text}
                self._on_ending(ending.kind, ending.code, fields)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()

    def _fails_alike(self, ending: Ending) -> bool:
        """Whether the main thread is about to print the same: many a mistake is found by all ranks at once."""
        deadline = time.monotonic() + LEAVE_SECONDS / 3
        while not isinstance(self._request, Ending) and time.monotonic() < deadline:
            time.sleep(0.02)
        return isinstance(self._request, Ending) and self._request.text == ending.text

    def _dump(self) -> None:
        assert self._stacks is not None
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        self._stacks.write(f"{moment} rank {self.rank} on {self._host}, process {os.getpid()}: {self._ticked[1]!r}\n")
        self._stacks.flush()
        faulthandler.dump_traceback(self._stacks, all_threads=True)

    def _drop_empty_stacks(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._stacks is not None and os.fstat(self._stacks.fileno()).st_size == 0:
                self.stack_path.unlink()

    def _say(self, text: str) -> None:
        """Print to stderr past its buffer, whose lock the main thread may hold for ever."""
        with contextlib.suppress(OSError):
            os.write(2, f"{text}\n".encode(errors="replace"))


def lost_peer(error: BaseException) -> bool:
    """Whether ``error`` may come of another rank's end: a collective that failed, and not of itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (dist.DistError, ConnectionError)):
            return True
        words = str(seen).lower()
        if isinstance(seen, RuntimeError) and any(word in words for word in ("gloo", "nccl", "peer", "connection")):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def duration(seconds: float) -> str:
    """``seconds`` in words, such as ``30 minutes``."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def standings_text(standings: Mapping[int, Standing], most: int = 8) -> str:
    """Who does what, equal ones together, the smallest group first: it is most likely to blame."""
    groups: dict[str, list[int]] = {}
    for rank, standing in sorted(standings.items()):
        groups.setdefault(standing.what, []).append(rank)
    ordered = sorted(groups.items(), key=lambda item: len(item[1]))
    parts = []
    for what, ranks in ordered[:most]:
        names = ", ".join(map(str, ranks[:most])) + (f" and {len(ranks) - most} more" if len(ranks) > most else "")
        parts.append(f"rank{'s' if len(ranks) > 1 else ''} {names} in {what!r}")
    return "; ".join(parts)
