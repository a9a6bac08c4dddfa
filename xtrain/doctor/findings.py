"""What the doctor found: one line a check, with what to do where something is to be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"
LEVELS = (OK, NOTE, WARNING, PROBLEM)
"""From nothing to say to training cannot work, or would lose work, as things are."""


@dataclass(frozen=True)
class Finding:
    """One check."""

    level: str
    """One of :data:`LEVELS`."""
    looked_at: str
    """In a few words: ``torch``, ``output folder``, ``GraceTime of main``."""
    found: str
    """What was there, with names and figures."""
    to_do: str = ""
    """What the user can do about it; never empty for a warning or a problem."""

    def __post_init__(self) -> None:
        assert self.level in LEVELS, self.level
        assert self.to_do or self.level in (OK, NOTE), f"{self.looked_at}: {self.found}: and what is to be done?"


def ok(looked_at: str, found: str) -> Finding:
    """All is well."""
    return Finding(OK, looked_at, found)


def note(looked_at: str, found: str, to_do: str = "") -> Finding:
    """Worth knowing; works as it is."""
    return Finding(NOTE, looked_at, found, to_do)


def warning(looked_at: str, found: str, to_do: str) -> Finding:
    """Works, but slower or with less safety than it could, or will not work for large models."""
    return Finding(WARNING, looked_at, found, to_do)


def problem(looked_at: str, found: str, to_do: str) -> Finding:
    """Jobs will fail or lose work."""
    return Finding(PROBLEM, looked_at, found, to_do)


@dataclass(frozen=True)
class Table:
    """Rows that belong to a section: the rank map, the bandwidths."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """Checks of one kind."""

    title: str
    findings: Sequence[Finding]
    tables: Sequence[Table] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """What was measured or reported, for ``--json``."""

    def to_mapping(self) -> dict[str, Any]:
        """As ``--json`` has it."""
        findings = [dataclasses.asdict(finding) for finding in self.findings]
        return {"title": self.title, "findings": findings, "details": dict(self.details)}


def worst(findings: Iterable[Finding]) -> str:
    """The highest level among ``findings``; ``ok`` for none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default=OK)


def count(findings: Iterable[Finding], level: str) -> int:
    """How many of ``findings`` are of ``level``."""
    return sum(finding.level == level for finding in findings)


def gib(num_bytes: float) -> str:
    """``6.7 GiB``, ``64 MiB``, ``4 KiB``: a number of bytes in the unit that fits it."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:,.1f} GiB"
    return f"{num_bytes / 2**20:,.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:,.0f} KiB"


def seconds(number: float) -> str:
    """``45 s``, ``10 min``, ``24 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if number >= 2 * size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} s"
