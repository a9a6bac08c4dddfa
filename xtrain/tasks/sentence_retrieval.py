"""The format sentence retrieval: find a sentence's translation among those of all others; no training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from xtrain.errors import Problem, listed
from xtrain.tasks.encoding import Example, PairTokenizer, encode_rows
from xtrain.tasks.formats import Dropped, Encoded, Format, ProblemList, Row, text_of
from xtrain.tasks.spec import TaskSpec

QUERIES = ("english", "foreign", "mean")


class SentenceRetrieval(Format):
    """Columns ``source`` (foreign) and ``target`` (English); a row is one example of two sequences.

    The option ``prefix`` is put in front of every text (multilingual-e5 wants ``"query: "``); ``query`` is the
    side that asks for its translation on the other, "mean" (the default) for the mean of both ways. The note
    is ``{"line": n}``: the line of the English sentence in XTREME's own file, whose lines are sorted.
    """

    name = "sentence_retrieval"
    required: tuple[str, ...] = ("source", "target")
    options: tuple[str, ...] = ("prefix", "query")
    metrics: tuple[str, ...] = ("accuracy",)
    trained = False

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """The prefix is text, the query a known one; there are no labels and there is no training set."""
        problems = []
        prefix, query = spec.options.get("prefix", ""), spec.options.get("query", "mean")
        if not isinstance(prefix, str):
            problems.append(Problem(f"{where}.options.prefix", f"{prefix!r} is not allowed", "text in quotes"))
        if query not in QUERIES:
            problems.append(Problem(f"{where}.options.query", f"{query!r} is not allowed", listed(QUERIES)))
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

        every = list(rows)
        # tatoeba_preprocess of google-research/xtreme: by text, equal ones in the order of the file
        in_order = sorted(every, key=lambda row: str(row.values["target"]).strip())
        lines = {row.id: number for number, row in enumerate(in_order)}
        for item in encode_rows(every, read, tokenizer, max_length, problems):
            yield replace(item, note={"line": lines[item.id]}) if isinstance(item, Encoded) else item


FORMAT = SentenceRetrieval()
