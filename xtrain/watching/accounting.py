"""What SLURM's accounting says of jobs, where there is one: what each start held, GPU use, memory, energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xtrain.dispatch import slurm

_FIELDS = (
    "JobID", "State", "Submit", "Start", "End", "ElapsedRaw", "ReqTRES", "AllocTRES", "ConsumedEnergyRaw",
    "TRESUsageInAve", "TRESUsageInTot",
)  # fmt: skip
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_NO_ENERGY = 2**62  # joules; SLURM's NO_VAL64 stands for a number that it does not have
CLOCKS_SECONDS = 5.0  # by which the clocks of two machines, the controller or nodes, may differ


@dataclass(frozen=True)
class JobStart:
    """One start of a job, as the accounting has it; None for what the site does not collect."""

    job: str
    state: str
    submitted: float | None = None
    """Seconds since 1970; of a requeued job when it was put back."""
    start: float | None = None
    end: float | None = None
    """None while it runs."""
    seconds: float = 0.0
    gpus: int = 0
    """That it held, over all nodes."""
    gpu_percent: float | None = None
    """Mean use of a GPU, over the step that ran longest: the ranks'."""
    memory: float | None = None
    """Bytes: the most that the tasks of a step used, over all nodes."""
    memory_asked: float | None = None
    """Bytes, over all nodes."""
    joules: float | None = None
    """Of its nodes; only of exclusive ones that is its own."""

    def has(self, when: float) -> bool:
        """Whether what began at ``when`` (seconds since 1970) was in this start."""
        if self.start is None or when < self.start - CLOCKS_SECONDS:
            return False
        return self.end is None or when <= self.end + CLOCKS_SECONDS


def ask_accounting(
    jobs: Sequence[str], timeout: float = slurm.TIMEOUT_SECONDS
) -> tuple[dict[str, list[JobStart]], str]:
    """Every start of the jobs by their ids, the oldest first; and why sacct did not answer, empty where it did."""
    rows, silent = slurm.accounted(jobs, _FIELDS, timeout)
    groups: list[list[dict[str, str]]] = []
    for row in rows:  # the steps of a start stand behind it
        if "." not in row["JobID"]:
            groups.append([row])
        elif groups and row["JobID"].partition(".")[0] == groups[-1][0]["JobID"]:
            groups[-1].append(row)
    found: dict[str, list[JobStart]] = {}
    for group in groups:
        one = _start(group[0], group[1:])
        if one.start is not None:
            found.setdefault(one.job, []).append(one)
    return found, silent


def _start(row: Mapping[str, str], steps: Sequence[Mapping[str, str]]) -> JobStart:
    held, asked = _tres(row["AllocTRES"]), _tres(row["ReqTRES"])
    measured = [step for step in steps if "gres/gpuutil" in _tres(step["TRESUsageInAve"])]
    longest = max(measured, key=lambda step: _number(step["ElapsedRaw"]) or 0.0, default=None)
    used = [_tres(step["TRESUsageInTot"]).get("mem") or 0.0 for step in steps]
    energies = [_joules(one["ConsumedEnergyRaw"]) for one in (row, *steps)]  # of the nodes: steps have the same again
    return JobStart(
        job=row["JobID"],
        state=row["State"].partition(" ")[0],
        submitted=_number(row["Submit"]),
        start=_number(row["Start"]),  # Unknown while it waits; a start that was put back (REQUEUED) has one
        end=_number(row["End"]),
        seconds=_number(row["ElapsedRaw"]) or 0.0,
        gpus=int(held.get("gres/gpu", 0)),
        gpu_percent=None if longest is None else _tres(longest["TRESUsageInAve"])["gres/gpuutil"],
        memory=max(used, default=0.0) or None,
        memory_asked=asked.get("mem") or held.get("mem") or None,
        joules=max(filter(None, energies), default=None),
    )


def _tres(text: str) -> dict[str, float]:
    """``cpu=4,mem=16G,gres/gpu=2`` as numbers, memory in bytes; what is no number is passed over."""
    pairs = (part.partition("=") for part in text.split(","))
    return {name: value for name, _, word in pairs if (value := _number(word)) is not None}


def _number(word: str) -> float | None:
    unit = word[-1:] if word[-1:] in _UNITS else ""
    try:
        return float(word.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        return None


def _joules(word: str) -> float | None:
    value = _number(word)
    return value if value is not None and 0 < value < _NO_ENERGY else None
