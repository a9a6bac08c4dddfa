"""The format classification: one text or a pair of texts gets one of a fixed set of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from xtrain.errors import Problem, listed
from xtrain.tasks.encoding import Example, PairTokenizer, read_examples, tokenise_examples
from xtrain.tasks.formats import (
    IGNORED,
    UNLABELLED,
    Dropped,
    Encoded,
    FieldKind,
    Format,
    ProblemList,
    Row,
    label_word,
    text_of,
    wrong_label,
)
from xtrain.tasks.spec import TaskSpec


class Classification(Format):
    """Columns ``text_a``, ``text_b`` (optional), ``label``; the field ``label`` is a place in ``labels``."""

    name = "classification"
    required: tuple[str, ...] = ("text_a", "label")
    gold: tuple[str, ...] = ("label",)
    optional: tuple[str, ...] = ("text_b",)
    sampling = "drawn by a hash of their ids, of each label its share: the same in every language that has them"
    metrics: tuple[str, ...] = ("accuracy", "f1")
    fields: Mapping[str, FieldKind] = {"label": "example"}

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """At least two different labels, and label maps that lead to them."""
        problems = []
        if len(spec.labels) < 2 or len(set(spec.labels)) < len(spec.labels):
            problems.append(
                Problem(f"{where}.labels", f"{list(spec.labels)} is not allowed", "two different labels or more")
            )
        for n, source in enumerate(spec.sources):
            for word, label in source.label_map.items():
                if label not in spec.labels:
                    problems.append(
                        Problem(
                            f"{where}.sources[{n}].label_map.{word}",
                            f"{label!r} is not a label",
                            listed(spec.labels),
                        )
                    )
        return problems

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[Example | Dropped]:
        """An example a row; one without a label is marked as such."""
        numbers = {label: n for n, label in enumerate(spec.labels)}

        def read(row: Row) -> Example | Dropped:
            word = label_word(row.values["label"])
            if word not in numbers:
                if word in UNLABELLED:
                    return Example(_texts(row), {"label": [IGNORED]}, withheld=True)
                raise wrong_label(row, word, spec.labels)
            return Example(_texts(row), {"label": [numbers[word]]})

        return read_examples(rows, read, problems)

    def tokenise(
        self, read: Iterable[Example | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One sequence an example."""
        return tokenise_examples(read, tokenizer, max_length)


def _texts(row: Row) -> list[tuple[str, str | None]]:
    return [(text_of(row, "text_a"), text_of(row, "text_b") if "text_b" in row.values else None)]


FORMAT = Classification()
