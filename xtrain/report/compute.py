"""What a study has cost: device-hours of all attempts at all of its phases, by kind of phase and of device.

A phase that rows share is one phase, and counts once. How long each attempt took is :mod:`xtrain.watching.starts`'s to
say, as for ``xtrain usage``; SLURM is not asked, so that the same run directories always give the same page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xtrain.dispatch.attempts import DONE, KILLED
from xtrain.errors import counted
from xtrain.graph import EVALUATE, INTERMEDIATE, TARGET, Graph
from xtrain.watching.starts import StartUsage, starts_of
from xtrain.watching.usage_view import hours

HOUR = 3600.0
NOT_ON_RECORD = "not on record"
CPU = "CPU rank-hours"
KINDS = (INTERMEDIATE, TARGET, EVALUATE)
_VENDOR = re.compile(r"^(?:(?:NVIDIA|AMD|Intel\(R\)|Tesla|GeForce|Instinct)\s+)+")


@dataclass(frozen=True)
class PhaseCompute:
    """The attempts at one phase."""

    name: str
    """Without the seed."""
    kind: str
    seed: int | None = None
    starts: tuple[StartUsage, ...] = ()
    """The oldest first; of a phase that did not begin, and of one whose ``job/`` was lost, none."""

    @property
    def seconds(self) -> float:
        """Wall time of all attempts together."""
        return sum(start.seconds for start in self.starts)

    @property
    def hours(self) -> float:
        """Device-hours: wall time of each attempt x its devices."""
        return sum(map(device_hours, self.starts))

    @property
    def lost_hours(self) -> float:
        """Device-hours of what was trained again, or evaluated again, after a restart."""
        return sum(map(lost_hours, self.starts))

    @property
    def at_least(self) -> bool:
        """Whether it may be more: the end of an attempt, or its number of devices, is not known."""
        return any(start.at_least or not start.devices for start in self.starts)

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of devices that it ran on."""
        return tuple(dict.fromkeys(map(device_of, self.starts)))

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes that it ran on, in the order in which it came to them."""
        return tuple(dict.fromkeys(node for start in self.starts for node in start.nodes))

    @property
    def interrupted(self) -> tuple[StartUsage, ...]:
        """The attempts that ended before the phase was done."""
        last = len(self.starts) - 1
        return tuple(one for n, one in enumerate(self.starts) if n < last or (one.how != DONE and not one.running))


@dataclass(frozen=True)
class Share:
    """What phases of one kind have used of one kind of device."""

    kind: str
    device: str
    phases: int
    attempts: int
    hours: float
    lost_hours: float
    at_least: bool = False


@dataclass(frozen=True)
class Compute:
    """What all phases of a study have used."""

    phases: tuple[PhaseCompute, ...]
    unrecorded: int = 0
    """Finished phases of which no attempt is on record."""

    @classmethod
    def of(cls, graph: Graph, out: Path) -> Compute:
        """Read from the run directories below ``out``."""
        found, unrecorded = [], 0
        for phase in graph.phases.values():
            run = phase.run_directory(out)
            starts = tuple(starts_of(run, phase.kind))
            unrecorded += run.done and not starts
            found.append(PhaseCompute(phase.name.removesuffix(f"-s{phase.seed}"), phase.kind, phase.seed, starts))
        return cls(tuple(found), unrecorded)

    @property
    def attempts(self) -> tuple[StartUsage, ...]:
        """Of all phases."""
        return tuple(start for phase in self.phases for start in phase.starts)

    @property
    def num_phases(self) -> int:
        """Phases that have begun."""
        return sum(bool(phase.starts) for phase in self.phases)

    @property
    def shares(self) -> tuple[Share, ...]:
        """A line for each kind of phase and of device."""
        groups: dict[tuple[str, str], list[tuple[PhaseCompute, StartUsage]]] = {}
        for kind in in_order({phase.kind for phase in self.phases}):
            for phase in self.phases:
                for start in phase.starts if phase.kind == kind else ():
                    groups.setdefault((kind, device_of(start)), []).append((phase, start))
        return tuple(
            Share(
                kind,
                device,
                len({id(phase) for phase, _ in pairs}),
                len(pairs),
                sum(device_hours(start) for _, start in pairs),
                sum(lost_hours(start) for _, start in pairs),
                any(start.at_least or not start.devices for _, start in pairs),
            )
            for (kind, device), pairs in groups.items()
        )

    @property
    def headline(self) -> str:
        """``12.4 H200-hours in 37 attempts of 30 phases; 1.1 lost to restarts``; empty before the first attempt."""
        if not self.attempts:
            return ""
        mine: dict[str, list[StartUsage]] = {}
        for start in self.attempts:
            if start.devices:
                mine.setdefault(unit_of(start), []).append(start)
        mine = dict(sorted(mine.items(), key=lambda one: (one[0] == CPU, -sum(map(device_hours, one[1])), one[0])))
        spent = " and ".join(
            f"{_least(any(start.at_least for start in some))}{hours_text(sum(map(device_hours, some)))} {unit}"
            for unit, some in mine.items()
        )
        lost = " and ".join(
            f"{hours_text(gone)}{f' {unit}' if len(mine) > 1 else ''}"
            for unit, some in mine.items()
            if (gone := sum(map(lost_hours, some)))
        )
        where = f"in {counted(len(self.attempts), 'attempt')} of {counted(self.num_phases, 'phase')}"
        return f"{spent or 'device-hours not on record'} {where}" + (f"; {lost} lost to restarts" if lost else "")

    def notes(self) -> Iterator[str]:
        """What a reader has to know of these numbers, a sentence each."""
        yield (
            "Device-hours: the time from when an attempt at a phase began until it ended, times its GPUs (its ranks, "
            "where they have none), over all attempts; a phase that several rows share counts once"
        )
        if any(map(lost_hours, self.attempts)):
            yield "lost to restarts: steps that were trained, and evaluations that were made, a second time"
        no_end = [start for start in self.attempts if start.at_least]
        if no_end:
            cause = f"killed with everything around {'it' if len(no_end) == 1 else 'them'}"
            cause += "" if all(start.how == KILLED for start in no_end) else ", or still under way"
            yield (
                f"at least (≥): {counted(len(no_end), 'attempt')} left no end on record ({cause}): counted until the "
                "last line"
            )
        no_devices = sum(not start.devices for start in self.attempts)
        if no_devices:
            yield f"{counted(no_devices, 'attempt')} whose number of devices is not on record: counted for no hours"
        if any(start.lost_seconds is None for start in self.attempts):
            yield "of some steps that were trained twice it is not known how long they took the first time"
        if self.unrecorded:
            phases = counted(self.unrecorded, "finished phase")
            yield f"{phases} without an attempt on record (job/ is gone): not counted"


def in_order(kinds: set[str]) -> list[str]:
    """Kinds of phases as work flows; others last."""
    return sorted(kinds, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))


def device_hours(start: StartUsage) -> float:
    """Of one attempt; 0 where its number of devices is not known."""
    return start.seconds * start.devices / HOUR


def lost_hours(start: StartUsage) -> float:
    """Device-hours of an attempt that a later one spent again."""
    return (start.lost_seconds or 0.0) * start.devices / HOUR


def device_of(start: StartUsage) -> str:
    """The kind of its devices: ``H200``, ``CPU rank (Xeon(R) Platinum 8481C, 2 threads)``."""
    if not start.devices:
        return NOT_ON_RECORD
    model = _VENDOR.sub("", start.device.strip())
    if start.gpus:
        return model or f"GPU, model {NOT_ON_RECORD}"
    facts = ", ".join(filter(None, [model, counted(start.threads, "thread") if start.threads else ""]))
    return f"CPU rank ({facts})" if facts else "CPU rank"


def unit_of(start: StartUsage) -> str:
    """What its hours are called in a sum."""
    if not start.gpus:
        return CPU
    return f"{device_of(start)}-hours" if start.device else "GPU-hours"


def hours_text(value: float) -> str:
    """Hours to three digits."""
    return "< 0.001" if 0.0 < value < 0.001 else hours(value)


def _least(at_least: bool) -> str:
    return "≥ " if at_least else ""
