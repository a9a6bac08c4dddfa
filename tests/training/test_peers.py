"""The line between ranks: only ranks are on it, and what was said before the end is heard."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from xtrain.training.peers import Message, Peers, Process


class Board:
    """A store within one process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def set(self, key: str, value: str, /) -> None:
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def get(self, key: str, /) -> bytes:
        with self.changed:
            self.changed.wait_for(lambda: key in self.values, timeout=30)
            return self.values[key].encode()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Peers, Peers]]:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    board, met = Board(), []
    thread = threading.Thread(target=lambda: met.append(Peers(0, 2, board)))
    thread.start()
    other = Peers(1, 2, board)
    thread.join()
    yield met[0], other
    met[0].close()
    other.close()


def until(done: Callable[[list[Message]], bool], *peers: Peers) -> list[Message]:
    """What is heard until ``done``, at most half a minute long."""
    heard: list[Message] = []
    deadline = time.monotonic() + 30
    while not done(heard) and time.monotonic() < deadline:
        heard += [message for one in peers for _, message in one.poll(0.02)]
    return heard


def test_messages_arrive_whole_in_order_and_before_the_end(pair: tuple[Peers, Peers]) -> None:
    first, second = pair
    assert first.links[1].process == Process.this()
    long = "x" * 300_000  # more than a socket takes at once
    for number in range(3):
        second.tell({"number": number, "text": long})
    leaving = threading.Thread(target=lambda: second.say_goodbye(20))
    leaving.start()
    heard = until(lambda _: not first.links[1].open, first)
    leaving.join()
    assert [message["number"] for message in heard] == [0, 1, 2]
    assert all(message["text"] == long for message in heard)


def test_a_stranger_is_hung_up_on(pair: tuple[Peers, Peers]) -> None:
    first, second = pair
    assert first._listener is not None
    with socket.create_connection(first._listener.getsockname()) as stranger:
        stranger.sendall(b'{"hello": 1, "token": "guessed"}\n{"end": {}}\n')
        stranger.settimeout(0.05)
        heard: list[Message] = []
        for _ in range(100):
            heard += [message for _, message in first.poll(0.02)]
            try:
                assert stranger.recv(1) == b""
                break
            except TimeoutError:
                continue
        else:
            pytest.fail("the stranger is still connected")
    assert heard == []
    second.tell({"still": "here"})
    assert until(bool, first) == [{"still": "here"}]


def test_a_process_is_not_taken_for_another() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        this = Process.this()
        other = Process(this.host, child.pid, this.machine, this.started)  # its PID, but not when it started
        assert not other.send(signal.SIGKILL)
        assert child.poll() is None
        elsewhere = Process(this.host, os.getpid(), "another machine", this.started)
        assert not elsewhere.send(0)
        assert this.send(0)
    finally:
        child.kill()
        child.wait()
