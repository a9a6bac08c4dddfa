"""What each format makes of a row, and what it says to a row that it cannot use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rows import source, spec

from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, formats
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import EMPTY, Dropped, Encoded, ProblemList, Row, TextCount, label_word


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PairTokenizer:
    return PairTokenizer(tiny_model)


def encode(
    task: TaskSpec, tokenizer: PairTokenizer, *values: Mapping[str, Any], max_length: int = 64
) -> list[Encoded | Dropped]:
    problems = ProblemList()
    rows = [Row(f"f:{n}", str(n), value) for n, value in enumerate(values, 1)]
    found = list(formats.get(task.format).encode(rows, tokenizer, task, max_length, "en", problems))
    problems.raise_if_any()
    return found


def error(task: TaskSpec, tokenizer: PairTokenizer, *values: Mapping[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        encode(task, tokenizer, *values)
    return str(caught.value)


def pair(tokenizer: PairTokenizer, first: str, second: str | None = None) -> list[int]:
    pieces = tokenizer.pieces([first, second or ""])
    return tokenizer.sequence(pieces[0], None if second is None else pieces[1], 512)[0]


def test_classification_of_pairs_and_of_single_texts(tokenizer: PairTokenizer) -> None:
    found = encode(
        spec(),
        tokenizer,
        {"text_a": " one ", "text_b": "two", "label": "b"},
        {"text_a": "three", "label": "a"},
    )
    assert found == [
        Encoded("1", [pair(tokenizer, "one", "two")], {"label": [1]}, text=TextCount(2, 6, 8), texts=("one", "two")),
        Encoded("2", [pair(tokenizer, "three")], {"label": [0]}, text=TextCount(1, 5, 5), texts=("three",)),
    ]


def test_rows_without_a_label_and_long_ones_are_marked(tokenizer: PairTokenizer) -> None:
    values = [{"text_a": "one", "label": label} for label in (None, -1, "-", "a")]
    found = encode(spec(), tokenizer, *values, {"text_a": "one " * 50, "label": "a"}, max_length=16)
    assert [item.withheld for item in found if isinstance(item, Encoded)] == [True, True, True, False, False]
    assert [item.truncated for item in found[3:] if isinstance(item, Encoded)] == [False, True]
    assert isinstance(found[4], Encoded)
    assert len(found[4].sequences[0]) == 16


def test_a_label_outside_the_set(tokenizer: PairTokenizer) -> None:
    task = spec(labels=["entailment", "neutral"])
    message = error(task, tokenizer, {"text_a": "x", "label": "entailmnt"})
    for part in (
        "f:1: label",
        "'entailmnt' is not a label",
        "entailment, neutral",
        "did you mean",
        "label_map",
    ):
        assert part in message
    assert "the case differs: write 'neutral'" in error(task, tokenizer, {"text_a": "x", "label": "Neutral"})


def test_what_is_no_text_is_an_error(tokenizer: PairTokenizer) -> None:
    message = error(spec(), tokenizer, {"text_a": 7, "label": "a"}, {"text_a": ["x"], "label": "a"})
    assert message.startswith("2 problems:")
    assert "f:1: text_a: 7 is not text" in message
    assert "f:2: text_a: ['x'] is not text" in message


CHOICES = {"context": "c", "question": "q", "choices": ["x", "y"], "label": 0}
SPAN = {"question": "q", "context": "a b", "answers": ["b"], "answer_starts": [2]}
TEXTS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "classification": ({"text_a": "x", "text_b": "y", "label": "a"}, [{"text_a": ""}, {"text_b": ""}]),
    "multiple_choice": (CHOICES, [{"context": ""}, {"question": ""}, {"choices": ["x", ""]}]),
    "tagging": ({"tokens": ["x", "y"], "tags": ["a", "b"]}, [{"tokens": ["x", ""]}]),
    "span_qa": (SPAN, [{"question": ""}, {"context": "", "answers": [], "answer_starts": []}]),
    "answer_retrieval": ({"query": "x", "candidate": "y"}, [{"query": ""}, {"candidate": ""}]),
}


@pytest.mark.parametrize("empty", ["", "  ", "\n", None])
@pytest.mark.parametrize("name", TEXTS)
def test_an_empty_text_is_dropped_where_no_prediction_is_owed(
    tokenizer: PairTokenizer, name: str, empty: str | None
) -> None:
    def put(value: Any) -> Any:
        return [put(item) for item in value] if isinstance(value, list) else empty if value == "" else value

    full, changes = TEXTS[name]
    task = TaskSpec("t", name, ("en",), labels=("a", "b"), options={"no_answer": True} if name == "span_qa" else {})
    for change in changes:
        values = {**full, **{column: put(value) for column, value in change.items()}}
        if empty == "\n" and name == "tagging":
            continue  # a word that the tokenizer makes nothing of
        for owed in (False, True):
            problems = ProblemList()
            rows = [Row("f:1", "1", full, owed), Row("f:2", "2", values, owed)]
            first, second = formats.get(name).encode(rows, tokenizer, task, 64, "en", problems)
            assert isinstance(first, Encoded)
            assert not first.remarks
            if owed:
                assert isinstance(second, Encoded), change
                assert len(second.sequences) == len(first.sequences)
                assert len(second.remarks) == 1
            else:
                assert isinstance(second, Dropped), change
                assert second.reason.startswith("empty ")
            assert not problems.found


def test_the_lines_of_a_retrieval_set_are_kept_in_every_split(tokenizer: PairTokenizer) -> None:
    columns = {"source": "s", "target": "t"}
    task = spec(format="sentence_retrieval", options={"prefix": "query: "}, sources=[source(columns=columns)])
    found = encode(task, tokenizer, {"source": "eins", "target": None}, {"source": " ", "target": "one"})
    assert [item.remarks for item in found if isinstance(item, Encoded)] == [(EMPTY,), (EMPTY,)]
    assert found[1].sequences[0] == [tokenizer.begin, tokenizer.end]  # type: ignore[union-attr]
    assert [item.note for item in found if isinstance(item, Encoded)] == [{"line": 0}, {"line": 1}]


def test_the_twentieth_problem_is_the_last(tokenizer: PairTokenizer) -> None:
    rows = [{"text_a": 7, "label": "a"}] * 100
    assert error(spec(), tokenizer, *rows).startswith("20 problems:")


def choice(**options: Any) -> TaskSpec:
    columns = {"context": "c", "question": "q", "choices": "x", "label": "l"}
    return spec(format="multiple_choice", options=options, sources=[source(columns=columns)])


def test_multiple_choice(tokenizer: PairTokenizer) -> None:
    row = {"context": "it rained", "question": "why", "choices": ["one", "two", "three"], "label": 2}
    [found] = encode(choice(), tokenizer, row)
    assert isinstance(found, Encoded)
    assert found.sequences == [pair(tokenizer, "it rained why", end) for end in ("one", "two", "three")]
    assert found.fields == {"label": [2]}


@pytest.mark.parametrize(("label", "place"), [(0, 0), ("1", 1), ("A", 0), ("C", 2), (2.0, 2)])
def test_labels_of_choices(tokenizer: PairTokenizer, label: Any, place: int) -> None:
    [found] = encode(choice(), tokenizer, {"context": "c", "choices": ["x", "y", "z"], "label": label})
    assert isinstance(found, Encoded)
    assert found.fields == {"label": [place]}


def test_labels_by_the_keys_of_the_row(tokenizer: PairTokenizer) -> None:
    row = {"context": "c", "choices": ["x", "y", "z"], "keys": ["1", "2", "3"], "label": "3"}
    [found] = encode(choice(), tokenizer, row)
    assert isinstance(found, Encoded)
    assert found.fields == {"label": [2]}
    assert "1, 2, 3" in error(choice(), tokenizer, {**row, "label": "0"})
    assert "a list of 3" in error(choice(), tokenizer, {**row, "keys": ["1"]})


def test_questions_for_words(tokenizer: PairTokenizer) -> None:
    task = choice(questions={"cause": "What was the cause?"}, num_choices=2)
    row = {"context": "it broke", "question": "cause", "choices": ["x", "y"], "label": 0}
    [found] = encode(task, tokenizer, row)
    assert isinstance(found, Encoded)
    assert found.sequences[1] == pair(tokenizer, "it broke What was the cause?", "y")
    assert "did you mean 'cause'" in error(task, tokenizer, {**row, "question": "causes"})


def test_wrong_choices(tokenizer: PairTokenizer) -> None:
    row = {"context": "c", "choices": ["x", "y", "z"], "label": 0}
    assert "there are 3" in error(choice(num_choices=4), tokenizer, row)
    assert "there are 1" in error(choice(), tokenizer, {**row, "choices": ["x"]})
    assert "is not a list" in error(choice(), tokenizer, {**row, "choices": "x"})
    assert "choices[1]: 5 is not text" in error(choice(), tokenizer, {**row, "choices": ["x", 5]})
    assert "'3' is not a label" in error(choice(), tokenizer, {**row, "label": 3})
    [hidden] = encode(choice(), tokenizer, {**row, "label": ""})
    assert isinstance(hidden, Encoded)
    assert (hidden.withheld, hidden.fields, len(hidden.sequences)) == (True, {"label": [-100]}, 3)


def test_sentence_retrieval(tokenizer: PairTokenizer) -> None:
    columns = {"source": "s", "target": "t"}
    task = spec(format="sentence_retrieval", options={"prefix": "query: "}, sources=[source(columns=columns)])
    found = encode(task, tokenizer, {"source": "eins", "target": "one"})
    sequences = [pair(tokenizer, "query: eins"), pair(tokenizer, "query: one")]
    wanted = Encoded("1", sequences, {}, note={"line": 0}, text=TextCount(2, 11, 11, 2), texts=("eins",))
    assert found == [wanted], "the prefix is no word of the language"


@pytest.mark.parametrize(
    ("value", "word"),
    [(True, "true"), (False, "false"), (3, "3"), (3.0, "3"), (" a ", "a"), (None, ""), (0.5, "0.5")],
)
def test_labels_as_words(value: Any, word: str) -> None:
    assert label_word(value) == word
