"""What is exported of a study, where to, and what is common to all files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtrain.report.html import StudySummary
from xtrain.report.statistics import Grid, ResultRow, TaskGrid
from xtrain.statistics.estimate import Estimate


@dataclass(frozen=True)
class Export:
    """What is wanted, and the folder for it."""

    folder: Path
    csv: bool = True
    latex: bool = True
    figures: bool = True

    @classmethod
    def chosen(cls, folder: Path | None, default: Path, *, csv: bool, latex: bool, figures: bool) -> Export | None:
        """Of the flags of a command line: without any of them a folder means all three; without a folder ``default``
        is meant; without either, nothing."""
        if folder is None and not (csv or latex or figures):
            return None
        if not (csv or latex or figures):
            csv = latex = figures = True
        return cls(folder or default, csv, latex, figures)


@dataclass(frozen=True)
class Content:
    """A study's numbers as the page has them, and the runs that they are from."""

    results: Sequence[ResultRow]
    grid: Grid
    study: StudySummary


def difference_of(task: TaskGrid, row: str, language: str | None) -> tuple[float | None, Estimate | None]:
    """Points above the base row, and the estimate that they are from where there is one with an interval."""
    if row not in task.compared_rows:
        return None, None
    estimate = task.estimates.get((row, language))
    return task.difference(row, language), estimate if estimate is not None and estimate.known else None


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A name without a suffix for the file of each of ``names``: letters and digits that every system takes."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.+]+", "-", name).strip("-.") or "unnamed"
        number, unique = 2, plain
        while unique.lower() in {one.lower() for one in found.values()}:
            number, unique = number + 1, f"{plain}-{number}"
        found.setdefault(name, unique)
    return found
