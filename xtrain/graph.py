"""A study as a graph of phases, each known by a hash over everything that changes its result."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.dispatch.job_graph import EVALUATE as EVALUATE
from xtrain.dispatch.job_graph import INTERMEDIATE as INTERMEDIATE
from xtrain.dispatch.job_graph import TARGET as TARGET
from xtrain.dispatch.job_graph import graphs
from xtrain.errors import Problem, UserError, listed
from xtrain.files import content_hash
from xtrain.languages import proposed
from xtrain.model.loading import base_fingerprint
from xtrain.run_directory import RunDirectory
from xtrain.study import Base, Recipe, Study, Target
from xtrain.study_rows import NO_INTERMEDIATE, Intermediate
from xtrain.tasks import TaskSpec, formats
from xtrain.tasks.labels import with_labels
from xtrain.tasks.sampling import Sample
from xtrain.tasks.sources import choose, fingerprint, languages_of, looked_for
from xtrain.tasks.spec import EVERY, LANGUAGE

HASH_VERSION = 3  # raised when the same study would now give other numbers


@dataclass(frozen=True)
class Reading:
    """A shard that a phase reads, before it is prepared."""

    task: str  # the phase's task that it is read for
    member: str  # the task whose entry says how: another one where several are joined
    role: str  # "train", "dev", "evaluate", or a companion's
    split: str
    language: str
    max_length: int  # tokens in a sequence
    sample: Sample | None = None  # None: all examples


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
    readings: tuple[Reading, ...] = ()
    head_from: str | None = None  # the task of the parent whose head is trained on; None: a new head
    trained_task: str | None = None  # of an evaluation: the task whose head predicts; None for retrieval
    base: Base = Base("")  # what the first of the phases before it starts from, or it itself
    place: str = ""  # the run directory that another study, whose row has another name, has made for it

    @property
    def languages(self) -> tuple[str, ...]:
        """Of an evaluation: the languages that are scored."""
        return tuple(reading.language for reading in self.readings if reading.role == EVALUATE)

    @property
    def folder(self) -> str:
        """The run directory's name below the study's output folder."""
        return self.place or f"{self.kind}/{re.sub(r'[^A-Za-z0-9_.+-]+', '-', self.name)}-{self.hash}"

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
    bases: Mapping[Base, Path]
    """The folder of each base; empty where they were not asked for."""
    specs: Mapping[str, TaskSpec]
    phases: dict[str, Phase] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    """What of the data is odd, and may be meant."""
    missing: list[Problem] = field(default_factory=list)
    """Data that are not there. The hash of a phase that reads such data is none that it will ever have."""
    lacking: dict[str, Problem] = field(default_factory=dict)
    """The tasks whose data these are, each with the first of its problems."""

    def base_folder(self, phase: Phase) -> Path:
        """The folder of the base of a phase, whose tokenizer its data are prepared with."""
        return self.bases[phase.base]

    def find_places(self, out: Path) -> None:
        """Phases that another study has, or will have, below ``out`` under another name: their hash says so."""
        there: dict[str, str] = {}
        with contextlib.suppress(UserError):  # a job graph of another version says nothing
            there = {node.hash: node.folder for jobs in graphs(out) for node in jobs.nodes}
        for kind in (INTERMEDIATE, TARGET, EVALUATE):
            there |= {path.name.rpartition("-")[2]: f"{kind}/{path.name}" for path in sorted((out / kind).glob("*-*"))}
        for key, phase in self.phases.items():
            if key in there and not phase.run_directory(out).path.exists():
                self.phases[key] = dataclasses.replace(phase, place=there[key])

    def add(self, phase: Phase) -> Phase:
        """Add ``phase`` unless one with the same hash is there; returns the one that is there."""
        return self.phases.setdefault(phase.hash, phase)


def expand(study: Study, specs: Mapping[str, TaskSpec], bases: Mapping[Base, Path], data_root: Path | None) -> Graph:
    """The graph of ``study``.

    ``specs`` are the catalogue's tasks and the study's own, ``bases`` the folders of the study's base models (without
    them no phase has its own hash), ``data_root`` the folder of ``--data``. Data and languages that are not there are
    noted in ``missing``, all of them; what a study cannot ask of a task is raised as a :class:`UserError`.
    """
    graph = Graph(study, bases, with_labels(specs, study.tasks, data_root, lenient=True))
    prints = {base: base_fingerprint(folder) for base, folder in bases.items()}
    for first, last in study.runs:
        for row in study.intermediate:
            base = study.base_of(row)
            builder = _Builder(graph, data_root, row, base, prints.get(base, str(base)))
            parent, path = None, ""
            for number, tasks in enumerate(row.phases):
                path = f"{path}+{'+'.join(tasks)}" if number else row.name if len(row.phases) == 1 else "+".join(tasks)
                if row.stands_apart and len(row.phases) > 1:  # what other rows may call alike is not the same
                    path = f"{row.name} step {number + 1}"
                parent = builder.intermediate(tasks, first, parent, path).hash
            for column in study.target:
                final = builder.target(column, last, parent)
                graph.cells.append(Cell(row.name, column.task, last, final.hash))
    return graph


@dataclass
class _Builder:
    """The phases of one row."""

    graph: Graph
    data_root: Path | None
    row: Intermediate
    base: Base
    fingerprint: str

    def intermediate(self, tasks: Sequence[str], seed: int, parent: str | None, path: str) -> Phase:
        """A phase that trains on a task or a mixture."""
        study, specs = self.graph.study, self.graph.specs
        for task in tasks:
            self._check_trained(specs[task], INTERMEDIATE)
        catalogue = specs[tasks[0]].recipe if len(tasks) == 1 else {}
        recipe = study.recipe_for(INTERMEDIATE, tasks[0] if len(tasks) == 1 else "", catalogue, self.row)
        readings = []
        for task in tasks:  # a mixture has one recipe, but each task its own maximum length
            length = study.recipe_for(INTERMEDIATE, task, specs[task].recipe, self.row).max_length
            readings += self._training_data(task, self.row.languages.get(task, ()), recipe, length)
        return self._trained(INTERMEDIATE, tasks, seed, parent, path, recipe, readings)

    def target(self, column: Target, seed: int, parent: str | None) -> Phase:
        """The evaluation of ``column.task``, after its own training where it has one."""
        study, specs, task = self.graph.study, self.graph.specs, column.task
        spec, trained = specs[task], formats.get(specs[task].format).trained
        self._check_evaluated(spec)
        order = spec.training_tasks(study.evaluation.benchmark) or ((task,) if trained else ())
        recipe = study.recipe_for(TARGET, task, spec.recipe, self.row)
        before: str | None = None
        for number, name in enumerate(order):
            last = trained and number == len(order) - 1
            own = recipe if last else study.recipe_for(TARGET, name, specs[name].recipe, self.row)
            head_from = before if before is not None and _same_head(specs[before], specs[name]) else None
            readings = self._training_data(name, column.train_languages, own, own.max_length)
            path = f"{self.row.name}/{task if last else '+'.join(order[: number + 1])}"
            parent = self._trained(TARGET, (name,), seed, parent, path, own, readings, head_from).hash
            before = name
        return self._evaluated(column, seed, parent, recipe, before if trained else None)

    def _training_data(self, task: str, languages: Sequence[str], recipe: Recipe, max_length: int) -> list[Reading]:
        """The training shards of ``task``, and its dev shards where something is selected on them."""
        specs = self.graph.specs
        parts = [
            (member, language)
            for member in specs[task].members
            for language in (languages or specs[member].default_train_languages)
        ]
        wanted = [("train", recipe.train_examples)]
        if recipe.eval_examples:
            wanted.append(("dev", recipe.eval_examples))
        return [
            # the same number of each, so that parallel parts have the same examples
            Reading(task, member, split, split, language, max_length, self._sample(limit and limit // len(parts)))
            for split, limit in wanted
            for member, language in parts
        ]

    def _sample(self, examples: int | None) -> Sample | None:
        return None if examples is None else Sample(max(1, examples), self.graph.study.sample_seed)

    def _trained(
        self,
        kind: str,
        tasks: Sequence[str],
        seed: int,
        parent: str | None,
        path: str,
        recipe: Recipe,
        readings: Sequence[Reading],
        head_from: str | None = None,
    ) -> Phase:
        key = self._key(
            kind, tasks, readings, seed=seed, parent=parent, recipe=dataclasses.asdict(recipe), head_from=head_from
        )
        name = f"{path}-s{seed}"
        return self.graph.add(
            Phase(kind, name, seed, tuple(tasks), key, parent, recipe, tuple(readings), head_from, base=self.base)
        )

    def _evaluated(
        self, column: Target, seed: int, parent: str | None, recipe: Recipe, trained_task: str | None
    ) -> Phase:
        task, evaluation = column.task, self.graph.study.evaluation
        spec = self.graph.specs[task]
        split = spec.evaluation_split(evaluation.split)
        chosen = self._languages(spec, split, column.languages)
        length, sample = recipe.max_length, self._sample(evaluation.limit)
        readings = [Reading(task, task, EVALUATE, split, language, length, sample) for language in chosen]
        readings += [
            Reading(task, task, companion.role, companion.split, companion.language, length)
            for companion in formats.get(spec.format).companions(spec, split, chosen)
        ]
        settings = dataclasses.asdict(evaluation)
        key = self._key(EVALUATE, (task,), readings, parent=parent, evaluation=settings, trained_task=trained_task)
        return self.graph.add(
            Phase(EVALUATE, f"{self.row.name}/{task}-s{seed}", seed, (task,), key, parent, recipe, tuple(readings),
                  trained_task=trained_task, base=self.base)
        )  # fmt: skip

    def _key(self, kind: str, tasks: Sequence[str], readings: Sequence[Reading], **more: Any) -> str:
        specs = self.graph.specs
        data = [[dataclasses.asdict(reading), self._fingerprint(reading)] for reading in readings]
        content = {
            "version": HASH_VERSION,
            "kind": kind,
            "tasks": {task: _meaning(specs[task]) for task in tasks},
            "data": data,
            "precision": self.graph.study.engine.precision,
        }
        base = self.fingerprint if more["parent"] is None else None  # a parent's hash holds the base already
        return content_hash({**content, "base": base, **more})

    def _fingerprint(self, reading: Reading) -> str:
        spec = self.graph.specs[reading.member]
        try:
            return fingerprint(spec, reading.split, reading.language, self.data_root)
        except UserError as error:
            self._missing(spec, *error.problems)
            return "missing"

    def _missing(self, spec: TaskSpec, *problems: Problem) -> None:
        for problem in problems:
            self.graph.lacking.setdefault(spec.name, problem)
        self.graph.missing += [problem for problem in problems if problem not in self.graph.missing]

    def _languages(self, spec: TaskSpec, split: str, wanted: Sequence[str]) -> tuple[str, ...]:
        try:
            known = languages_of(spec, split, self.data_root)
        except UserError as error:
            self._missing(spec, *error.problems)
            return ()
        usual = spec.languages_in(self.graph.study.evaluation.benchmark)
        self._missing(spec, *(self._unknown(spec, split, one, known) for one in wanted if one not in known))
        if wanted:
            return tuple(language for language in wanted if language in known)
        if spec.languages == (EVERY,):
            self._remark_holes(spec, split, known)
        if not known:
            what = f"there is no {split} file: looked for {listed(looked_for(spec, split, LANGUAGE, self.data_root))}"
            remedy = "put the files there, check the folder of --data, or evaluate on another split"
            self._missing(spec, Problem(f"target {spec.name!r}: languages", what, remedy=remedy))
        return known if spec.languages == (EVERY,) else usual

    def _remark_holes(self, spec: TaskSpec, split: str, known: Sequence[str]) -> None:
        """Languages that have another set to evaluate on, and none of ``split``."""
        others = {
            language
            for other in {"dev", "test"} & set(choose(spec, self.data_root).files) - {split}
            for language in languages_of(spec, other, self.data_root)
        }
        holes = sorted(others - {*known, *spec.default_train_languages})
        for language in holes if known else ():
            path = listed(looked_for(spec, split, language, self.data_root))
            self.graph.remarks.append(f"{spec.name} is not evaluated in {language!r}: there is no {path}")

    def _unknown(self, spec: TaskSpec, split: str, language: str, known: Sequence[str]) -> Problem:
        """The problem that a target is to be evaluated in a language that it has not."""
        what = f"{language!r} is not there"
        if spec.languages == (EVERY,):
            what += f": no file {listed(looked_for(spec, split, language, self.data_root))}"
        return Problem(f"target {spec.name!r}: languages", what, listed(known), proposed(language, known))

    def _check_evaluated(self, spec: TaskSpec) -> None:
        if spec.joined or not {"test", "dev"} & set(spec.splits):
            remedy = "use it in an [[intermediate]] row, or as train_on of a task that has a test set"
            raise UserError(Problem(f"target {spec.name!r}", "has nothing of its own to evaluate on", remedy=remedy))

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
        "language_exponent": spec.language_exponent,
    }


def _same_head(one: TaskSpec, other: TaskSpec) -> bool:
    """Whether a head that was trained on one task can go on with the other."""
    return one.format == other.format and one.labels == other.labels


def rows_of(graph: Graph) -> list[str]:
    """The table's rows in the study's order, the base row first where there is one."""
    names = [row.name for row in graph.study.intermediate]
    return sorted(names, key=lambda name: name != NO_INTERMEDIATE)
