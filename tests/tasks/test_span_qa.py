"""Span question answering: SQuAD's files, places of tokens in every script, windows, gold spans, bad data."""

from __future__ import annotations

import itertools
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import SLICE, on_real_data, real_model
from rows import write
from squad_files import document, question, source, task
from tiny import make_tiny_tokenizer, sentences, words

from xtrain.data import global_units, prepare
from xtrain.errors import UserError
from xtrain.evaluation.benchmark import answers as rules
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import Dropped, Encoded, ProblemList, Row
from xtrain.tasks.sources import read
from xtrain.tasks.span_qa import INSIDE, MLQA_LANGUAGES, NOT_HERE, TOO_LONG, most_context, windows

FORMAT = formats.get("span_qa")


def encoded(
    tokenizer: PairTokenizer,
    context: str,
    *given_answers: tuple[str, int],
    asked: str = "which one?",
    max_length: int = 64,
    impossible: bool | None = None,
    **options: Any,
) -> Encoded | Dropped:
    values = {
        "question": asked,
        "context": context,
        "answers": [text for text, _ in given_answers],
        "answer_starts": [start for _, start in given_answers],
        **({} if impossible is None else {"impossible": impossible}),
    }
    problems = ProblemList()
    mine = TaskSpec("t", "span_qa", ("en",), (), options=options)
    items = list(FORMAT.encode([Row("f.json: data[0]", "q", values)], tokenizer, mine, max_length, "en", problems))
    problems.raise_if_any()
    (item,) = items
    return item


def found_answers(item: Encoded) -> list[str]:
    """The answer that the fields of each window point at, where it holds one that begins there."""
    result, offset = [], 0
    for number, sequence in enumerate(item.sequences):
        start, end = item.fields["start"][number], item.fields["end"][number]
        begin, stop = item.fields["char_begin"][offset + start], item.fields["char_end"][offset + end]
        if start and begin != NOT_HERE:
            result.append(item.note["context"][begin:stop])
        offset += len(sequence)
    return result


# ---------------------------------------------------------------- shards


def test_a_shard_counts_windows_as_its_units(tmp_path: Path, folder: Path) -> None:
    text = " ".join(sentences(12))
    word = text.split()[40]
    long = document(question("a", (word, text.index(word))), context=text)
    long["data"] += document(question("b", ("two", 4)), question("c"))["data"]
    write(tmp_path / "train.json", json.dumps(long))
    shard = prepare(task(options={"doc_stride": 16}), "train", "en", folder, 48, tmp_path, tmp_path / "shards")
    windows_of_a = int(shard.example_offsets[1])
    assert windows_of_a > 2
    assert global_units(shard, [0, 1]) == windows_of_a + 1
    assert shard.manifest["split_examples"] == 1
    assert shard.manifest["dropped"] == {"unlabelled": 1}
    assert shard.ids([0, 1]) == ["a", "b"]
    assert shard.notes([1]) == [{"context": "one two three", "answers": ["two"]}]


# ---------------------------------------------------------------- places of tokens

ODD = [
    "ﬁne", "ＡＢＣ", "½", "①②", "e\u0301tude", "น้ำ", "ทำ", "ﷺ", "ﻻ", "한국어", "\u1112\u1161\u11ab", "👩\u200d👧",
    "x\u200by", "㍿", "㎢", "\u00a0", "\u3000", "\n", "\t", "中国人，民", "▁", "<mask>",
    "</s>", "①", "ͅ", "ǆ", "K", "人民。共和",
]  # fmt: skip
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(ODD),
        st.sampled_from(words("latin")[:40] + words("arabic")[:40] + words("han")[:40]),
        st.text(max_size=4),
        st.sampled_from([" ", "  "]),
    ),
    max_size=12,
).flatmap(lambda parts: st.sampled_from(["", " "]).map(lambda between: between.join(parts)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer that normalises as XLM-R's does, to NFKC."""
    folder = tmp_path_factory.mktemp("nfkc")
    make_tiny_tokenizer(folder)
    file = str(folder / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(file)
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.save(file)
    return folder


@pytest.fixture(scope="module")
def normalising(folder: Path) -> PairTokenizer:
    return PairTokenizer(folder)


def check_places(tokenizer: PairTokenizer, text: str, *, covers: bool) -> None:
    """The pieces of ``text`` stand where they are said to."""
    (located,) = tokenizer.located_pieces([text])
    assert [located.ids] == tokenizer.pieces([text])
    assert len(located.begin) == len(located.end) == len(located.ids)
    assert (np.diff(located.begin) >= 0).all()
    assert (np.diff(located.end) >= 0).all()
    part = ""
    for id_, begin, end in zip(located.ids, located.begin.tolist(), located.end.tolist(), strict=True):
        before = part
        assert 0 <= begin <= end <= len(text)
        part, piece = text[begin:end], tokenizer._backend.id_to_token(id_)
        assert part == part.strip()
        if piece == "▁":
            assert part in ("", before)  # a character that normalises to several words has one inside
        elif piece not in ("<unk>", "<mask>", "</s>") and covers:
            assert piece.removeprefix("▁") in unicodedata.normalize("NFKC", part)
    if covers:
        held = {place for b, e in zip(located.begin, located.end, strict=True) for place in range(b, e)}
        assert {n for n, character in enumerate(text) if not character.isspace() and character != "▁"} <= held


@settings(max_examples=150)
@given(text=TEXTS)
def test_places_are_those_of_the_text_before_normalisation(normalising: PairTokenizer, text: str) -> None:
    # NFKC makes blanks of a few characters that are none (accents of their own): those stand for nothing
    lost = any(" " in unicodedata.normalize("NFKC", character) and not character.isspace() for character in text)
    check_places(normalising, text, covers=not lost)


def test_places_by_hand(normalising: PairTokenizer) -> None:
    for text, expected in (
        ("a\u00a0ﬁb", ["a", "ﬁ", "b"]),
        ("cafe\u0301 b", ["c", "a", "f", "e\u0301", "b"]),
        ("  天地\n人 ", ["天", "地", "人"]),
        ("½a", ["½", "a"]),
    ):
        (located,) = normalising.located_pieces([text])
        parts = [text[b:e] for b, e in zip(located.begin, located.end, strict=True)]
        assert "".join(dict.fromkeys(part for part in parts if part)) == "".join(expected), text


def test_equal_texts_share_their_places(normalising: PairTokenizer) -> None:
    first, other, again = normalising.located_pieces(["天地", "人", "天地"])
    assert first is again
    assert other is not first


# ---------------------------------------------------------------- windows


@settings(max_examples=300)
@given(length=st.integers(0, 300), room=st.integers(1, 60), stride=st.integers(1, 80))
def test_windows_cover_everything_with_the_stride(length: int, room: int, stride: int) -> None:
    found = windows(length, room, stride)
    assert found[0][0] == 0
    assert found[-1][1] == length
    assert all(end - begin == room for begin, end in found[:-1])
    assert found[-1][1] - found[-1][0] <= room
    assert all(later[0] - earlier[0] == min(stride, room) for earlier, later in itertools.pairwise(found))
    assert {place for begin, end in found for place in range(begin, end)} == set(range(length))


@settings(max_examples=100)
@given(length=st.integers(1, 120), room=st.integers(1, 40), stride=st.integers(1, 40))
def test_the_window_with_the_most_context(length: int, room: int, stride: int) -> None:
    spans = windows(length, room, stride)

    def context_of(window: int, place: int) -> float:
        begin, end = spans[window]
        return min(place - begin, end - 1 - place) + 0.01 * (end - begin)

    expected = []
    for place in range(length):
        holding = [number for number, (begin, end) in enumerate(spans) if begin <= place < end]
        expected.append(max(holding, key=lambda number: (context_of(number, place), -number)))
    assert most_context(spans, length).tolist() == expected


@settings(max_examples=60)
@given(data=st.data(), max_length=st.integers(16, 60), stride=st.integers(4, 40))
def test_every_window_is_a_pair_and_holds_its_part(
    normalising: PairTokenizer, data: st.DataObject, max_length: int, stride: int
) -> None:
    parts = data.draw(st.lists(st.sampled_from(words("latin") + words("han")), min_size=2, max_size=60))
    between = data.draw(st.sampled_from(["", " "]))
    first = data.draw(st.integers(0, len(parts) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(parts) - 1)))
    context = between.join(parts)
    answer = between.join(parts[first : last + 1])
    start = len(between.join(parts[:first])) + (len(between) if first else 0)
    assert context[start : start + len(answer)] == answer
    item = encoded(normalising, context, (answer, start), max_length=max_length, doc_stride=stride)
    assert isinstance(item, Encoded)
    asked = normalising.pieces(["which one?"])[0][: (max_length - 4) // 2]
    head = [normalising.begin, *asked, normalising.end, normalising.end]
    (whole,) = normalising.pieces([context])
    begins: list[int] = []
    offset = 0
    for sequence, (begin, end) in zip(
        item.sequences, windows(len(whole), max_length - len(head) - 1, stride), strict=True
    ):
        assert sequence == [*head, *whole[begin:end], normalising.end]
        assert len(sequence) <= max_length
        chars = item.fields["char_begin"][offset : offset + len(sequence)]
        ends = item.fields["char_end"][offset : offset + len(sequence)]
        assert set(chars[: len(head)]) | {chars[-1]} | set(ends[: len(head)]) | {ends[-1]} == {NOT_HERE}
        begins += [place for place in range(begin, end) if chars[len(head) + place - begin] != NOT_HERE]
        assert min(ends[len(head) : -1]) >= 0
        offset += len(sequence)
    assert sorted(begins) == list(range(len(whole)))  # each token begins an answer in exactly one window
    assert item.split == (len(item.sequences) > 1)
    if item.remarks == (TOO_LONG,):
        assert set(item.fields["start"]) == set(item.fields["end"]) == {0}
    else:
        assert all(answer in text for text in found_answers(item))  # a token may be wider than the answer
        for start_, end_ in zip(item.fields["start"], item.fields["end"], strict=True):
            assert (start_ == 0) == (end_ == 0)
            assert start_ == 0 or len(head) <= start_ <= end_


# ---------------------------------------------------------------- gold answers


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("天地人山水火木金土日月年", "山水火"),
        ("nothing, but ﬁve½ things", "ﬁve½"),
        ("a  few\u00a0words", "few\u00a0words"),
    ],
)
def test_the_answer_is_cut_out_of_the_text_as_it_was_given(
    normalising: PairTokenizer, context: str, answer: str
) -> None:
    item = encoded(normalising, context, (answer, context.index(answer)))
    assert isinstance(item, Encoded)
    (found,) = found_answers(item)
    assert answer in found
    assert len(found) <= len(answer) + 4


def test_the_place_counts_where_an_answer_occurs_twice(normalising: PairTokenizer) -> None:
    context = "x two y two z"
    item = encoded(normalising, context, ("two", 8), ("y", 6))
    assert isinstance(item, Encoded)
    assert context[item.fields["char_begin"][item.fields["start"][0]] :].startswith("two z")
    assert item.note == {"context": context, "answers": ["two", "y"]}


def test_white_space_around_an_answer_is_not_part_of_it(normalising: PairTokenizer) -> None:
    for answer, start in ((" 7", 3), (" 7", 4), ("7 ", 4)):
        item = encoded(normalising, "abc 7 d", (answer, start))
        assert isinstance(item, Encoded)
        assert found_answers(item) == ["7"]
        assert item.note["answers"] == [answer]


def test_an_answer_that_is_not_where_it_is_said_to_be(normalising: PairTokenizer) -> None:
    with pytest.raises(UserError) as caught:
        encoded(normalising, "one two three", ("one", 0), ("three", 7))
    message = str(caught.value)
    assert "f.json: data[0]: answers[1]: answer not in context: 'three' is said to stand at 7, where ' thre'" in message
    assert "it stands at 8" in message
    with pytest.raises(UserError, match="correct the answer, or remove the question"):
        encoded(normalising, "one two three", ("four", 4))
    with pytest.raises(UserError, match="answer not in context"):
        encoded(normalising, "one two three", ("Two", 4))
    dropped = encoded(normalising, "one two three", ("Two", 4), misplaced_answers="drop")
    assert dropped == Dropped("q", "answer not in context")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"answers": "two"}, r"answers: 'two' is not a list"),
        ({"answer_starts": 4}, r"answer_starts: 4 is not a list"),
        ({"answers": ["two", "one"]}, r"there are 2 answers and 1 answer_starts"),
        ({"answers": [3]}, r"answers\[0\]: 3 is not text"),
        ({"answer_starts": ["fourth"]}, r"answers\[0\]: answer not in context: 'two' is said to stand at 'fourth'"),
        ({"answer_starts": [4.5]}, r"said to stand at 4\.5, where nothing stands"),
        ({"answer_starts": [True]}, r"said to stand at 'True', where nothing"),
        ({"impossible": True}, r"options\.no_answer = true"),
    ],
)
def test_rows_that_say_something_else(normalising: PairTokenizer, values: dict[str, Any], message: str) -> None:
    row = {"question": "q?", "context": "one two", "answers": ["two"], "answer_starts": [4], **values}
    problems = ProblemList()
    list(FORMAT.encode([Row("f:1", "q", row)], normalising, task(), 64, "en", problems))
    with pytest.raises(UserError, match=message) as caught:
        problems.raise_if_any()
    assert str(caught.value).startswith("f:1")


@pytest.mark.parametrize("start", [-1, -1.0, "-1", None, "", 3, 99, "four", True])
def test_an_answer_that_is_nowhere_is_dropped_and_counted(normalising: PairTokenizer, start: Any) -> None:
    dropped = encoded(normalising, "one two", ("two", start), misplaced_answers="drop")
    assert dropped == Dropped("q", "answer not in context")
    with pytest.raises(UserError, match=r'options\.misplaced_answers = "drop"'):
        encoded(normalising, "one two", ("two", start))
    for given_answer, flag in ((("two", start), True), (("", start), None), ((" ", start), True)):
        item = encoded(normalising, "one two", given_answer, impossible=flag, no_answer=True)
        assert isinstance(item, Encoded)
        assert (item.note["answers"], item.fields["start"], item.remarks) == ([], [0], ())


@pytest.mark.parametrize("start", [4, 4.0, "4", " 4 ", "4.0"])
def test_a_place_may_be_written_in_several_ways(normalising: PairTokenizer, start: Any) -> None:
    item = encoded(normalising, "one two", ("two", start))
    assert isinstance(item, Encoded)
    assert found_answers(item) == ["two"]


def test_questions_without_an_answer(normalising: PairTokenizer) -> None:
    for hidden in ((), (("", 0),)):  # the second is how XTREME hides the answers of its test sets
        item = encoded(normalising, "one two", *hidden)
        assert isinstance(item, Encoded)
        assert item.withheld
    for given_answers, flag in (((), None), ((), True), ((("two", 4),), True)):
        item = encoded(normalising, "one two", *given_answers, impossible=flag, no_answer=True)
        assert isinstance(item, Encoded)
        assert (item.fields["start"], item.fields["end"]) == ([0], [0])
        assert item.note["answers"] == []
        assert item.remarks == ()


def test_what_is_too_long_is_counted(normalising: PairTokenizer) -> None:
    asked = " ".join(words()[:30])
    item = encoded(normalising, "one two", ("two", 4), asked=asked, max_question=5)
    assert isinstance(item, Encoded)
    assert item.truncated
    assert item.sequences[0][:6] == [normalising.begin, *normalising.pieces([asked])[0][:5]]
    context = " ".join(words()[:60])
    item = encoded(normalising, context, (context, 0), max_length=40)
    assert isinstance(item, Encoded)
    assert item.split
    assert not item.truncated
    assert item.remarks == (TOO_LONG,)


# ---------------------------------------------------------------- entries of the catalogue


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"doc_stride": 0}, r"doc_stride: 0 is not allowed"),
        ({"num_best": True}, r"num_best: True is not allowed"),
        ({"no_answer": 1}, r"no_answer: 1 is not allowed"),
        ({"normalisation": "sqaud"}, r"normalisation: 'sqaud' is not allowed\n.*squad, mlqa"),
        ({"misplaced_answers": "skip"}, r"misplaced_answers: 'skip' is not allowed"),
        ({"stride": 3}, r"options\.stride: unknown key"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(options=options)


def test_mlqas_normalisation_has_its_languages() -> None:
    assert set(MLQA_LANGUAGES) == set(rules.MLQA_LANGUAGES)
    sources = [source(files={"train": "{lang}.json"})]
    with pytest.raises(UserError, match='"mlqa" is not defined for fr'):
        task(languages=["de", "fr"], options={"normalisation": "mlqa"}, sources=sources)
    task(languages=["de", "zh"], options={"normalisation": "mlqa"}, sources=sources)
    with pytest.raises(UserError, match="a task of the format span_qa has none"):
        task(labels=["a"])


def test_the_catalogues_tasks() -> None:
    specs = {name: one for name, one in catalog.load().items() if one.format == "span_qa"}
    assert {"squad", "squad_v2", "squad_translated", "xquad", "mlqa", "tydiqa_goldp", "tydiqa"} <= specs.keys()
    assert (len(specs["xquad"].languages), len(specs["xquad"].languages_in("xtreme"))) == (12, 11)
    assert (len(specs["mlqa"].languages), len(specs["tydiqa"].languages)) == (7, 9)
    assert specs["squad_translated"].translated_from == "en"
    assert specs["tydiqa_goldp"].default_train_languages == ("en",)
    assert [name for name, one in specs.items() if one.options.get("no_answer")] == ["squad_v2"]
    assert [name for name, one in specs.items() if one.options.get("normalisation")] == ["mlqa"]


# ---------------------------------------------------------------- real files

XQUAD = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
# task, split, language: the least exact match in percent that a model which points at the right tokens reaches
FLOORS = [
    ("squad", "dev", "en", 99), ("tydiqa_goldp", "dev", "ko", 85), ("tydiqa_goldp", "dev", "sw", 97),
    *(("xquad", "test", language, 97.5) for language in XQUAD),
    *(("mlqa", "dev", language, 93.5) for language in MLQA_LANGUAGES),
]  # fmt: skip


@pytest.fixture(scope="module")
def real() -> PairTokenizer:
    """XLM-R's own pieces."""
    return PairTokenizer(real_model())


@on_real_data
@pytest.mark.parametrize(("name", "split", "language", "floor"), FLOORS)
def test_real_answers_can_be_cut_out_at_tokens(
    real: PairTokenizer, name: str, split: str, language: str, floor: float
) -> None:
    one, problems = catalog.load()[name], ProblemList()
    rows = list(read(one, split, language, SLICE, problems))[:250]
    for row in rows[:15]:
        check_places(real, row.values["context"], covers=False)
    items = [item for item in FORMAT.encode(rows, real, one, 384, language, problems) if isinstance(item, Encoded)]
    problems.raise_if_any()
    assert len(items) == len(rows)
    assert not any({*item.remarks} - {INSIDE} for item in items)
    found = {item.id: next(iter(found_answers(item)), "") for item in items}
    gold = {item.id: item.note["answers"] for item in items}
    measured = rules.score_answers(found, gold, language, one.options.get("normalisation", "squad"))
    assert measured["exact_match"] >= floor, measured
