"""Which cells are not zero-shot: the ledger of what a row was trained on before it met the target's language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xtrain.errors import listed
from xtrain.graph import Graph
from xtrain.study import Intermediate, Target
from xtrain.tasks import TaskSpec

UNLABELLED = "mlm"  # the format whose data have no labels


@dataclass(frozen=True)
class Ledger:
    """Row, target and language -> why the score is not zero-shot."""

    reasons: Mapping[tuple[str, str, str], str]

    def reason(self, row: str, target: str, language: str) -> str:
        """Empty where the score is zero-shot."""
        return self.reasons.get((row, target, language), "")

    @classmethod
    def of(cls, graph: Graph) -> Ledger:
        """From what the study says of its rows and targets."""
        reasons = {}
        for row in graph.study.intermediate:
            seen = languages_seen(row, graph.specs)
            for column in graph.study.target:
                own = dict.fromkeys(_own_languages(graph, column), "the target itself is trained in it")
                for phase in graph.phases.values():
                    if phase.tasks != (column.task,):
                        continue
                    for language in phase.languages:
                        if why := own.get(language) or seen.get(language):
                            reasons[row.name, column.task, language] = why
        return cls(reasons)


def languages_seen(row: Intermediate, specs: Mapping[str, TaskSpec]) -> dict[str, str]:
    """Language -> why it is no new one after the row's intermediate phases. Text without labels does not count."""
    tasks: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for names in row.phases for name in names):
        if specs[name].format == UNLABELLED:
            continue
        for member in specs[name].members:
            for language in row.languages.get(name) or specs[member].default_train_languages:
                tasks.setdefault(language, []).append(name)
    return {
        language: f"{listed(dict.fromkeys(names))} has it in its training data" for language, names in tasks.items()
    }


def _own_languages(graph: Graph, column: Target) -> tuple[str, ...]:
    """The languages in which the target phase itself is trained; none where nothing is."""
    spec = graph.specs[column.task]
    if column.train_languages:
        return column.train_languages
    trained = spec.training_tasks(graph.study.evaluation.benchmark) or (column.task,)
    return tuple(dict.fromkeys(language for name in trained for language in _default(graph.specs[name], graph.specs)))


def _default(spec: TaskSpec, specs: Mapping[str, TaskSpec]) -> tuple[str, ...]:
    return tuple(language for member in spec.members for language in specs[member].default_train_languages)
