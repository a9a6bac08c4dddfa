"""The format sentence retrieval: find a sentence's translation among those of all others; no training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xtrain.errors import Problem
from xtrain.tasks.encoding import Example, PairTokenizer, encode_rows
from xtrain.tasks.formats import Dropped, Encoded, Format, ProblemList, Row, text_of
from xtrain.tasks.spec import TaskSpec


class SentenceRetrieval(Format):
    """Columns ``source`` (foreign) and ``target`` (English); a row is one example of two sequences.

    The option ``prefix`` is put in front of every text (multilingual-e5 wants ``"query: "``).
    """

    name = "sentence_retrieval"
    required: tuple[str, ...] = ("source", "target")
    options: tuple[str, ...] = ("prefix",)
    metrics: tuple[str, ...] = ("accuracy",)
    trained = False

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """The prefix is text; there are no labels and there is no training set."""
        problems = []
        prefix = spec.options.get("prefix", "")
        if not isinstance(prefix, str):
            problems.append(Problem(f"{where}.options.prefix", f"{prefix!r} is not allowed", "text in quotes"))
        if spec.labels:
            problems.append(
                Problem(f"{where}.labels", f"{list(spec.labels)}: a retrieval task has none", remedy="remove it")
            )
        return problems

    def encode(
        self,
        rows: Iterable[Row],
        tokenizer: PairTokenizer,
        spec: TaskSpec,
        max_length: int,
        language: str,
        problems: ProblemList,
    ) -> Iterator[Encoded | Dropped]:
        """Two sequences an example: the source, then the target."""
        prefix: str = spec.options.get("prefix", "")

        def read(row: Row) -> Example:
            texts = (text_of(row, "source"), text_of(row, "target"))
            return Example([(prefix + text, None) for text in texts], {})

        return encode_rows(rows, read, tokenizer, max_length, problems)


FORMAT = SentenceRetrieval()
