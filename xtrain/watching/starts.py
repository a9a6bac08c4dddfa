"""The attempts at a phase in seconds: when each began and ended, on which devices, and which of its steps were lost.

All of it is from the run directory, but for what the caller knows: whether the newest attempt still runs, and what
SLURM's accounting says. A start that was killed with everything around it wrote no end, and counts until its last line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xtrain.dispatch import attempts as ways
from xtrain.dispatch.attempts import Attempt, Attempts
from xtrain.dispatch.job_graph import EVALUATE
from xtrain.run_directory import RunDirectory
from xtrain.watching import state as words
from xtrain.watching.accounting import CLOCKS_SECONDS, JobStart
from xtrain.watching.record_end import LONGEST_BYTES, METRICS_BYTES, end_of, newest_first, stamp

Accounts = Mapping[str, Sequence[JobStart]]
"""What the accounting has of each job: its starts by its id."""


@dataclass(frozen=True)
class StartUsage:
    """What one attempt at a phase has used."""

    number: int
    job: str
    began: float
    """Seconds since 1970."""
    seconds: float
    """Until its end; until now of a running one."""
    how: str
    """How it ended, as :mod:`xtrain.dispatch.attempts` has it; ``running``."""
    at_least: bool = False
    """Its end is not known: ``seconds`` are those until its last sign of life."""
    ranks: int = 0
    """0 where it is not on record."""
    gpus: int = 0
    time_limit: float | None = None
    """Seconds; None for no limit."""
    wait: float | None = None
    """Seconds from when it was submitted, or put back in the queue, until it began; None where that is not known, or
    there is no queue."""
    held: float = 0.0
    """Seconds of ``wait`` in which the jobs were not over that it waited for."""
    lost_steps: int = 0
    """Steps of it that a later attempt trained again."""
    lost_seconds: float | None = 0.0
    """What these took it, at its own pace; of an evaluation, which goes on from nothing, all. None: not known."""
    reason: str = ""
    """Why it ended, a line for people."""
    nodes: tuple[str, ...] = ()
    """Where it ran; at least the host of its first rank, as soon as that is known."""
    device: str = ""
    """The model of its GPUs, or of its processor, as its first rank has it; empty where it came not so far."""
    threads: int = 0
    """Of a rank; 0 where it is not on record."""

    @property
    def until(self) -> float:
        """When it ended, or was seen last."""
        return self.began + self.seconds

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self.how == words.RUNNING

    @property
    def limit_share(self) -> float:
        """Of its time limit; 0 where it has none."""
        return self.seconds / self.time_limit if self.time_limit else 0.0

    @property
    def devices(self) -> int:
        """GPUs, or ranks of what has none; 0 where it is not on record."""
        return self.gpus or self.ranks


def starts_of(
    run: RunDirectory, kind: str, *, running_until: float | None = None, accounts: Accounts | None = None
) -> list[StartUsage]:
    """Every attempt at the phase in ``run``, the oldest first.

    ``running_until`` is now, in seconds since 1970, where the newest one is known to be under way; None where it is
    not, or nobody asked: without an end on record it then counts until its last line.
    """
    attempts = Attempts(run)
    began = [attempt for number in attempts.numbers() if (attempt := attempts.read(number)) is not None]
    told = _told(run) if began else {}
    found = []
    for one, then in zip(began, (*began[1:], None), strict=False):
        now = running_until if then is None else None
        found.append(_start(attempts, kind, one, then, told.get(one.number, _Told()), now, accounts or {}))
    return found


def account_of(accounts: Accounts, job: str, began: float) -> JobStart | None:
    """What the accounting has of the start of ``job`` in which an attempt began at ``began``."""
    return next((one for one in accounts.get(job, ()) if one.has(began)), None)


def _start(
    attempts: Attempts, kind: str, one: Attempt, then: Attempt | None, told: _Told, now: float | None,
    accounts: Accounts,
) -> StartUsage:  # fmt: skip
    how, reason, ended = _ending(attempts, one, then, now, accounts)
    last = now if how == words.RUNNING and now is not None else max(one.started, told.seen or 0.0)
    seconds = max(0.0, (last if ended is None else ended) - one.started)
    again = kind == EVALUATE and then is not None and how != ways.DONE
    return StartUsage(
        one.number, one.job, one.started, seconds, how, ended is None and how != words.RUNNING,
        one.ranks, one.gpus, one.time_limit,
        lost_steps=told.lost_steps, lost_seconds=seconds if again else told.lost_seconds, reason=reason,
        nodes=one.nodes or tuple(filter(None, [told.host or one.host])), device=told.device, threads=told.threads,
    )  # fmt: skip


def _ending(
    attempts: Attempts, one: Attempt, then: Attempt | None, now: float | None, accounts: Accounts
) -> tuple[str, str, float | None]:
    """How an attempt ended, why, and when; None where that is not known, and while it runs."""
    end = attempts.read_end(one.number)
    # Of a start that was killed the next one wrote the end, and with it when it began itself.
    later = end is not None and end.how == ways.KILLED and then is not None
    if end is not None and not (later and then and end.ended > then.started - CLOCKS_SECONDS):
        return end.how, end.reason, end.ended
    if now is not None:
        return words.RUNNING, "", None
    account = account_of(accounts, one.job, one.started)
    found = end or attempts.ending(one.number)
    ended = account.end if account is not None else None
    return (found.how, found.reason, ended) if found is not None else (words.UNKNOWN, "", ended)


@dataclass
class _Told:
    """What the record says of an attempt."""

    start: Mapping[str, Any] = field(default_factory=dict)
    """Its event ``start``: device, threads, host."""
    seen: float | None = None
    """When it wrote its last line."""
    trains: float | None = None
    """When it began to train, and from which step."""
    step: int = 0
    reached: int = 0
    """Steps done in the newest line that says so, and when that was."""
    reached_at: float | None = None
    left_at: int | None = None
    """The step from which the next one went on; None for none."""

    def see(self, step: int, when: float | None) -> None:
        """Take note of a line about ``step``; one that an earlier attempt wrote is passed over."""
        if when is None or self.trains is None or when < self.trains:
            return
        self.seen = max(self.seen or when, when)
        if step > self.reached:
            self.reached, self.reached_at = step, when

    @property
    def host(self) -> str:
        return str(self.start.get("host", ""))

    @property
    def device(self) -> str:
        return str(self.start.get("device", ""))

    @property
    def threads(self) -> int:
        return int(self.start.get("threads", 0))

    @property
    def lost_steps(self) -> int:
        return 0 if self.left_at is None else max(0, self.reached - self.left_at)

    @property
    def lost_seconds(self) -> float | None:
        """Of the lost steps, at the attempt's mean pace; None where its record shows none."""
        if not self.lost_steps:
            return 0.0
        if self.reached <= self.step or self.reached_at is None or self.trains is None:
            return None
        return self.lost_steps * (self.reached_at - self.trains) / (self.reached - self.step)


def _told(run: RunDirectory) -> dict[int, _Told]:
    """What ``events.jsonl`` and ``metrics.jsonl`` say of each attempt, by its number."""
    told: dict[int, _Told] = {}
    mine, before = _Told(), None
    for line in reversed(list(newest_first(end_of(run.events, LONGEST_BYTES)))):
        kind, step, when = line.get("event"), line.get("step"), stamp(line.get("time"))
        if kind == "start" and isinstance(line.get("attempt"), int):
            before = mine if mine.trains is not None else before
            mine = told[line["attempt"]] = _Told(line)
        mine.seen = when if when is not None else mine.seen
        if kind in ("begin", "resume") and isinstance(step, int):
            if before is not None and mine.trains is None:  # else another seed of the same attempt
                before.left_at = step
            mine.trains, mine.step, mine.reached, mine.reached_at = when, step, step, when
        elif kind == "steps_lost" and before is not None:
            before.see(int(line["reached"]), stamp(line["seen"]))
        elif isinstance(step, int):
            mine.see(step, when)
    newest = next(newest_first(end_of(run.metrics, METRICS_BYTES)), {})
    if isinstance(newest.get("step"), int):
        mine.see(newest["step"], stamp(newest.get("time")))
    return told
