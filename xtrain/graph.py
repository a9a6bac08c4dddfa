"""A study as a graph of phases, each known by a hash over everything that changes its result."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
from xtrain.files import content_hash
from xtrain.model.loading import base_fingerprint
from xtrain.run_directory import RunDirectory
from xtrain.study import NO_INTERMEDIATE, Recipe, Study
from xtrain.tasks import TaskSpec, formats
from xtrain.tasks.sources import fingerprint, languages_of

HASH_VERSION = 1  # raised when the same study would now give other numbers
INTERMEDIATE, TARGET, EVALUATE = "intermediate", "target", "evaluate"


@dataclass(frozen=True)
class Phase:
    """One node of the graph."""

    kind: str
    name: str  # reads well: "mnli-s1", "mnli/xnli-s1"
    seed: int
    tasks: tuple[str, ...]  # what it trains on, or the one task it evaluates
    hash: str
    parent: str | None = None  # the hash of the phase whose encoder it starts from; None: the base
    recipe: Recipe = Recipe()  # of an evaluation only max_length counts
    languages: tuple[str, ...] = ()  # of an evaluation
    trained_task: str | None = None  # of an evaluation: the task whose head predicts; None for retrieval

    @property
    def folder(self) -> str:
        """The run directory's name below the study's output folder."""
        return f"{self.kind}/{re.sub(r'[^A-Za-z0-9_.+-]+', '-', self.name)}-{self.hash}"

    def run_directory(self, out: Path) -> RunDirectory:
        """The run directory below ``out``."""
        return RunDirectory(out / self.folder)


@dataclass(frozen=True)
class Cell:
    """A number of the table: one row, one target, one seed, and the evaluation that gives it."""

    row: str
    target: str
    seed: int
    evaluation: str  # the hash of the phase


@dataclass
class Graph:
    """The phases in an order in which they can run, each once, and the cells of the table."""

    study: Study
    base_folder: Path
    specs: Mapping[str, TaskSpec]
    phases: dict[str, Phase] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def add(self, phase: Phase) -> Phase:
        """Add ``phase`` unless one with the same hash is there; returns the one that is there."""
        return self.phases.setdefault(phase.hash, phase)


def train_language(spec: TaskSpec) -> str:
    """The language that a task is trained in: English where it has it, else its first."""
    return "en" if "en" in spec.languages or spec.languages == ("*",) else spec.languages[0]


def expand(study: Study, specs: Mapping[str, TaskSpec], base_folder: Path, data_root: Path | None) -> Graph:
    """The graph of ``study``.

    ``specs`` are the catalogue's tasks and the study's own, ``base_folder`` the resolved base model,
    ``data_root`` the folder of ``--data``. Raises a :class:`UserError` for data that is not there and
    languages that a task does not have.
    """
    graph = Graph(study, base_folder, specs)
    builder = _Builder(graph, data_root, base_fingerprint(base_folder))
    for seed in study.seeds:
        for row in study.intermediate:
            parent, path = None, ""
            for number, tasks in enumerate(row.phases):
                path = f"{path}+{'+'.join(tasks)}" if number else row.name if len(row.phases) == 1 else "+".join(tasks)
                parent = builder.training(INTERMEDIATE, tasks, seed, parent, path).hash
            for column in study.target:
                final = builder.target(column.task, column.languages, seed, parent, row.name)
                graph.cells.append(Cell(row.name, column.task, seed, final.hash))
    return graph


@dataclass
class _Builder:
    graph: Graph
    data_root: Path | None
    base: str

    def training(
        self, kind: str, tasks: Sequence[str], seed: int, parent: str | None, path: str, target: str = ""
    ) -> Phase:
        """A phase that trains on ``tasks``; ``target`` is the study's name for it where that differs."""
        study, specs = self.graph.study, self.graph.specs
        catalogue = specs[target or tasks[0]].recipe if len(tasks) == 1 else {}
        recipe = study.recipe_for(kind, target or (tasks[0] if len(tasks) == 1 else ""), catalogue)
        for task in tasks:
            self._check_trained(specs[task], kind)
        data = {
            task: {
                "spec": _meaning(specs[task]),
                "train": fingerprint(specs[task], "train", train_language(specs[task]), self.data_root),
                "dev": self._dev_fingerprint(task, recipe),
            }
            for task in tasks
        }
        key = self._key(kind, data, seed=seed, parent=parent, recipe=dataclasses.asdict(recipe))
        name = f"{path}-s{seed}"
        return self.graph.add(Phase(kind, name, seed, tuple(tasks), key, parent, recipe))

    def target(self, task: str, languages: Sequence[str], seed: int, parent: str | None, row: str) -> Phase:
        """The evaluation of ``task``, after its own training where its format is trained."""
        spec, evaluation = self.graph.specs[task], self.graph.study.evaluation
        trained_task = None
        if formats.get(spec.format).trained:
            trained_task = spec.train_on or task
            parent = self.training(TARGET, (trained_task,), seed, parent, f"{row}/{task}", task).hash
        split = spec.evaluation_split(evaluation.split)
        chosen = self._languages(spec, split, languages)
        data = {
            "spec": _meaning(spec),
            "languages": {language: fingerprint(spec, split, language, self.data_root) for language in chosen},
        }
        recipe = self.graph.study.recipe_for(TARGET, task, spec.recipe)
        settings = {**dataclasses.asdict(evaluation), "max_length": recipe.max_length}
        key = self._key(EVALUATE, data, parent=parent, evaluation=settings, trained_task=trained_task)
        name = f"{row}/{task}-s{seed}"
        return self.graph.add(Phase(EVALUATE, name, seed, (task,), key, parent, recipe, tuple(chosen), trained_task))

    def _key(self, kind: str, data: Any, **more: Any) -> str:
        content = {
            "version": HASH_VERSION,
            "kind": kind,
            "data": data,
            "precision": self.graph.study.engine.precision,
        }
        base = self.base if more["parent"] is None else None  # a parent's hash holds the base already
        return content_hash({**content, "base": base, **more})

    def _dev_fingerprint(self, task: str, recipe: Recipe) -> str | None:
        spec = self.graph.specs[task]
        if recipe.eval_examples == 0:
            return None
        return fingerprint(spec, "dev", train_language(spec), self.data_root)

    def _languages(self, spec: TaskSpec, split: str, wanted: Sequence[str]) -> tuple[str, ...]:
        known = languages_of(spec, split, self.data_root)
        problems = [
            Problem(
                f"target {spec.name!r}: languages",
                f"{language!r} is not there",
                listed(known),
                nearest(language, known),
            )
            for language in wanted
            if language not in known
        ]
        if problems:
            raise UserError(*problems)
        return tuple(wanted) or known

    def _check_trained(self, spec: TaskSpec, kind: str) -> None:
        if not formats.get(spec.format).trained:
            raise UserError(
                Problem(
                    f"{kind} task {spec.name!r}",
                    f"its format {spec.format!r} has no training",
                    remedy="use it as a [[target]]; it is then evaluated without training",
                )
            )


def _meaning(spec: TaskSpec) -> dict[str, Any]:
    """What of a task's entry changes a result that its data's fingerprint does not hold."""
    return {
        "format": spec.format,
        "labels": list(spec.labels),
        "metric": spec.metric,
        "options": dict(spec.options),
    }


def rows_of(graph: Graph) -> list[str]:
    """The table's rows in the study's order, the base row first where there is one."""
    names = [row.name for row in graph.study.intermediate]
    return sorted(names, key=lambda name: name != NO_INTERMEDIATE)
