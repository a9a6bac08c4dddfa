"""From run directories to the engine's input: a table of scores with the outcome of each item."""

from __future__ import annotations

import json
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xtrain.evaluation.outcome_files import Found, Kept, judged
from xtrain.evaluation.scores import LAST
from xtrain.files import read_text
from xtrain.graph import Graph
from xtrain.run_directory import RunDirectory
from xtrain.statistics.chance import ALPHA
from xtrain.statistics.measured import Measured, Outcomes, Unit, joined, measured
from xtrain.tasks import TaskSpec

SAME = 1e-6  # percent by which a score may differ from what its items give: rounding
Key = tuple[str, Hashable, Unit]
"""Row, seed and unit."""


@dataclass(frozen=True)
class Run:
    """One finished evaluation of a cell."""

    row: str
    seed: int
    target: str
    directory: RunDirectory
    scores: Mapping[str, Mapping[str, float]]
    """``{language: {metric: percent}}``."""
    tokens: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What the tokenizer made of each language's text, where that was counted."""
    last: Mapping[str, Mapping[str, float]] | None = None
    """The same with the weights of the last step; None where that is the selected one, or was not scored."""
    of_last: bool = False
    """Whether ``scores`` and predictions are those of the last step."""

    @property
    def outcomes_file(self) -> Path:
        """What it did with each item, where that was kept."""
        return self.directory.outcomes_last if self.of_last else self.directory.outcomes

    def judged(self, spec: TaskSpec, metric: str, language: str) -> Found:
        """What the run did with each item of a language, by its predictions, if there are."""
        folder = self.directory.predictions_last if self.of_last else self.directory.predictions
        path = folder / self.target / f"{language}.jsonl"
        rows = list(_rows(path)) if path.is_file() else []
        return judged(spec, metric, language, rows, self.scores[language][metric]) if rows else (None, None)


def runs_of(graph: Graph, out: Path) -> list[Run]:
    """All finished evaluations of a study's cells. Seeds that share one (nothing was trained) have it each.

    Where the last step was the selected one, its scores are those of the selected one.
    """
    found = []
    read: dict[str, Mapping[str, Any]] = {}
    for cell in graph.cells:
        directory = graph.phases[cell.evaluation].run_directory(out)
        if not directory.done:
            continue
        if cell.evaluation not in read:
            read[cell.evaluation] = directory.read_scores()
        entry = read[cell.evaluation]["tasks"].get(cell.target, {})
        if entry.get("languages"):
            last = read[cell.evaluation].get(LAST, {}).get("tasks", {}).get(cell.target, {}).get("languages")
            protocol = read[cell.evaluation].get("protocol", {}).get("tasks", {}).get(cell.target, {})
            tokens = protocol.get("tokens", {})
            found.append(Run(cell.row, cell.seed, cell.target, directory, entry["languages"], tokens, last))
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in read_text(path).split("\n"):
        if line.strip():
            yield json.loads(line)


@dataclass
class Evidence:
    """All that the answers of a study are made of, read once."""

    graph: Graph
    runs: Sequence[Run]
    _items: dict[tuple[str, str, str, str], Found] = field(default_factory=dict)
    """By run directory, target, language and metric."""
    _whole: dict[tuple[str, str], Measured] = field(default_factory=dict)
    """By target and metric."""
    _open: tuple[Path, Kept | None] = (Path(), None)

    @cached_property
    def _by_cell(self) -> dict[tuple[str, str], list[Run]]:
        """The runs of each row and target."""
        found: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            found.setdefault((run.row, run.target), []).append(run)
        return found

    @classmethod
    def of(cls, graph: Graph, out: Path) -> Evidence:
        """From the run directories below ``out``."""
        return cls(graph, runs_of(graph, out))

    def of_last_steps(self) -> Evidence:
        """The same with the weights of the last step of each run."""
        runs = [replace(run, scores=run.last, of_last=True) if run.last else run for run in self.runs]
        return Evidence(self.graph, runs)

    def metric(self, target: str, asked: str = "") -> str:
        """``asked``, or the target's own."""
        return asked or self.graph.specs[target].metric

    def table(
        self, rows: Sequence[str], targets: Sequence[str], languages: Sequence[str], metric: str, *, items: bool = True
    ) -> Measured:
        """The scores of those of ``rows`` that have some, in those of ``languages`` that any row has; scores alone, and
        quickly, without their ``items``."""
        parts = [self.whole(target, metric) for target in dict.fromkeys(targets)]
        if not items:
            parts = [replace(part, influence=(), clusters=()) for part in parts]
        kept = [part.of_units([u for u, unit in enumerate(part.units) if unit.language in languages]) for part in parts]
        every = joined(kept)
        there = [r for r, row in enumerate(every.rows) if row in rows and not np.isnan(every.scores[r]).all()]
        return every.with_rows(there)

    def whole(self, target: str, metric: str) -> Measured:
        """All rows, seeds and languages of a target; where seeds are nested, the means of the runs within each."""
        name = self.metric(target, metric)
        if (target, name) not in self._whole:
            scores: dict[Key, float] = {}
            items: dict[Key, Outcomes] = {}
            for run in self.runs:
                for language, metrics in run.scores.items():
                    if run.target == target and name in metrics:
                        key = run.row, run.seed, Unit(target, language)
                        scores[key] = metrics[name]
                        found, _ = self.items(run, language, name)
                        if found is not None:
                            items[key] = found
            units = sorted({unit for _, _, unit in scores}, key=lambda unit: unit.language)
            rows = [row.name for row in self.graph.study.intermediate]
            outer = self.graph.study.outer_seeds
            self._whole[target, name] = measured(rows, list(outer), units, scores, items).nested(list(outer.values()))
        return self._whole[target, name]

    def items(self, run: Run, language: str, metric: str) -> Found:
        """The outcomes of one language, if they add up to its score, and the chance it has to be above."""
        key = (f"{run.directory.path} {run.of_last}", run.target, language, metric)
        if key not in self._items:
            kept = self._outcomes_of(run)
            spec = self.graph.specs[run.target]
            found, against = kept.of(metric, language) if kept else run.judged(spec, metric, language)
            adds_up = found is not None and abs(found.score - run.scores[language][metric]) <= SAME
            self._items[key] = (found, against) if adds_up else (None, None)
        return self._items[key]

    def _outcomes_of(self, run: Run) -> Kept | None:
        """What was kept of a run; the file of the one that was asked about last is open."""
        if self._open[0] != run.outcomes_file:
            self._open = run.outcomes_file, Kept.read(run.outcomes_file)
        return self._open[1]

    def at_chance(self, row: str, unit: Unit, metric: str = "") -> bool | None:
        """Whether a score is no better than chance, by the median of its seeds' p; None where nobody can tell."""
        found = [
            self.items(run, unit.language, self.metric(unit.target, metric))[1]
            for run in self._by_cell.get((row, unit.target), ())
            if unit.language in run.scores
        ]
        known = [one.p for one in found if one is not None]
        return statistics.median(known) > ALPHA if known else None
