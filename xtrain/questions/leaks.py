"""Which cells are not zero-shot: the ledger of what a row was trained on before it met a target's test set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xtrain.data.account import Account
from xtrain.errors import listed
from xtrain.files import read_json
from xtrain.graph import Graph
from xtrain.study import Target
from xtrain.study_rows import Intermediate
from xtrain.tasks import TaskSpec

UNLABELLED = "mlm"  # the format whose data have no labels
SEEN = 0.01  # the share of a test set in training data from which on it is no chance


@dataclass(frozen=True)
class Ledger:
    """What is not zero-shot, and why."""

    reasons: Mapping[tuple[str, str, str], str]
    """By row, target and language: the language or the very examples were trained on."""
    tasks: Mapping[tuple[str, str], str]
    """By row and target: the task itself was trained on before, so that this is no transfer from another one."""

    def reason(self, row: str, target: str, language: str) -> str:
        """Empty where the language and its examples are new."""
        return self.reasons.get((row, target, language), "")

    def same_task(self, row: str, target: str) -> str:
        """Empty where the task is new."""
        return self.tasks.get((row, target), "")

    @classmethod
    def of(cls, graph: Graph, out: Path) -> Ledger:
        """From what the study says of its rows and targets, and what the evaluations below ``out`` found of examples
        that were trained on."""
        reasons = dict(_seen_examples(graph, out))
        tasks = {}
        for row in graph.study.intermediate:
            seen = languages_seen(row, graph.specs)
            for column in graph.study.target:
                if task := _same_task(graph, row, column):
                    tasks[row.name, column.task] = task
                own = dict.fromkeys(_own_languages(graph, column), "the target itself is trained in it")
                for phase in graph.phases.values():
                    if phase.tasks != (column.task,):
                        continue
                    for language in phase.languages:
                        if why := own.get(language) or seen.get(language):
                            reasons[row.name, column.task, language] = why
        return cls(reasons, tasks)


def languages_seen(row: Intermediate, specs: Mapping[str, TaskSpec]) -> dict[str, str]:
    """Language -> why it is no new one after the row's intermediate phases. Text without labels does not count."""
    tasks: dict[str, list[str]] = {}
    for name in _labelled_tasks(row, specs):
        for member in specs[name].members:
            for language in row.languages.get(name) or specs[member].default_train_languages:
                tasks.setdefault(language, []).append(name)
    return {
        language: f"{listed(dict.fromkeys(names))} has it in its training data" for language, names in tasks.items()
    }


def _labelled_tasks(row: Intermediate, specs: Mapping[str, TaskSpec]) -> list[str]:
    names = dict.fromkeys(name for names in row.phases for name in names)
    return [name for name in names if specs[name].format != UNLABELLED]


def _same_task(graph: Graph, row: Intermediate, column: Target) -> str:
    """Which task of the row the target is, or is trained on."""
    spec = graph.specs[column.task]
    own = {column.task, *spec.training_tasks(graph.study.evaluation.benchmark)}
    own |= {member for name in own for member in graph.specs[name].members}
    members = {member: name for name in _labelled_tasks(row, graph.specs) for member in graph.specs[name].members}
    shared = dict.fromkeys(members[member] for member in members if member in own)
    return f"{column.task} is trained on {listed(shared)} itself" if shared else ""


def _seen_examples(graph: Graph, out: Path) -> Iterator[tuple[tuple[str, str, str], str]]:
    read: dict[str, list[Account]] = {}
    for cell in graph.cells:
        run = graph.phases[cell.evaluation].run_directory(out)
        if not run.done or not run.data_file.is_file():
            continue
        if cell.evaluation not in read:
            read[cell.evaluation] = [Account.of(one) for one in read_json(run.data_file)]
        for account in read[cell.evaluation]:
            tasks = {task: count / account.examples for task, count in account.seen.items()
                     if count >= SEEN * account.examples}  # fmt: skip
            if tasks:
                told = listed(f"{100 * share:.0f} % of its examples are in {task}" for task, share in tasks.items())
                yield (cell.row, cell.target, account.language), f"{told}, which was trained on"


def _own_languages(graph: Graph, column: Target) -> tuple[str, ...]:
    """The languages in which the target phase itself is trained; none where nothing is."""
    spec = graph.specs[column.task]
    if column.train_languages:
        return column.train_languages
    trained = spec.training_tasks(graph.study.evaluation.benchmark) or (column.task,)
    return tuple(dict.fromkeys(language for name in trained for language in _default(graph.specs[name], graph.specs)))


def _default(spec: TaskSpec, specs: Mapping[str, TaskSpec]) -> tuple[str, ...]:
    return tuple(language for member in spec.members for language in specs[member].default_train_languages)
