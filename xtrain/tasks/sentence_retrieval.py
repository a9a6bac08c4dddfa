"""The format sentence retrieval: find a sentence's translation among those of all others; no training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xtrain.errors import Problem, listed
from xtrain.tasks.encoding import Example, PairTokenizer, read_examples, tokenise_examples
from xtrain.tasks.formats import Dropped, Encoded, Format, ProblemList, Row, whole_text
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
    sampling = "pairs drawn by a hash of their ids; each sentence is searched among these alone, which is easier"
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

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[Example | Dropped]:
        """An example a row, which knows the line of its English sentence."""
        prefix: str = spec.options.get("prefix", "")

        every = list(rows)
        # tatoeba_preprocess of google-research/xtreme: by text, equal ones in the order of the file
        in_order = sorted(every, key=lambda row: str(row.values["target"] or "").strip())
        lines = {row.id: number for number, row in enumerate(in_order)}

        def read(row: Row) -> Example:
            # an empty text is kept in every split: lines, and the candidates of all others, depend on it
            texts = [whole_text(row, row.values[side], side).strip() for side in ("source", "target")]
            pairs: list[tuple[str, str | None]] = [(text, None) for text in texts]
            return Example(pairs, {}, note={"line": lines[row.id]}, counted=1, prefix=prefix)

        yield from read_examples(every, read, problems)

    def tokenise(
        self, read: Iterable[Example | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """Two sequences an example: the source, then the target."""
        return tokenise_examples(read, tokenizer, max_length)


FORMAT = SentenceRetrieval()
