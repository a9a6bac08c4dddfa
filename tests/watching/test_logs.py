"""The end of a log, and on from there until the phase ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from by_hand import Run, graph

from xtrain.errors import UserError
from xtrain.watching import logs


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(graph().nodes[1], tmp_path)


def printed(run: Run, **more: object) -> str:
    found: list[str] = []
    logs.print_log(run.run, write=found.append, **more)  # type: ignore[arg-type]
    return "".join(found)


def test_the_last_lines(run: Run) -> None:
    run.print("".join(f"line {n}\n" for n in range(50_000)) + "and a half")
    assert printed(run, lines=3) == "line 49998\nline 49999\nand a half"
    assert printed(run, lines=0) == ""
    assert printed(run, lines=10**6).startswith("line 0\n")


def test_a_rank_without_a_log_names_those_that_have_one(run: Run) -> None:
    run.print("x\n", 10)
    run.print("x\n", 9)
    with pytest.raises(
        UserError, match=r"rank 3 has printed nothing yet\n  allowed: logs/rank-9.log, logs/rank-10.log"
    ):
        printed(run, rank=3)


def test_the_newest_job_that_printed(run: Run) -> None:
    run.submit("7").submit("8").submit("9")
    run.folder.submitit.mkdir()
    for job in ("7", "8"):
        (run.folder.submitit / f"{job}_0_log.out").write_text(f"of {job}\n", "utf-8")
    assert printed(run, job=True) == "of 8\n"


def test_following_waits_for_the_log_and_ends_with_the_phase(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LEAVING_SECONDS", 0.5)
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.02)
    found: list[str] = []
    thread = threading.Thread(target=lambda: logs.print_log(run.run, follow=True, write=found.append), daemon=True)
    thread.start()
    time.sleep(0.1)
    path = run.print("first\n")
    with open(path, "ab", buffering=0) as handle:
        for number in range(20):
            handle.write(f"zweitens {number} ".encode() + "ü".encode()[:1])  # a character in two pieces
            time.sleep(0.01)
            handle.write("ü".encode()[1:] + b"\n")
    assert thread.is_alive()
    run.finish(steps=1)
    with open(path, "ab") as handle:
        handle.write(b"last\n")
    thread.join(20)
    assert not thread.is_alive()
    assert "".join(found) == "first\n" + "".join(f"zweitens {n} ü\n" for n in range(20)) + "last\n"


def test_following_goes_on_in_the_next_job(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LEAVING_SECONDS", 0.5)
    monkeypatch.setattr(logs, "POLL_SECONDS", 0.02)
    run.submit("7").folder.submitit.mkdir()
    (run.folder.submitit / "7_0_log.out").write_text("of 7\n", "utf-8")
    found: list[str] = []
    target = lambda: logs.print_log(run.run, job=True, follow=True, write=found.append)  # noqa: E731
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    while not found and thread.is_alive():
        time.sleep(0.02)
    run.submit("8")
    (run.folder.submitit / "8_0_log.out").write_text("of 8\n", "utf-8")
    while "of 8\n" not in found and thread.is_alive():
        time.sleep(0.02)
    run.folder.end("failed", 1, "reason")
    thread.join(20)
    assert "".join(found) == "of 7\nof 8\n"


def test_a_phase_that_ended_without_a_log_is_not_waited_for(run: Run) -> None:
    run.folder.end("cancelled", 1, "by the user")
    with pytest.raises(UserError, match="printed nothing"):
        printed(run, follow=True)
