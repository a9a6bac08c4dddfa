"""Nodes that meet, as threads on several loop-back names: who is reached, whose file is seen, whose clock is off."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from xtrain.doctor import meeting as module
from xtrain.doctor.meeting import HERE, Meeting, locked, token_file
from xtrain.files import write_token

TOKEN = "0123abcd"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three nodes with addresses of their own on this machine: all of 127/8 is here."""
    addresses = {"a": "127.0.0.2", "b": "127.0.0.3", "c": "127.0.0.4"}
    connect = socket.create_connection

    def resolved(address: tuple[str, int], timeout: float) -> socket.socket:
        if address[0] == "nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return connect((addresses.get(address[0], address[0]), address[1]), timeout)

    monkeypatch.setattr(module.socket, "create_connection", resolved)
    serve = socket.create_server
    monkeypatch.setattr(
        module.socket,
        "create_server",
        lambda address, **more: serve((addresses[threading.current_thread().name], address[1]), **more),
    )
    return list(addresses)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        return int(probe.getsockname()[1])


def meet(meetings: Sequence[Meeting]) -> None:
    threads = [threading.Thread(target=meeting.run, name=meeting.name) for meeting in meetings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def meetings_of(names: Sequence[str], folders: Sequence[Path], patience: float = 20.0) -> list[Meeting]:
    port = free_port()
    return [
        Meeting(name, [other for other in names if other != name], TOKEN, port, folder, HERE, True, "", patience, 1.0)
        for name, folder in zip(names, folders, strict=True)
    ]


def test_all_meet_and_leave_nothing(names: list[str], tmp_path: Path) -> None:
    write_token(token_file(tmp_path, TOKEN, HERE), TOKEN)
    all_of_them = meetings_of(names, [tmp_path] * 3)
    with locked(token_file(tmp_path, TOKEN, HERE)):
        meet(all_of_them)
    for one in all_of_them:
        assert {name: seen.trouble for name, seen in one.met.items()} == dict.fromkeys(one.others, "")
        assert max(abs(seen.clock_ahead) for seen in one.met.values()) < 1.0
        assert (one.not_seen, one.not_written) == ([], "")
        assert (one.not_locked, one.no_locks) == ([], "")
    assert [path.name for path in tmp_path.iterdir()] == [token_file(tmp_path, TOKEN, HERE).name]


def test_locks_of_a_machine_are_not_felt_on_others(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token(token_file(tmp_path, TOKEN, HERE), TOKEN)
    monkeypatch.setattr(module.fcntl, "flock", lambda handle, how: None)
    first, second, third = meetings_of(names, [tmp_path] * 3)
    second.host_locked = False
    meet([first, second, third])
    assert [first.not_locked, second.not_locked, third.not_locked] == [["b", HERE], ["a", "c"], ["a", HERE]]


def test_a_folder_without_locks(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_token(token_file(tmp_path, TOKEN, HERE), TOKEN)
    flock = fcntl.flock

    def refused(handle: IO[str], how: int) -> None:
        if threading.current_thread().name == "b":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(handle, how)

    monkeypatch.setattr(module.fcntl, "flock", refused)
    first, second, third = meetings_of(names, [tmp_path] * 3)
    with locked(token_file(tmp_path, TOKEN, HERE)):
        meet([first, second, third])
    assert second.no_locks == "No locks available"
    assert first.not_locked == second.not_locked == third.not_locked == []


def test_a_folder_of_ones_own(names: list[str], tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    write_token(token_file(shared, TOKEN, HERE), TOKEN)
    first, second, third = meetings_of(names, [shared, shared, own])
    meet([first, second, third])
    assert first.not_seen == second.not_seen == ["c"]
    assert third.not_seen == ["a", "b", HERE]
    assert list(own.iterdir()) == []


def test_a_file_that_could_not_be_written_is_not_missed(names: list[str], tmp_path: Path) -> None:
    write_token(token_file(tmp_path, TOKEN, HERE), TOKEN)
    first, second, third = meetings_of(names, [tmp_path, tmp_path, tmp_path / "missing"])
    meet([first, second, third])
    assert third.not_written == "No such file or directory"
    assert first.not_seen == second.not_seen == []


def test_a_node_that_does_not_come(names: list[str], tmp_path: Path) -> None:
    first, _, third = meetings_of(names, [tmp_path] * 3, patience=1.0)
    third.others = ["a", "nowhere"]
    meet([first, third])
    assert "Connection refused" in first.met["b"].trouble or "nobody listens" in first.met["b"].trouble
    assert first.met["c"].trouble == ""
    assert third.met["nowhere"].trouble == "its name does not resolve: Name or service not known"


def test_the_clock_of_another(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = module.time.time
    late = {"c": -300.0}

    class Clock:
        monotonic, sleep = staticmethod(module.time.monotonic), staticmethod(module.time.sleep)

        @staticmethod
        def time() -> float:
            return now() + CLOCKS.get(threading.get_ident(), 0.0)

    CLOCKS: dict[int, float] = {}
    first, second, third = meetings_of(names, [tmp_path] * 3)
    answer = third._answer

    def of_c(listener: socket.socket) -> None:
        CLOCKS[threading.get_ident()] = late["c"]
        answer(listener)

    monkeypatch.setattr(third, "_answer", of_c)
    monkeypatch.setattr(module, "time", Clock)
    meet([first, second, third])
    assert first.met["c"].clock_ahead == pytest.approx(-300.0, abs=1.0)
    assert first.met["b"].clock_ahead == pytest.approx(0.0, abs=1.0)
