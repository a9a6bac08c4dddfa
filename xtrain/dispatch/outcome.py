"""How the ranks of a phase ended, and which of them to blame."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.errors import EXIT_FAILED, EXIT_FENCED, EXIT_PREEMPTED, EXIT_USER

HINTS = {
    "SIGKILL": "out of memory? the kernel's log says: dmesg | grep -i killed",
    "SIGBUS": "is /dev/shm full, or was a file cut off that it reads?",
    "SIGSEGV": "a crash in native code; the stack may be above",
    "SIGABRT": "native code gave up; its reason may be above",
}
LOST = re.compile(  # what the ranks say that are left behind: Gloo, NCCL, the store of torch.distributed
    r"closed by peer|connection reset|connection refused|connection closed|connection was .*closed|broken pipe"
    r"|remote ?(process|rank|error|host)|socket ?timeout|timed out (waiting|after)|no route to host|recvvalue failed"
    r"|DistNetworkError|DistStoreError|ncclRemoteError|\bgloo/transport\b",
    re.IGNORECASE,
)
TAIL_BYTES = 2**16


@dataclass(frozen=True)
class RankLog:
    """Where a rank printed, from where this run of it began."""

    path: Path
    start: int = 0  # earlier runs' bytes before it

    def text(self) -> str:
        """The end of what was printed since."""
        if not self.path.is_file():
            return ""
        with open(self.path, "rb") as handle:
            handle.seek(max(self.start, self.path.stat().st_size - TAIL_BYTES))
            return handle.read().decode("utf-8", errors="replace")

    def lost_connection(self) -> bool:
        """Whether the rank ended only since it no longer reached another one."""
        lines = [re.sub(r"^\[rank\d+\]: ?", "", line) for line in self.text().splitlines()]  # PyTorch's excepthook
        heads = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        if not heads:
            return bool(LOST.search("\n".join(lines[-20:])))
        # The exception itself: what follows the indented stack, but no later warnings ("[W1204 ...") of lost peers.
        after = [line for line in lines[heads[-1] + 1 :] if line and not line.startswith((" ", "["))]
        return bool(LOST.search("\n".join(after[:4])))


@dataclass(frozen=True)
class RankEnd:
    """One rank's end."""

    rank: int
    code: int  # as subprocess has it: minus the signal's number where one ended it
    when: float  # by time.monotonic(); alike for what was seen at once
    ended_by_us: bool = False

    @property
    def words(self) -> str:
        """``ended with exit code 1``, ``was killed (signal 9): SIGKILL, ...``."""
        if self.code >= 0:
            return f"ended with exit code {self.code}"
        name = signal.Signals(-self.code).name if -self.code in set(signal.Signals) else ""
        words = ", ".join(filter(None, [name, HINTS.get(name)]))
        return f"was killed (signal {-self.code})" + (f": {words}" if words else "")


@dataclass(frozen=True)
class RankFailure:
    """The rank that failed first."""

    rank: int
    code: int
    log: Path | None  # where it printed; None for rank 0, which prints on our own terminal
    start: int = 0  # of this run in the log
    reason: str = ""
    """In words, with how the others ended."""
    signal_name: str = ""
    """That the launcher had passed on meanwhile."""

    def last_lines(self, count: int = 20) -> str:
        """The end of what the rank printed."""
        return "\n".join(RankLog(self.log, self.start).text().splitlines()[-count:]) if self.log else ""

    def __str__(self) -> str:
        return self.reason or f"rank {self.rank} {RankEnd(self.rank, self.code, 0.0).words}"


@dataclass(frozen=True)
class RanksPreempted:
    """All ranks left upon a signal, saved or finished; the same command goes on from there."""

    signal_name: str  # that the launcher passed on; empty where a rank had it from elsewhere


Outcome = RankFailure | RanksPreempted | None  # None: all ended well


def outcome_of(ends: Sequence[RankEnd], logs: Mapping[int, RankLog], passed_on: int, signal_name: str) -> Outcome:
    """What the ranks' ends come to.

    ``passed_on`` is the signal that the launcher sent to all ranks (0: none) upon ``signal_name``. A rank that died
    of it had not begun to listen, so that nothing of this run was there to be saved, and the others could only lose
    it. Ranks that left after saving do not excuse one that failed.
    """
    own = [end for end in ends if not end.ended_by_us]
    failed = [end for end in own if end.code not in (0, EXIT_PREEMPTED)]
    too_early = [end for end in failed if passed_on and end.code == -passed_on]
    if too_early:
        failed = [end for end in failed if end not in too_early and not _lost(end, logs)]
    if failed:
        first = min(failed, key=lambda end: _blame(end, logs))
        return _failure(first, ends, logs, signal_name)
    if too_early or any(end.code == EXIT_PREEMPTED for end in own):
        return RanksPreempted(signal_name)
    killed = next((end for end in ends if end.ended_by_us), None)
    if killed is None:
        return RanksPreempted(signal_name) if passed_on else None
    reason = f"rank {killed.rank} did not leave in time after {signal_name or 'the others'}, and was killed"
    return RankFailure(killed.rank, killed.code, *_place(killed.rank, logs), reason, signal_name)


def _blame(end: RankEnd, logs: Mapping[int, RankLog]) -> tuple[int, float, int, int]:
    """Smallest for the rank with the cause: who says most, then who was first.

    A user's mistake, a collapse and a newer attempt are found by all ranks, of which the first says so on the terminal;
    else a rank lost the others because one died before it. Of ranks that ended at the same moment one with an error of
    its own comes before one that a signal killed.
    """
    kind = {EXIT_FENCED: 0, EXIT_USER: 0, EXIT_FAILED: 1}.get(end.code, 3 if _lost(end, logs) else 2)
    return kind, end.when if kind else 0.0, int(end.code < 0), end.rank


def _lost(end: RankEnd, logs: Mapping[int, RankLog]) -> bool:
    # SIGKILL lets nobody say anything: what stands in the log is older.
    return end.code != -signal.SIGKILL and end.rank in logs and logs[end.rank].lost_connection()


def _failure(first: RankEnd, ends: Sequence[RankEnd], logs: Mapping[int, RankLog], signal_name: str) -> RankFailure:
    others = [end for end in ends if end.code and not end.ended_by_us and end is not first]
    reason = f"rank {first.rank} {first.words}"
    if others:
        reason += "; after it " + ", ".join(
            f"rank {end.rank} " + ("lost the connection" if _lost(end, logs) else end.words.partition(": ")[0])
            for end in sorted(others, key=lambda end: end.rank)[:8]
        )
    return RankFailure(first.rank, first.code, *_place(first.rank, logs), reason, signal_name)


def _place(rank: int, logs: Mapping[int, RankLog]) -> tuple[Path | None, int]:
    """A rank's log and where this run begins in it; none for rank 0, whose lines stand on the terminal already."""
    return (None, 0) if rank == 0 or rank not in logs else (logs[rank].path, logs[rank].start)
