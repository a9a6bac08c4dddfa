"""Tagging: files of tagged sentences, what becomes of long ones, and what is said of broken ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import SLICE, on_real_data
from rows import rows_of, source, spec, write, write_jsonl
from tiny import make_tiny_model, words

from xtrain.data import prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import EMPTY, IGNORED, Dropped, Encoded, ProblemList, Row
from xtrain.tasks.labels import with_labels
from xtrain.tasks.readers.conll import BLANKS
from xtrain.tasks.sources import fingerprint
from xtrain.tasks.tagging import EMPTY_WORD, LOOSE, STAND_IN

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BLANK = "\u3000"  # white space, of which the tokenizer makes nothing


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PairTokenizer:
    return PairTokenizer(tiny_model)


def task(**entry: Any) -> TaskSpec:
    """Tagging of ``train.tsv`` by the reader conll, unless told otherwise."""
    where = source(files={"train": "train.tsv"}, reader="conll", columns={"tokens": 0, "tags": 1})
    usual = {"format": "tagging", "metric": "f1", "labels": list(LABELS), "sources": [where]}
    return spec(**{**usual, **entry})


def bio(**options: Any) -> TaskSpec:
    return task(options={"scheme": "BIO", **options})


def encode(
    of: TaskSpec, tokenizer: PairTokenizer, *values: Mapping[str, Any], max_length: int = 64
) -> list[Encoded | Dropped]:
    problems = ProblemList()
    rows = [Row(f"f:{n}", str(n), value) for n, value in enumerate(values, 1)]
    found = list(formats.get("tagging").encode(rows, tokenizer, of, max_length, "en", problems))
    problems.raise_if_any()
    return found


def one(of: TaskSpec, tokenizer: PairTokenizer, sentence: Sequence[str], tags: Sequence[Any], length: int) -> Encoded:
    [found] = encode(of, tokenizer, {"tokens": sentence, "tags": tags}, max_length=length)
    assert isinstance(found, Encoded)
    return found


def read_and_encode(of: TaskSpec, root: Path, tokenizer: PairTokenizer) -> list[Encoded | Dropped]:
    return encode(of, tokenizer, *(row.values for row in rows_of(of, root)))


def message_of(of: TaskSpec, root: Path, tiny_model: Path) -> str:
    """What a user is told about the file."""
    with pytest.raises(UserError) as caught:
        prepare(of, "train", "en", tiny_model, 32, root, root / "shards")
    return str(caught.value)


def test_a_sentence(tokenizer: PairTokenizer) -> None:
    sentence = ["anna", "lives", "in", "bonn"]
    found = one(bio(), tokenizer, sentence, ["B-PER", "O", "O", "B-LOC"], 64)
    pieces = tokenizer.pieces(sentence)
    assert found.sequences == [[tokenizer.begin, *chain(*pieces), tokenizer.end]]
    labels = [[number] + [IGNORED] * (len(p) - 1) for number, p in zip((1, 0, 0, 3), pieces, strict=True)]
    assert found.fields == {"label": [IGNORED, *chain(*labels), IGNORED]}
    assert (found.truncated, found.split, found.remarks) == (False, False, ())


@pytest.fixture(scope="module")
def plain() -> TaskSpec:
    """Made once: it reads the whole catalogue."""
    return task()


@settings(max_examples=100)
@given(data=st.data(), length=st.integers(8, 40))
def test_every_word_has_one_tag_at_any_maximum_length(
    tokenizer: PairTokenizer, plain: TaskSpec, data: st.DataObject, length: int
) -> None:
    known = st.sampled_from([*words("latin", 40), *words("han", 40), "x" * 50, BLANK])
    sentence = data.draw(st.lists(known, min_size=1, max_size=40))
    tags = data.draw(st.lists(st.sampled_from(LABELS), min_size=len(sentence), max_size=len(sentence)))
    found = one(plain, tokenizer, sentence, tags, length)
    label = iter(found.fields["label"])
    tagged: list[tuple[int, int]] = []  # piece and label of each labelled token
    inner: list[int] = []
    for sequence in found.sequences:
        assert 3 <= len(sequence) <= length
        assert (sequence[0], sequence[-1]) == (tokenizer.begin, tokenizer.end)
        numbers = [next(label) for _ in sequence]
        assert numbers[0] == numbers[-1] == IGNORED
        assert numbers[1] != IGNORED, "a sequence begins with a word"
        inner += sequence[1:-1]
        tagged += [(piece, n) for piece, n in zip(sequence, numbers, strict=True) if n != IGNORED]
    assert next(label, None) is None
    pieces = [p or [tokenizer.unknown] for p in tokenizer.pieces(sentence)]
    assert tagged == [(p[0], LABELS.index(tag)) for p, tag in zip(pieces, tags, strict=True)]
    assert inner == [*chain(*(p[: length - 2] for p in pieces))]
    assert found.truncated == any(len(p) > length - 2 for p in pieces)
    assert found.split == (len(found.sequences) > 1)
    assert found.split == (sum(min(len(p), length - 2) for p in pieces) > length - 2)
    assert found.remarks == ((STAND_IN,) if BLANK in sentence else ())


def test_files_of_every_make_are_read_alike(tmp_path: Path, tokenizer: PairTokenizer) -> None:
    plain = "anna\tB-PER\nlives\tO\n\nbonn\tB-LOC\n"
    made = [
        plain,
        plain.replace("\n", "\r\n"),
        "\ufeff" + plain,
        "\n\n" + plain.replace("\n\n", "\n\n\n") + "\n",
        plain.rstrip("\n"),
        "-DOCSTART-\tO\n\n" + plain,
        "-DOCSTART- -X- O\n" + plain,
        plain.replace("\n\n", " \n \n"),
        plain.replace("\tO", "\t O "),
    ]
    found, names = [], bio()
    for n, text in enumerate(made):
        write(tmp_path / str(n) / "train.tsv", text)
        found.append(read_and_encode(names, tmp_path / str(n), tokenizer))
    assert len(found[0]) == 2
    assert all(other == found[0] for other in found)


def test_wikiann_and_universal_dependencies(tmp_path: Path) -> None:
    write(tmp_path / "raw", "en:anna\tB-PER\nen:9:30\tO\n")
    raw = task(sources=[source(files={"train": "raw"}, reader="wikiann", columns={"tokens": 0, "tags": 1})])
    assert [row.values["tokens"] for row in rows_of(raw, tmp_path)] == [["anna", "9:30"]]
    tail = "\t_" * 6
    lines = ["# text = vamonos #", f"1-2\tvamonos\t_\t_{tail}", f"1\tvamos\tir\tVERB{tail}", f"2\tnos\tyo\tPRON{tail}",
             f"2.1\tx\tx\tX{tail}", f"3\t#\t#\tSYM{tail}", ""]  # fmt: skip
    write(tmp_path / "t.conllu", "\n".join(lines))
    trees = task(
        labels=["VERB", "PRON", "SYM"],
        sources=[source(files={"train": "t.conllu"}, reader="conllu", columns={"tokens": "form", "tags": "upos"})],
    )
    [row] = rows_of(trees, tmp_path)
    assert row.values == {"tokens": ["vamos", "nos", "#"], "tags": ["VERB", "PRON", "SYM"]}
    mistaken = source(files={"train": "t.conllu"}, reader="conllu", columns={"tokens": "form", "tags": "tag"})
    with pytest.raises(UserError, match="no column 'tag'"):
        rows_of(task(sources=[mistaken]), tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("anna\tB-PER\nlives O\n", ["train.tsv:2", "there is no tab in 'lives O'"]),
        ("anna B-PER\nlives O\nin\n", ["train.tsv:3", "there is no blank in 'in'"]),
        ("anna\nlives O\nin\nmany new york\n" * 9, ["train.tsv: its lines have 1 to 3 columns", 'separator = " "']),
        ("anna,B-PER\nlives,O\n" * 9, ["train.tsv:1: its columns stand between ','", 'separator = ","']),
        ("anna\nlives\n", ["train.tsv:1", "there is no column 1 for tags"]),
        ("anna\tB-PER\nlives\t\n", ["train.tsv:2", "nothing behind the tab after 'lives'"]),
        ("anna\tB-PER\nin\tO\tx\n", ["train.tsv:2", "has 3 columns, and most lines have 2"]),
        ("in\tO\n\nanna\tb-per\n", ["train.tsv:3", "'b-per' is not a label", "the case differs: write 'B-PER'"]),
        ("in\tO\nanna\tB-PRE\n", ["train.tsv:2", "'B-PRE' is not a label", "did you mean 'B-PER'", "label_map"]),
        ("in\tO\nanna\tI-PER\n", ["train.tsv:2", "'I-PER' follows 'O'", "B-PER or I-PER before", "loose_bio"]),
        ("anna\tI-PER\n", ["train.tsv:1", "'I-PER' begins a sentence"]),
        ("a\tB-PER\nb\tI-PER\nbonn\tI-LOC\n", ["train.tsv:3", "'I-LOC' follows 'I-PER'"]),
        ("a\tX\nb\tY\n\nc\tI-LOC\n", ["3 problems", "train.tsv:1", "train.tsv:2", "train.tsv:4"]),
        ("\n\n", ["train.tsv", "has no rows"]),
    ],
)  # fmt: skip
def test_broken_files(tmp_path: Path, tiny_model: Path, text: str, said: list[str]) -> None:
    write(tmp_path / "train.tsv", text)
    message = message_of(bio(), tmp_path, tiny_model)
    for part in said:
        assert part in message, message


CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

# NNP I-NP O
Peter NNP B-NP B-PER
"""


def test_columns_between_blanks(tmp_path: Path, tiny_model: Path) -> None:
    """CoNLL-2003 and MasakhaNER: found out, remarked once a file, and said in the source if one likes."""
    write(tmp_path / "train.txt", CONLL_2003)
    columns = {"tokens": 0, "tags": 3}
    files = {"train": "train.txt"}
    for said in ({}, {"separator": " "}):
        entry = source(files=files, reader="conll", columns=columns, **said)
        mine = task(labels=["O", "B-PER", "B-ORG"], sources=[entry])
        rows = rows_of(mine, tmp_path)
        assert [row.values["tokens"] for row in rows] == [["EU", "rejects"], ["#", "Peter"]]
        assert [row.values["tags"] for row in rows] == [["B-ORG", "O"], ["O", "B-PER"]]
        assert rows[1].where.endswith("train.txt:6")
        shard = prepare(mine, "train", "en", tiny_model, 32, tmp_path, tmp_path / "shards")
        assert shard.manifest["remarks"] == ({} if said else {BLANKS: 1})
    write(tmp_path / "train.txt", "anna  B-PER\r\nvon\u00a0x \t O\r\n\r\nlives O\r\n")
    mine = task(sources=[source(files=files, reader="conll", columns={"tokens": 0, "tags": 1})])
    assert [row.values["tokens"] for row in rows_of(mine, tmp_path)] == [["anna", "von\u00a0x"], ["lives"]]
    commas = source(files=files, reader="conll", columns={"tokens": 0, "tags": 1}, separator=",")
    write(tmp_path / "train.txt", "anna,B-PER\nlives here,O\n")
    assert [row.values["tokens"] for row in rows_of(task(sources=[commas]), tmp_path)] == [["anna", "lives here"]]


def test_comments_above_sentences(tmp_path: Path) -> None:
    entry = source(files={"train": "x"}, reader="conll", columns={"tokens": 0, "tags": 3})
    write(tmp_path / "x", "# id 7 domain=en\nanna _ _ B-PER\nlives _ _ O\n\n# id 8 domain=en\nbonn _ _ B-LOC\n")
    assert [row.values["tokens"] for row in rows_of(task(sources=[entry]), tmp_path)] == [["anna", "lives"], ["bonn"]]
    entry = source(files={"train": "x"}, reader="conll", columns={"tokens": 0, "tags": 1})
    write(tmp_path / "x", "# text = anna lives\nanna\tB-PER\n#\tO\n#here\tO\n")
    assert [row.values["tokens"] for row in rows_of(task(sources=[entry]), tmp_path)] == [["anna", "#", "#here"]]


def test_an_empty_word_is_no_mistake_of_the_line(tmp_path: Path, tiny_model: Path) -> None:
    files = dict.fromkeys(("train", "dev", "test"), "x.tsv")
    write(tmp_path / "x.tsv", "anna\tB-PER\n\tO\n\nbonn\tB-LOC\n")
    mine = task(sources=[source(files=files, reader="conll", columns={"tokens": 0, "tags": 1})])
    found = [prepare(mine, split, "en", tiny_model, 32, tmp_path, tmp_path / "shards").manifest for split in files]
    assert [one["dropped"] for one in found] == [{EMPTY_WORD: 1}, {EMPTY_WORD: 1}, {}]
    assert [one["remarks"] for one in found] == [{}, {}, {STAND_IN: 1}]


def test_rows_by_a_column_that_has_a_place(tmp_path: Path) -> None:
    write(tmp_path / "x.tsv", "anna\tB-PER\tde\nlives\tO\tde\n\nbonn\tB-LOC\ten\n")
    columns = {"tokens": 0, "tags": 1}

    def words_where(**where: str) -> list[list[str]]:
        entry = source(files={"train": "x.tsv"}, reader="conll", columns=columns, where=where)
        return [row.values["tokens"] for row in rows_of(task(sources=[entry]), tmp_path)]

    assert words_where(**{"2": "de"}) == [["anna", "lives"]]
    assert words_where(**{"2": "{lang}"}) == [["bonn"]]
    assert words_where(**{"0": "anna"}) == [["anna", "lives"]], "a sentence that has the word"
    assert words_where(**{"1": "B-*"}) == [["anna", "lives"], ["bonn"]]
    with pytest.raises(UserError, match=r"no column '3'[^$]*the columns there are: 0, 1, 2"):
        words_where(**{"3": "x"})


def test_tags_that_break_the_scheme_are_counted_where_the_data_have_them(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path / "train.tsv", "in\tO\nanna\tI-PER\n\nbonn\tB-LOC\n")
    for loose in (["en"], ["*"]):
        shard = prepare(bio(loose_bio=loose), "train", "en", tiny_model, 32, tmp_path, tmp_path / "shards")
        assert shard.manifest["remarks"] == {LOOSE: 1}
    assert "'I-PER' follows 'O'" in message_of(bio(loose_bio=["zh"]), tmp_path, tiny_model)
    assert prepare(task(), "train", "en", tiny_model, 32, tmp_path, tmp_path / "s").manifest["remarks"] == {}


def test_lists_with_numbers_for_tags(tmp_path: Path, tokenizer: PairTokenizer) -> None:
    rows = [{"words": ["anna", "lives"], "numbers": [1, 0]}, {"words": ["bonn"], "numbers": [3]}]
    write_jsonl(tmp_path / "train.jsonl", rows)
    columns = {"tokens": "words", "tags": "numbers"}
    numbers = {str(n): label for n, label in enumerate(LABELS)}
    mapped = task(sources=[source(columns=columns, label_map=numbers)])
    assert [row.values["tags"] for row in rows_of(mapped, tmp_path)] == [["B-PER", "O"], ["B-LOC"]]
    assert len(read_and_encode(mapped, tmp_path, tokenizer)) == 2
    with pytest.raises(UserError, match="'1' is not a label"):
        read_and_encode(task(sources=[source(columns=columns)]), tmp_path, tokenizer)
    assert fingerprint(mapped, "train", "en", tmp_path) != fingerprint(task(sources=[source(columns=columns)]),
                                                                       "train", "en", tmp_path)  # fmt: skip


def test_a_data_set_laid_out_like_the_hubs(tmp_path: Path, tokenizer: PairTokenizer) -> None:
    table = pa.table(
        {"tokens": [["anna", "lives"], ["bonn"]], "ner_tags": [[1, 0], [5]], "langs": [["en"] * 2, ["en"]]}
    )
    (tmp_path / "en").mkdir()
    pq.write_table(table, tmp_path / "en/train-00000-of-00001.parquet")
    panx = catalog.load()["panx"]
    local = replace(panx, sources=tuple(replace(s, hub=str(tmp_path)) for s in panx.sources[1:2]))
    rows = rows_of(local, None)
    assert [row.values["tags"] for row in rows] == [["B-PER", "O"], ["B-LOC"]]
    found = encode(local, tokenizer, *(row.values for row in rows))
    assert [[n for n in item.fields["label"] if n != IGNORED] for item in found] == [[1, 0], [5]]  # type: ignore[union-attr]


def test_broken_lists(tokenizer: PairTokenizer) -> None:
    good = {"tokens": ["a", "b"], "tags": ["O", "O"]}
    with pytest.raises(UserError) as caught:
        encode(
            bio(),
            tokenizer,
            {**good, "tags": ["O"]},
            {**good, "tags": "O O"},
            {**good, "tokens": "a b"},
            {**good, "tokens": ["a", 3]},
            {**good, "tags": ["O", "I-PER"]},
        )
    message = str(caught.value)
    for part in ("f:1: tags: there are 1", "2: one for each", "f:2: tags: 'O O' is not a list", "f:3: tokens",
                 "f:4: tokens", "f:5, word 2: tags: 'I-PER' follows"):  # fmt: skip
        assert part in message, message


def test_rows_without_tags_or_words(tokenizer: PairTokenizer) -> None:
    rows = [{"tokens": ["a", "b"], "tags": tags} for tags in (None, [-1, -1], ["O", "O"])]
    found = encode(task(), tokenizer, *rows, {"tokens": [], "tags": []})
    for item in found[:2]:
        assert isinstance(item, Encoded)
        assert item.withheld
        assert item.fields["label"].count(-101) == 2, "a place for the tag of every word"
    assert isinstance(found[2], Encoded)
    assert not found[2].withheld
    assert found[3] == Dropped("4", EMPTY)


@pytest.mark.parametrize("word", ["-", "-1", ""])
def test_a_tag_that_is_a_label_is_no_missing_one(tokenizer: PairTokenizer, word: str) -> None:
    rows = [{"tokens": ["a", "b"], "tags": [word, word]}, {"tokens": ["a"], "tags": ["B"]}]
    for labels, withheld in (([word, "B", "I"], False), (["B", "I"], True)):
        first, second = encode(task(labels=labels), tokenizer, *rows)
        assert isinstance(first, Encoded)
        assert isinstance(second, Encoded)
        assert (first.withheld, second.withheld) == (withheld, False)
        if not withheld:
            assert [n for n in first.fields["label"] if n != IGNORED] == [0, 0]
    assert encode(task(labels=["B", "I"], options={"skip_tags": [word]}), tokenizer, rows[0]) == [
        Dropped("1", "without words")
    ]


def test_labels_that_are_taken_from_the_data(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "a\tB\nb\t-\n\nc\t-\n\n")
    write(tmp_path / "dev.tsv", "c\t-1\nd\t-1\n\n")
    source = {"files": {"train": "train.tsv", "dev": "dev.tsv"}, "reader": "conll", "columns": {"tokens": 0, "tags": 1}}
    mine = spec(format="tagging", labels=["*"], metric="f1", sources=[source])
    assert with_labels({"t": mine}, ["t"], tmp_path)["t"].labels == ("-", "B")


def test_words_with_some_tags_are_left_out(tokenizer: PairTokenizer) -> None:
    skipping = task(labels=["ADP", "DET"], options={"skip_tags": ["_"]})
    found = one(skipping, tokenizer, ["du", "de", "le"], ["_", "ADP", "DET"], 64)
    assert found == one(skipping, tokenizer, ["de", "le"], ["ADP", "DET"], 64)
    [nothing] = encode(skipping, tokenizer, {"tokens": ["du"], "tags": ["_"]})
    assert nothing == Dropped("1", "without words")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"labels": ["O"]}, "two different labels"),
        ({"labels": ["*", "O"]}, "two different labels"),
        ({"labels": ["*"], "train_on": "panx"}, "needs a training set of the task's own"),
        ({"labels": ["O", "I-PER"], "options": {"scheme": "BIO"}}, "'I-PER' is no tag of BIO"),
        ({"options": {"scheme": "BILOU"}}, "'BILOU' is not allowed"),
        ({"options": {"loose_bio": "zh"}}, "options.loose_bio"),
        ({"metric": "f2"}, "f1, accuracy"),
    ],
)
def test_mistakes_in_an_entry(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        task(**entry)
    assert said in str(caught.value)


CCG = "Anna|NNP|N sleeps|VBZ|S[dcl]\\NP .|.|.\n"
AUTO = """ID=x.1 PARSER=GOLD NUMPARSE=1
(<T S[dcl] 1 2> (<L NP NNP NNP Anna NP>) (<L S[dcl]\\NP VBZ VBZ sleeps S[dcl]\\NP_1>) )
"""


def test_ccg_and_labels_from_the_data(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path / "ccg/ccg.train", CCG + AUTO)
    write(tmp_path / "ccg/ccg.dev", "a|b|CC|conj\n")
    specs = catalog.load()
    assert specs["ccg"].labels == ("*",)
    ccg = with_labels(specs, ["ccg"], tmp_path)["ccg"]
    assert ccg.labels == (".", "N", "NP", "S[dcl]\\NP", "conj")
    assert with_labels(specs, ["panx"], tmp_path) == specs
    rows = rows_of(ccg, tmp_path)
    assert [row.values["tokens"] for row in rows] == [["Anna", "sleeps", "."], ["Anna", "sleeps"]]
    assert rows[1].where.endswith("ccg.train:3")
    assert rows_of(ccg, tmp_path, "dev")[0].values == {"tokens": ["a|b"], "tags": ["conj"]}
    shard = prepare(ccg, "train", "en", tiny_model, 32, tmp_path, tmp_path / "shards")
    assert Counter(shard.fields["label"].tolist())[IGNORED] < shard.num_tokens
    assert int((shard.fields["label"] != IGNORED).sum()) == 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Anna|NNP|N sleeps|VBZ\n", ["ccg.train:1", "word 2: 'sleeps|VBZ' is not word|pos|category"]),
        (CCG + AUTO.replace(") )", ""), ["ccg.train:3", "not a whole derivation"]),
        (CCG + AUTO.replace("NNP NNP Anna NP>", "NNP Anna"), ["ccg.train:3", "not a whole derivation"]),
    ],
)
def test_broken_ccg(tmp_path: Path, text: str, said: list[str]) -> None:
    write(tmp_path / "ccg/ccg.train", text)
    with pytest.raises(UserError) as caught:
        rows_of(catalog.load()["ccg"], tmp_path)
    for part in said:
        assert part in str(caught.value)


def test_missing_ccg_says_where_it_comes_from(tmp_path: Path) -> None:
    ccg = catalog.load()["ccg"]
    for root in (tmp_path, None):
        with pytest.raises(UserError, match=r"(?s)ccg/ccg\.train.*LDC2005T13.*AUTO/00"):
            with_labels({"ccg": ccg}, ["ccg"], root)
    write(tmp_path / "ccg/ccg.train", CCG)
    with pytest.raises(UserError, match=r"(?s)ccg\.dev: no such file.*LDC2005T13"):
        with_labels({"ccg": ccg}, ["ccg"], tmp_path)


def test_the_catalogue_has_the_benchmarks_languages() -> None:
    specs = catalog.load()
    for name, more, base in (("panx", 48, 40), ("udpos", 38, 33)):
        assert len(specs[name].languages) == len(specs[name].languages_in("xtreme-r")) == more
        assert len(specs[name].languages_in("xtreme")) == base
        assert specs[name].metric == "f1"
    assert specs["panx"].labels == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
    assert len(specs["udpos"].labels) == 17


@on_real_data
@pytest.mark.parametrize(("name", "languages"), [("panx", 47), ("udpos", 29)])
def test_every_word_of_the_real_data_is_tagged(tmp_path: Path, name: str, languages: int) -> None:
    model = make_tiny_model(tmp_path / "model")
    real = catalog.load()[name]
    files = sorted(path for path in (SLICE / name).glob("*.tsv") if not path.name.startswith("train-"))
    seen = set()
    for file in files:
        split, _, language = file.stem.partition("-")
        shard = prepare(real, split, language, model, 128, SLICE, tmp_path / "shards")
        lines = sum(bool(line.strip()) for line in file.read_text(encoding="utf-8").split("\n"))
        assert int((shard.fields["label"] != IGNORED).sum()) == lines, file
        assert shard.manifest["dropped"] == {}
        assert not shard.manifest["remarks"].get(LOOSE) or language in ("ja", "zh")
        seen.add(language)
    assert len(seen) == languages
