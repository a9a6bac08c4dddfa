"""Places in a text, whatever characters it holds: a span cut out again is the answer, in every format that points."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from charsmap import BLANK, COMPATIBLE, COMPOSED, REMOVED, make_charsmap_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import spec
from tiny import make_tiny_tokenizer, words

from xtrain.data import prepare
from xtrain.evaluation.evaluators.span_qa import candidates
from xtrain.starter.cache import cache_folder
from xtrain.tasks import TaskSpec, formats
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import IGNORED, Encoded, ProblemList, Row
from xtrain.tasks.readers import read_files
from xtrain.tasks.span_qa import INSIDE, NOT_HERE
from xtrain.tasks.spec import Source

TEXTS = int(os.environ.get("XTRAIN_TEXTS", "60"))  # of each test and tokenizer; 20,000 in all were read once
REPEATED = TEXTS == 60  # always the same ones, but where more are asked for
ODD = [
    *REMOVED, *BLANK, *COMPATIBLE, *COMPOSED, "\0", "\x80", "\x85", "\x8d", "\xad", "\u034f", "\u061c", "\u1160",
    "\u115f",
    "\u17b4", "\u180e", "\u202a", "\u202e", "\u2060", "\u2066", "\u206f", "\ufe0f", "\ufff9", "\ufffc", "\ufffe",
    "\U0001d173", "\U000e0001", "\U000e0061", "\U0010ffff", "\u0301", "\u0345", "\u0e33", "\u0e49", "\u094d", "\u093c",
    "\u1112\u1161\u11ab", "한국", "👩\u200d👧", "👍🏽", "🇩🇪", "😀", "𝒜", "𠮷", "क्\u200dष", "ß", "İ", "ı",
    "<s>", "</s>", "<mask>", "<unk>", "＜s＞", "\r\n", "中国人，民", "น้ำ", "▁", "½",
]  # fmt: skip
PARTS = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(words("latin")[:20] + words("arabic")[:20] + words("han")[:20]),
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from([" ", "  ", ". "]),
)
ANY = st.lists(PARTS, max_size=10).map("".join)
BESIDE = st.lists(st.sampled_from([*REMOVED, "\n", "\t", " "]), max_size=3).map("".join)
"""What may stand right beside a word and is no part of it."""


def _nfkc(folder: Path) -> Path:
    make_tiny_tokenizer(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.normalizer = tokenizers.normalizers.NFKC()
    backend.save(str(folder / "tokenizer.json"))
    return folder


def _plain(folder: Path) -> Path:
    make_tiny_tokenizer(folder)
    return folder


def _real(folder: Path) -> Path:
    made = cache_folder() / "starter" / "model"
    if not (made / "tokenizer.json").is_file():
        pytest.skip("the starter's tokenizer, which is XLM-R's, is not in the cache: xtrain fetches it for `make demo`")
    return made


MAKERS = {"plain": _plain, "nfkc": _nfkc, "charsmap": make_charsmap_tokenizer, "XLM-R's own": _real}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PairTokenizer:
    return PairTokenizer(MAKERS[request.param](tmp_path_factory.mktemp("tokenizer")))


def normalised(tokenizer: PairTokenizer, text: str) -> str:
    return tokenizer._backend.normalizer.normalize_str(text) if tokenizer._backend.normalizer else text


def is_nothing(tokenizer: PairTokenizer, character: str) -> bool:
    return not normalised(tokenizer, character).replace("▁", " ").strip()


def is_joined(character: str) -> bool:
    """Whether the normaliser may look at it together with the one before: it takes grapheme clusters (UAX 29) whole."""
    extends = (
        "\u200c" <= character <= "\u200d" or "🏻" <= character <= "🏿" or "\U000e0020" <= character <= "\U000e007f"
    )
    return extends or unicodedata.category(character)[0] == "M" or character in "\u0e33\u0eb3"


def encoded(tokenizer: PairTokenizer, context: str, answer: str, start: int, **options: object) -> Encoded:
    values = {"question": "which?", "context": context, "answers": [answer], "answer_starts": [start]}
    problems = ProblemList()
    task = TaskSpec("t", "span_qa", ("en",), (), options=options)
    (item,) = formats.get("span_qa").encode([Row("f", "q", values)], tokenizer, task, 512, "en", problems)
    problems.raise_if_any()
    assert isinstance(item, Encoded)
    return item


def cut_out(item: Encoded) -> list[str]:
    """The answers that the fields point at, cut out as the evaluation does it."""
    found, offset = [], 0
    for number, sequence in enumerate(item.sequences):
        start, end = item.fields["start"][number], item.fields["end"][number]
        begin, stop = item.fields["char_begin"][offset + start], item.fields["char_end"][offset + end]
        if start and begin != NOT_HERE:
            span = np.array([[begin, stop]])
            found += [one.text for one in candidates(item.note["context"], span, np.ones(1, dtype=np.float32), 1)]
        offset += len(sequence)
    return found


@settings(max_examples=TEXTS, derandomize=REPEATED)
@given(text=ANY)
def test_pieces_stand_where_they_are_said_to(tokenizer: PairTokenizer, text: str) -> None:
    (located,) = tokenizer.located_pieces([text])
    assert [located.ids] == tokenizer.pieces([text])
    assert len(located.begin) == len(located.end) == len(located.ids)
    assert (np.diff(located.begin) >= 0).all()
    assert (np.diff(located.end) >= 0).all()
    for id_, begin, end in zip(located.ids, located.begin.tolist(), located.end.tolist(), strict=True):
        assert 0 <= begin <= end <= len(text)
        piece = tokenizer._backend.id_to_token(id_).removeprefix("▁")
        if piece and not piece.startswith("<"):
            while 0 < begin < len(text) and is_joined(text[begin]):
                begin -= 1  # the normaliser may take a letter for it and its accents: places inside are not told apart
            own = text[begin:end]  # of a cluster that it does not know whole it takes the characters one by one
            one_by_one = "".join(normalised(tokenizer, character) for character in own)
            meant = {normalised(tokenizer, own), unicodedata.normalize("NFKC", own), one_by_one}
            assert any(piece in form for form in meant), (piece, own)
    held = {place for b, e in zip(located.begin, located.end, strict=True) for place in range(b, e)}
    clusters: list[list[int]] = []
    for n, one in enumerate(text):
        clusters[-1].append(n) if clusters and is_joined(one) else clusters.append([n])
    for cluster in clusters:
        meant = [n for n in cluster if not text[n].isspace() and not is_nothing(tokenizer, text[n])]
        assert not meant or held & {*cluster} or is_nothing(tokenizer, "".join(text[n] for n in cluster)), cluster


@settings(max_examples=TEXTS, derandomize=REPEATED)
@given(
    before=ANY, left=BESIDE, right=BESIDE, after=ANY, answer=st.lists(st.sampled_from(words()), min_size=1, max_size=3)
)
def test_an_answer_between_blanks_is_cut_out_again(
    tokenizer: PairTokenizer, before: str, left: str, right: str, after: str, answer: list[str]
) -> None:
    removing = tokenizer._backend.normalizer is not None and is_nothing(tokenizer, "\x10")
    left, right = (side if removing else "" for side in (left, right))  # elsewhere they are letters as others
    text = " ".join(answer)
    context = f"{before} {left}{text}{right} {after}"
    item = encoded(tokenizer, context, text, len(before) + 1 + len(left))
    assert cut_out(item) == [text]
    assert item.remarks == ()


@settings(max_examples=TEXTS, derandomize=REPEATED)
@given(context=ANY, places=st.tuples(st.integers(0, 40), st.integers(0, 40)))
def test_any_span_is_cut_out_again_or_counted(tokenizer: PairTokenizer, context: str, places: tuple[int, int]) -> None:
    begin, end = min(*places, len(context)), min(max(places), len(context))
    answer = context[begin:end]
    if not answer.strip():
        return
    item = encoded(tokenizer, context, answer, begin)
    assert cut_out(item) == [answer.strip()] or INSIDE in item.remarks
    if INSIDE in item.remarks:  # and never where tokens (that stand for something) begin and end with the answer
        (located,) = tokenizer.located_pieces([context])
        stands = located.begin < located.end
        bare = begin + len(answer) - len(answer.lstrip())
        assert bare not in located.begin[stands] or bare + len(answer.strip()) not in located.end[stands]


@settings(max_examples=TEXTS // 3, derandomize=REPEATED)
@given(sentence=st.lists(ANY, min_size=1, max_size=6))
def test_every_word_has_one_tag(tokenizer: PairTokenizer, sentence: list[str]) -> None:
    row = Row("f", "1", {"tokens": sentence, "tags": ["A"] * len(sentence)}, owed=True)
    task = TaskSpec("t", "tagging", ("en",), labels=("A", "B"))
    (item,) = formats.get("tagging").encode([row], tokenizer, task, 64, "en", ProblemList())
    assert isinstance(item, Encoded)
    labelled = [n for n, label in enumerate(item.fields["label"]) if label != IGNORED]
    ids = [id_ for sequence in item.sequences for id_ in sequence]
    own = [word or [tokenizer.unknown] for word in tokenizer.pieces(sentence)]
    assert [ids[place] for place in labelled] == [word[0] for word in own]


@settings(max_examples=TEXTS, derandomize=REPEATED)
@given(before=ANY, after=ANY, answer=st.sampled_from(words()))
def test_the_sentence_of_an_answer_holds_it(before: str, after: str, answer: str) -> None:
    context = f"{before} {answer} {after}"
    values = {"query": "which?", "context": context, "answer": answer, "answer_start": len(before) + 1}
    task = TaskSpec("t", "answer_retrieval", ("en",))
    (item,) = formats.get("answer_retrieval").read([Row("f", "1", values)], task, "en", ProblemList())
    assert answer in item.candidate


@settings(max_examples=TEXTS // 3, derandomize=REPEATED)
@given(before=ANY, word=ANY, after=ANY)
def test_a_mention_is_cut_out_of_its_text(
    tmp_path_factory: pytest.TempPathFactory, before: str, word: str, after: str
) -> None:
    if not word:
        return
    text, path = before + word + after, tmp_path_factory.getbasetemp() / "mentions.jsonl"
    span = {"start": len(before), "end": len(before) + len(word), "text": word}
    context = {"language": "en", "text": text, "sentence_spans": [{"start": 0, "end": len(text)}]}
    mention = {"example_id": "e", "entity_id": "Q1", "mention_span": span}
    path.write_text(json.dumps({"context": context, "mentions": [mention]}), encoding="utf-8")
    (record,) = read_files(Source(files={"dev": "x"}, reader="mewslix"), [path], ProblemList())
    assert f"{{ {' '.join(word.split())} }}".replace("  ", " ") in record.get("query")


@pytest.mark.parametrize(
    "lead", ["\x10", "\x1f\x1f", "\x7f", "\x8f\x9f", "\ufeff", "\u200b", "\x10 \x10", "<s>\x10", "ﬁ\x10"]
)
def test_places_after_what_the_normaliser_removes(tmp_path: Path, lead: str) -> None:
    tokenizer = PairTokenizer(make_charsmap_tokenizer(tmp_path))
    for context in (f"{lead}The green house", f"a {lead}\nThe green house {lead}", f"{lead} green house{lead}"):
        item = encoded(tokenizer, context, "green house", context.index("green"))
        assert cut_out(item) == ["green house"]


def test_what_cannot_be_cut_out_is_counted(tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path)
    word = next(word for word in words() if len(PairTokenizer(tmp_path).pieces([word])[0]) == 1 and len(word) > 3)
    rows = [
        {"id": str(n), "question": "which?", "context": f"it is {word}", "answers": [text], "starts": [start]}
        for n, (text, start) in enumerate([(word, 6), (word[:2], 6)])
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {
        "id": "id",
        "question": "question",
        "context": "context",
        "answers": "answers",
        "answer_starts": "starts",
    }
    source = {"files": {"train": "train.jsonl"}, "columns": columns}
    task = spec(format="span_qa", metric="f1", sources=[source])
    shard = prepare(task, "train", "en", tmp_path, 64, tmp_path, tmp_path / "shards")
    assert shard.manifest["remarks"] == {INSIDE: 1}
