"""The format multiple choice: of several continuations or answers, one is right."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from xtrain.errors import Problem, UserError, listed, nearest
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
    told_text,
    wrong_label,
)
from xtrain.tasks.spec import TaskSpec


class MultipleChoice(Format):
    """Columns ``context``, ``question`` (optional), ``choices``, ``keys`` (optional) and ``label``.

    ``choices`` is a column that holds a list, or a list of columns. ``label`` is a number from 0, a letter
    from A, or one of the row's ``keys``. Each choice is one sequence, the pair (context and question,
    choice). Options: ``num_choices`` (rows with another number are an error) and ``questions`` (what to
    write for the words in the column ``question``).
    """

    name = "multiple_choice"
    required: tuple[str, ...] = ("context", "choices", "label")
    gold: tuple[str, ...] = ("label",)
    optional: tuple[str, ...] = ("question", "keys")
    options: tuple[str, ...] = ("num_choices", "questions")
    sampling = "drawn by a hash of their ids, of each label its share: the same in every language that has them"
    metrics: tuple[str, ...] = ("accuracy",)
    fields: Mapping[str, FieldKind] = {"label": "example"}

    def check(self, spec: TaskSpec, where: str) -> list[Problem]:
        """Options of the right kind; no ``labels``, since a label is the number of a choice."""
        problems = []
        number = spec.options.get("num_choices")
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 2):
            problems.append(
                Problem(f"{where}.options.num_choices", f"{number!r} is not allowed", "a whole number >= 2")
            )
        questions = spec.options.get("questions", {})
        if not isinstance(questions, Mapping) or not all(isinstance(text, str) for text in questions.values()):
            problems.append(
                Problem(
                    f"{where}.options.questions",
                    f"{questions!r} is not allowed",
                    'a table of words and questions, for example { cause = "What was the cause?" }',
                )
            )
        if spec.labels:
            problems.append(
                Problem(
                    f"{where}.labels",
                    f"{list(spec.labels)}: a multiple-choice task has none",
                    remedy="remove it; use options.num_choices to say how many choices there are",
                )
            )
        return problems

    def read(
        self, rows: Iterable[Row], spec: TaskSpec, language: str, problems: ProblemList
    ) -> Iterator[Example | Dropped]:
        """An example a row; one without a label is marked as such."""
        questions: Mapping[str, str] = spec.options.get("questions", {})
        expected: int | None = spec.options.get("num_choices")

        def read(row: Row) -> Example | Dropped:
            choices = _choices(row, expected)
            word = label_word(row.values["label"])
            keys = _keys(row, len(choices))
            withheld = word in UNLABELLED and word not in keys
            parts = [text_of(row, "context"), *([_question(row, questions)] if "question" in row.values else [])]
            context = " ".join(filter(None, parts))
            label = IGNORED if withheld else _place(row, word, keys)
            return Example([(context, choice) for choice in choices], {"label": [label]}, withheld, empty="" in parts)

        return read_examples(rows, read, problems)

    def tokenise(
        self, read: Iterable[Example | Dropped], tokenizer: PairTokenizer, spec: TaskSpec, max_length: int
    ) -> Iterator[Encoded | Dropped]:
        """One sequence a choice."""
        return tokenise_examples(read, tokenizer, max_length)


FORMAT = MultipleChoice()


def _choices(row: Row, expected: int | None) -> list[str]:
    value: Any = row.values["choices"]
    if not isinstance(value, (list, tuple)):
        raise UserError(
            Problem(
                f"{row.where}: choices",
                f"{value!r} is not a list",
                allowed="a list of texts",
                remedy='if each choice has a column of its own, write choices = ["answerA", "answerB"]',
            )
        )
    if len(value) < 2 or (expected is not None and len(value) != expected):
        raise UserError(
            Problem(
                f"{row.where}: choices",
                f"there are {len(value)}",
                allowed=f"{expected} (options.num_choices)" if expected else "2 or more",
                remedy="mend the row" + (", or remove options.num_choices if the number varies" if expected else ""),
            )
        )
    return [told_text(row, choice, f"choices[{n}]") for n, choice in enumerate(value)]


def _keys(row: Row, count: int) -> list[str]:
    """What the row itself calls its choices, or numbers if it has no column ``keys``."""
    if "keys" not in row.values:
        return [str(n) for n in range(count)]
    value = row.values["keys"]
    if not isinstance(value, (list, tuple)) or len(value) != count:
        raise UserError(
            Problem(f"{row.where}: keys", f"{value!r} is not allowed", f"a list of {count}, one for each choice")
        )
    return [label_word(key) for key in value]


def _place(row: Row, word: str, keys: list[str]) -> int:
    if word in keys:
        return keys.index(word)
    letters = string.ascii_uppercase[: len(keys)]
    if "keys" not in row.values and len(word) == 1 and word in letters:
        return letters.index(word)
    raise wrong_label(row, word, keys if "keys" in row.values else [*keys, *letters])


def _question(row: Row, questions: Mapping[str, str]) -> str:
    word = text_of(row, "question")
    if not questions or not word:
        return word
    if word not in questions:
        remedy = nearest(word, questions)
        raise UserError(Problem(f"{row.where}: question", f"{word!r} is not known", listed(questions), remedy))
    return questions[word]
