"""What each row of the table was trained on before the target task, in words: tasks, languages, translations."""

from __future__ import annotations

from collections.abc import Mapping

from xtrain.errors import listed
from xtrain.graph import Graph
from xtrain.study_rows import Intermediate
from xtrain.tasks import TaskSpec


def trained_on(graph: Graph) -> dict[str, str]:
    """Row -> the data of its intermediate phases; the base row is not among them."""
    return {row.name: describe(row, graph.specs) for row in graph.study.intermediate if row.phases}


def describe(row: Intermediate, specs: Mapping[str, TaskSpec]) -> str:
    """``mnli + qqp, then xnli_translated (de, ru; machine-translated from en)``."""
    return ", then ".join(" + ".join(_task(row, specs[task], specs) for task in tasks) for tasks in row.phases)


def _task(row: Intermediate, spec: TaskSpec, specs: Mapping[str, TaskSpec]) -> str:
    members = [specs[name] for name in spec.members]
    languages = dict.fromkeys(
        language for member in members for language in (row.languages.get(spec.name) or member.default_train_languages)
    )
    sources = dict.fromkeys(member.translated_from for member in members if member.translated_from)
    facts = []
    if tuple(languages) != ("en",):
        facts.append(listed(languages))
    if sources:
        facts.append(f"machine-translated from {listed(sources)}")
    if spec.joined:
        facts.append(f"{' + '.join(spec.joined)} as one")
    return spec.name + (f" ({'; '.join(facts)})" if facts else "")
