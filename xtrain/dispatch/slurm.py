"""What SLURM is asked and told: squeue, sacct, scancel, scontrol, each with a time limit and no shell.

No function raises because SLURM says no or does not answer: slurmctld restarts, accounting lags or is disabled, and
none of that may end a supervisor. The answer says what was not answered, and why.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

SQUEUE, SACCT = "squeue", "sacct"
TIMEOUT_SECONDS = 30.0  # the commands themselves give up after 9 s without a slurmctld
BUDGET_SECONDS = 0.6  # for whoever looks at a screen
RETRY_SECONDS = 5.0  # then twice as long each time, up to
LONGEST_RETRY_SECONDS = 60.0
_MOST_JOBS = 5000  # a command; Linux allows 128 KiB an argument

# JobState.state. After one of the first group SLURM may have put the job back in the queue, which squeue alone tells.
COMES_BACK = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REQUEUED"})
ENDED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "REVOKED"}
    | (COMES_BACK - {"REQUEUED"})
)
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
# What SLURM says when it has heard, and will say again (slurm_errno.c, 22.05 to 26.05). All other trouble may pass:
# munged that is away, a limit of requests in a second, a controller that is busy or changes places.
_FINAL = re.compile(
    r"invalid(?! (authentication )?credential)|disabled|denied|not permitted|unrecognized|unknown|ambiguous"
    r"|not available|not found|no such|not supported|can ?not be satisfied|violates|too long|too many"
    r"|more .* than permitted|job is pending|already complet|already done|must |is not |does not|requires",
    re.IGNORECASE,
)
_PASSING = re.compile(
    r"munge|credential|authenticat|rate limit|transport endpoint|unable to (contact|resolve)|timed out|did not answer"
    r"|communication|slurm_(receive|send)|temporar|not available now",
    re.IGNORECASE,
)
_NOT_CANCELLABLE = re.compile(r"invalid job id|already complet", re.IGNORECASE)  # it is over: nothing to cancel
_IN_QUEUE = re.compile(r"job is pending", re.IGNORECASE)
_JOB = re.compile(r"\d+")
_SQUEUE_FIELDS = (
    "JobID", "State", "RestartCnt", "exit_code", "StartTime", "EndTime", "TimeLimit", "TimeLeft", "NodeList",
    "Dependency", "SubmitTime", "Reason", "Name",
)  # fmt: skip
_SACCT_FIELDS = (
    "JobID", "State", "ExitCode", "Start", "End", "Timelimit", "NodeList", "Submit", "Reason", "JobName",
)  # fmt: skip


@dataclass(frozen=True)
class JobState:
    """What SLURM says of a job."""

    job: str
    """Its id."""
    state: str
    """SLURM's word: ``PENDING``, ``RUNNING``, ``COMPLETING``, ``COMPLETED``, ``NODE_FAIL``..."""
    reason: str = ""
    """Why it waits, or why it ended, in SLURM's word: ``Priority``, ``NonZeroExitCode``; empty for none."""
    nodes: str = ""
    """As SLURM writes them: ``n[1-2]``; empty before it runs."""
    restarts: int = 0
    """How often it was put back in the queue; sacct does not say."""
    start: float | None = None
    """Seconds since 1970; of a waiting job when SLURM thinks it will start, where it has thought about it."""
    end: float | None = None
    """Seconds since 1970; of a running job when its time is over."""
    time_limit: float | None = None
    """Seconds; None for none."""
    left: float | None = None
    """Seconds until its time is over, by the clock of where squeue ran; sacct does not say."""
    exit_code: int | None = None
    """Of a job that has ended, as subprocess has it: minus the signal's number where one ended it."""
    name: str = ""
    dependency: str = ""
    """What it waits for, in SLURM's words: ``afterok:12(unfulfilled)``; sacct does not say."""
    submitted: float | None = None
    """Seconds since 1970; of a requeued job when it was put back."""
    source: str = SQUEUE

    @property
    def ended(self) -> bool:
        """Whether it has ended and does not come back by itself."""
        return self.state in ENDED

    @property
    def waiting(self) -> bool:
        """Whether it waits in the queue."""
        return self.state in WAITING

    @property
    def running(self) -> bool:
        """Whether it holds nodes: it runs, begins or leaves."""
        return not self.ended and not self.waiting


@dataclass(frozen=True)
class Answer:
    """The jobs that are known, and which of the sources have said nothing, and why."""

    states: Mapping[str, JobState] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    """``squeue`` or ``sacct`` to the reason. A job that is missing from ``states`` is unknown to all others."""

    @property
    def complete(self) -> bool:
        """Whether squeue has answered: then a job that is missing is not in the queue."""
        return SQUEUE not in self.silent


@dataclass(frozen=True)
class Reply:
    """What became of a request."""

    ok: bool
    said: str = ""
    """SLURM's words where it is not ok."""
    unreachable: bool = False
    """No answer came: it may or may not have been done, and may be asked again."""


def squeue(jobs: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> Answer:
    """The jobs that are in the queue, or have left it less than MinJobAge seconds (300, mostly) ago."""
    return _asked(SQUEUE, jobs, timeout, _squeue_command, _squeue_line)


def sacct(jobs: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> Answer:
    """What the accounting has of the jobs, their newest start each; it lags by seconds, and may be disabled."""
    return _asked(SACCT, jobs, timeout, _sacct_command, _sacct_line)


def accounted(
    jobs: Sequence[str], fields: Sequence[str], timeout: float = TIMEOUT_SECONDS
) -> tuple[list[dict[str, str]], str]:
    """The accounting's rows on the jobs, the oldest first: every start of each, and every step of it.

    ``fields`` are sacct's own words, ``JobID`` with them: ``12`` is a start, ``12.0`` a step of it. Times are seconds
    since 1970. Also says why sacct did not answer; empty where it did.
    """
    rows: list[dict[str, str]] = []
    for some in _chunks(sorted(filter(is_slurm_job, jobs))):
        done = _call([SACCT, "--noheader", "--parsable2", "--duplicates", f"--jobs={','.join(some)}",
                      f"--format={','.join(fields)}"], timeout)  # fmt: skip
        if not done.ran or done.code:
            return rows, " ".join(done.words.split()) or f"{SACCT} ended with {done.code}"
        values = (line.split("|") for line in done.out.splitlines())
        rows += [dict(zip(fields, row, strict=True)) for row in values if len(row) == len(fields)]
    return rows, ""


def live_jobs_of(comment: str, timeout: float = TIMEOUT_SECONDS) -> tuple[list[str], Reply]:
    """This user's jobs with this in their comment that are not over, the oldest first; and whether squeue answered."""
    command = [SQUEUE, "--noheader", "--all", f"--user={os.getuid()}", "--Format=JobID:|,State:|,Comment:|"]
    done = _call(command, timeout)
    found = []
    for line in done.out.splitlines() if done.ran and not done.code else ():
        job, _, rest = line.partition("|")
        state, _, said = rest.partition("|")
        if comment in said and state not in ENDED:  # a site may have put its own words around it
            found.append(job)
    return sorted(found, key=int), _reply(done)


def nodes_of(partition: str, timeout: float = TIMEOUT_SECONDS) -> set[str]:
    """The partition's nodes by name (the default one's if it is not named); empty if that is not to be learnt."""
    which = f"--partition={partition}" if partition else "--all"  # both are refused; one that is named may be hidden
    done = _call(["sinfo", "--noheader", "--Node", "--format=%N|%P", which], timeout)
    lines = [line.strip().split("|") for line in done.out.splitlines() if "|" in line] if done.ran else []
    return {name for name, where in lines if partition or where.endswith("*")}


def job_states(jobs: Sequence[str], budget: float = BUDGET_SECONDS) -> Answer:
    """What squeue knows, and sacct of what squeue has forgotten; each is asked for ``budget`` seconds."""
    queue = squeue(jobs, budget)
    forgotten = [job for job in jobs if job not in queue.states]
    accounting = sacct(forgotten, budget) if forgotten else Answer()
    known = dict(queue.states)
    for job, state in accounting.states.items():
        # The end of a start that was requeued is not the job's; and what is not in the queue does not run.
        if state.ended if queue.complete else state.state not in COMES_BACK:
            known[job] = state
    return Answer(known, {**queue.silent, **accounting.silent})


def asked(command: Sequence[str], timeout: float = TIMEOUT_SECONDS) -> tuple[Reply, str]:
    """Whether a command of SLURM's that only shows things has answered, and what it printed."""
    done = _call(command, timeout)
    return _reply(done), done.out


def cancel(jobs: Sequence[str], timeout: float = TIMEOUT_SECONDS, *, waiting: bool = False) -> Reply:
    """End the jobs, or only those of them that are still ``waiting``; those that are over are passed over."""
    for some in _chunks(jobs):
        done = _call(["scancel", *(["--state=PENDING"] if waiting else []), *some], timeout)
        wrong = [line for line in done.words.splitlines() if not _NOT_CANCELLABLE.search(line)]
        if not done.ran or (done.code and wrong):
            return _reply(done)
    return Reply(True)


def requeue(job: str, timeout: float = TIMEOUT_SECONDS, patience_seconds: float = 0.0) -> Reply:
    """Put a job back in the queue, which ends its processes; asks for ``patience_seconds`` where nobody answers.

    From inside the job, SLURM's SIGTERM to this process usually comes before the reply does.
    """
    reply = _patiently(["scontrol", "requeue", job], timeout, patience_seconds)
    return Reply(True) if _IN_QUEUE.search(reply.said) else reply  # an earlier try was heard, or somebody else did it


def update_dependency(
    job: str, dependency: str, timeout: float = TIMEOUT_SECONDS, patience_seconds: float = 0.0
) -> Reply:
    """Let a waiting job wait for something else: ``afterok:12:13``, or an empty string for nothing."""
    return _patiently(["scontrol", "update", f"JobId={job}", f"Dependency={dependency}"], timeout, patience_seconds)


def exclude_nodes(
    job: str, nodes: Sequence[str], timeout: float = TIMEOUT_SECONDS, patience_seconds: float = 0.0
) -> Reply:
    """Let a waiting job not start on ``nodes``: on these alone, whatever was excluded before."""
    return _patiently(
        ["scontrol", "update", f"JobId={job}", f"ExcNodeList={','.join(nodes)}"], timeout, patience_seconds
    )


def is_unreachable(said: str) -> bool:
    """Whether these words of a command that failed are no refusal: nobody has heard, and it may be asked again."""
    return _PASSING.search(said) is not None or _FINAL.search(said) is None


def is_slurm_job(job: str) -> bool:
    """Whether this is an id of SLURM's: not ``local-PID``."""
    return _JOB.fullmatch(job) is not None


@dataclass(frozen=True)
class _Call:
    """A command's end."""

    ran: bool  # it ended by itself
    code: int
    out: str
    words: str  # on standard error, or why it did not run


_elsewhere = ""  # the cluster that is asked, where it is not this machine's own
_OF_SEVERAL = ("squeue", "sacct", "scancel", "scontrol", "sinfo", "srun")


def ask_of(cluster: str) -> None:
    """Let SLURM's commands ask ``cluster`` from now on (``--clusters``), for a machine that reaches several.

    An empty name stands for the machine's own. In a job of that cluster it is the same: nothing has to be looked up.
    """
    global _elsewhere
    _elsewhere = "" if is_here(cluster) else cluster


def is_here(cluster: str) -> bool:
    """Whether SLURM's commands reach ``cluster`` without being told its name: it is none, or this is a job of it."""
    return not cluster or os.environ.get("SLURM_CLUSTER_NAME") == cluster


def addressed(command: Sequence[str]) -> list[str]:
    """A command of SLURM's with the name of the cluster that is asked, where it needs one."""
    program, *rest = command
    return [program, *([f"--clusters={_elsewhere}"] if _elsewhere and program in _OF_SEVERAL else []), *rest]


def without_heading(out: str) -> str:
    """What a command printed but for the line that names the cluster, which no option turns off."""
    return "".join(line for line in out.splitlines(keepends=True) if not line.startswith("CLUSTER: "))


def clean_environment() -> dict[str, str]:
    """The environment for SLURM's commands, so that they answer the same whoever asks: times in seconds since 1970.

    What users have set for their own eyes (SQUEUE_PARTITION, SACCT_FORMAT...) would hide jobs from us; which cluster is
    asked, the profile says (:func:`ask_of`).
    """
    mine = re.compile(r"(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_|SLURM_CLUSTERS$")
    env = {name: value for name, value in os.environ.items() if not mine.match(name)}
    return {**env, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C"}


def _call(command: Sequence[str], timeout: float) -> _Call:
    env, command = clean_environment(), addressed(command)
    try:
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
        if done.returncode < 0:
            # SLURM ends all processes of this job, this one too, by a signal that we have outlived: of `scontrol
            # requeue` by its own doing, before the answer came. To be asked twice does no harm to any of them.
            done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return _Call(False, 0, "", f"{command[0]} did not answer within {timeout:g} s")
    except OSError as error:
        return _Call(False, 0, "", f"{command[0]}: {error.strerror}")
    out, words = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return _Call(True, done.returncode, without_heading(out), words)


def _reply(done: _Call) -> Reply:
    said = " ".join(done.words.split())
    ok = done.ran and done.code == 0
    return Reply(ok, "" if ok else said, not ok and is_unreachable(said))


def _patiently(command: Sequence[str], timeout: float, patience: float) -> Reply:
    until = time.monotonic() + patience
    for pause in pauses():
        reply = _reply(_call(command, timeout))
        if reply.ok or not reply.unreachable or time.monotonic() + pause > until:
            return reply
        time.sleep(pause)
    raise AssertionError


def pauses() -> Iterator[float]:
    """Seconds between one try and the next, without end: a controller in trouble is not to be asked by all at once."""
    pause = RETRY_SECONDS
    while True:
        yield random.uniform(0.8, 1.0) * pause
        pause = min(2 * pause, LONGEST_RETRY_SECONDS)


def _asked(
    name: str,
    jobs: Sequence[str],
    timeout: float,
    command: Callable[[str], list[str]],
    read: Callable[[str], JobState | None],
) -> Answer:
    states: dict[str, JobState] = {}
    wanted = {job for job in jobs if is_slurm_job(job)}
    for some in _chunks(sorted(wanted)):
        done = _call(command(",".join(some)), timeout)
        # Of several jobs squeue leaves out those that it does not know; of one it says so.
        if not done.ran or (done.code and "invalid job id" not in done.words.lower()):
            return Answer(states, {name: " ".join(done.words.split()) or f"{name} ended with {done.code}"})
        for state in filter(None, map(read, done.out.splitlines())):
            if state.job in wanted and not _older(state, states.get(state.job)):
                states[state.job] = state
    return Answer(states)


def _older(state: JobState, known: JobState | None) -> bool:
    """Whether this is an earlier start of a job that was requeued."""
    return known is not None and (state.submitted or 0) < (known.submitted or 0)


def _chunks(jobs: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(jobs), _MOST_JOBS):
        yield list(jobs[start : start + _MOST_JOBS])


def _squeue_command(jobs: str) -> list[str]:
    return [SQUEUE, "--noheader", "--all", "--states=all", f"--jobs={jobs}",  # all: hidden partitions too
            "--Format=" + ",".join(f"{name}:|" for name in _SQUEUE_FIELDS)]  # fmt: skip


def _squeue_line(line: str) -> JobState | None:
    values = line.split("|", len(_SQUEUE_FIELDS) - 1)  # a job's name comes last, as it may hold anything
    if len(values) != len(_SQUEUE_FIELDS):
        return None
    got = dict(zip(_SQUEUE_FIELDS, values, strict=True))
    state = got["State"]
    code = _exit_code(got["exit_code"]) if state in ENDED else None
    return JobState(
        job=got["JobID"], state=state, reason=_text(got["Reason"]), nodes=_text(got["NodeList"]),
        restarts=int(got["RestartCnt"] or 0), start=_time(got["StartTime"]), end=_time(got["EndTime"]),
        time_limit=duration_seconds(got["TimeLimit"]), left=duration_seconds(got["TimeLeft"]), exit_code=code,
        name=got["Name"].removesuffix("|"), dependency=_text(got["Dependency"]), submitted=_time(got["SubmitTime"]),
    )  # fmt: skip


def _sacct_command(jobs: str) -> list[str]:
    return [SACCT, "--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={jobs}",
            "--format=" + ",".join(_SACCT_FIELDS)]  # fmt: skip


def _sacct_line(line: str) -> JobState | None:
    values = line.split("|", len(_SACCT_FIELDS) - 1)
    if len(values) != len(_SACCT_FIELDS):
        return None
    got = dict(zip(_SACCT_FIELDS, values, strict=True))
    state = got["State"].split(" ")[0]  # "CANCELLED by 1000"
    return JobState(
        job=got["JobID"], state=state, reason=_text(got["Reason"]), nodes=_text(got["NodeList"]),
        start=_time(got["Start"]), end=_time(got["End"]), time_limit=duration_seconds(got["Timelimit"]),
        exit_code=_exit_code(got["ExitCode"]) if state in ENDED else None,
        name=got["JobName"], submitted=_time(got["Submit"]), source=SACCT,
    )  # fmt: skip


def _exit_code(value: str) -> int | None:
    """``7:0`` or ``0:9`` (sacct; squeue of 24.11 and newer); wait's number for the same (squeue of older ones)."""
    code, colon, signal = value.partition(":")
    if not code.isdecimal() or not (signal or "0").isdecimal():
        return None
    status = int(code)
    exited, ended_by = (status, int(signal or 0)) if colon else (status >> 8, status & 127)
    return -ended_by if ended_by else exited


def _text(value: str) -> str:
    return "" if value in ("None", "(null)", "N/A", "None assigned", "Unknown") else value


def _time(value: str) -> float | None:
    return float(value) if value.isdecimal() else None


def duration_seconds(value: str) -> float | None:
    """Seconds of ``DAYS-HOURS:MINUTES:SECONDS``, of which the first parts may be missing."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", value)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
