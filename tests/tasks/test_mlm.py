"""The format mlm: lines of text to examples of whole documents, and the catalogue's task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import rows_of, source, spec, write
from tiny import sentences

from xtrain.data import prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog, formats
from xtrain.tasks import mlm as module
from xtrain.tasks.encoding import PairTokenizer
from xtrain.tasks.formats import EMPTY, Dropped, Encoded, ProblemList, Row


def mlm(**options: Any) -> TaskSpec:
    files = source(files={"train": "mlm/{lang}.txt"}, reader="text", columns={"text": "text"})
    return spec(format="mlm", options=options, sources=[files])


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PairTokenizer:
    return PairTokenizer(tiny_model)


def encode(task: TaskSpec, tokenizer: PairTokenizer, texts: list[Any], max_length: int) -> list[Encoded | Dropped]:
    problems = ProblemList()
    rows = [Row(f"f:{n}", str(n), {"text": text}) for n, text in enumerate(texts)]
    found = list(formats.get("mlm").encode(rows, tokenizer, task, max_length, "en", problems))
    problems.raise_if_any()
    return found


def test_short_texts_are_one_example_and_long_ones_several(tokenizer: PairTokenizer) -> None:
    long = " ".join(sentences(6))
    (pieces,) = tokenizer.pieces([long])
    found = encode(mlm(), tokenizer, ["one", long], 32)
    assert [item.id for item in found] == ["0"] + [f"1.{n}" for n in range(len(found) - 1)]
    assert len(found) == 1 + -(-len(pieces) // 30), "as few as possible"
    examples = [item for item in found if isinstance(item, Encoded)]
    assert [item.split for item in examples] == [False, True] + [False] * (len(found) - 2), "a text counts once"
    assert not any(item.truncated for item in examples)
    sizes = [len(item.sequences[0]) - 2 for item in examples[1:]]
    assert max(sizes) - min(sizes) <= 1, "even lengths: no rest of one token"


@settings(max_examples=30)
@given(words=st.lists(st.integers(1, 200), min_size=1, max_size=6), max_length=st.integers(8, 40))
def test_nothing_is_lost(words: list[int], max_length: int, tokenizer: PairTokenizer) -> None:
    text = " ".join(sentences(40, seed=words[0])).split()
    texts = [" ".join(text[:count]) for count in words]
    found = encode(mlm(), tokenizer, texts, max_length)
    for number, pieces in enumerate(tokenizer.pieces(texts)):
        parts = [
            item.sequences[0]
            for item in found
            if isinstance(item, Encoded) and item.id.partition(".")[0] == str(number)
        ]
        assert all(part[0] == tokenizer.begin and part[-1] == tokenizer.end for part in parts)
        assert all(len(part) <= max_length for part in parts)
        assert [token for part in parts for token in part[1:-1]] == pieces


def test_options_leave_out_what_is_too_short_or_too_much(tokenizer: PairTokenizer) -> None:
    texts = ["a", "", "   ", *sentences(5, shortest=6)]
    found = encode(mlm(min_tokens=4), tokenizer, texts, 64)
    dropped = [item for item in found if isinstance(item, Dropped)]
    assert dropped == [Dropped("0", "shorter than 4 tokens"), Dropped("1", EMPTY), Dropped("2", EMPTY)]
    assert len(found) == 8
    assert len(encode(mlm(), tokenizer, texts, 64)) == 8
    few = encode(mlm(max_examples=3), tokenizer, texts, 64)
    assert sum(isinstance(item, Encoded) for item in few) == 3


def test_a_corpus_is_read_no_further_than_needed(tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunk by chunk: what has not been asked for is not in memory."""
    monkeypatch.setattr(module, "_CHUNK_CHARACTERS", 500)
    read = 0

    def rows() -> Any:
        nonlocal read
        for n, text in enumerate(sentences(1000)):
            read += 1
            yield Row(f"f:{n}", str(n), {"text": text})

    found = formats.get("mlm").encode(rows(), tokenizer, mlm(), 64, "en", ProblemList())
    assert [next(found).id for _ in range(3)] == ["0", "1", "2"]
    assert read < 50
    assert len({item.id.partition(".")[0] for item in found}) == 997


def test_what_is_not_text_is_an_error(tokenizer: PairTokenizer) -> None:
    with pytest.raises(UserError, match=r"f:1: text: 7 is not text"):
        encode(mlm(), tokenizer, ["one", 7], 64)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"mask_probability": 0}, "options.mask_probability: 0 is not allowed"),
        ({"mask_probability": 1.5}, "options.mask_probability: 1.5 is not allowed"),
        ({"mask_share": "most"}, "options.mask_share: 'most' is not allowed"),
        ({"mask_share": 0.8, "random_share": 0.3}, "together are more than 1"),
        ({"min_tokens": 0}, "options.min_tokens: 0 is not allowed"),
        ({"max_examples": True}, "options.max_examples: True is not allowed"),
        ({"probability": 0.1}, "options.probability: unknown key"),
    ],
)
def test_wrong_options(options: dict[str, Any], part: str) -> None:
    with pytest.raises(UserError) as caught:
        mlm(**options)
    assert part in str(caught.value)


def test_lines_of_a_file_are_documents(tmp_path: Path) -> None:
    write(tmp_path / "mlm/en.txt", "\ufeffone\r\n\n  \ntwo\u2028still two\nthree \x0c 3")
    rows = rows_of(mlm(), tmp_path)
    assert [row.values["text"] for row in rows] == ["one", "two\u2028still two", "three \x0c 3"]
    assert [row.where.rpartition(":")[2] for row in rows] == ["1", "4", "5"]


def test_a_line_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "mlm").mkdir()
    (tmp_path / "mlm/en.txt").write_bytes(b"one\ncaf\xe9\ntwo\n")
    with pytest.raises(UserError, match=r"en.txt:2: byte 0xe9 is not UTF-8"):
        rows_of(mlm(), tmp_path)


def test_files_become_shards_of_train_and_dev(tmp_path: Path, tiny_model: Path) -> None:
    """The catalogue's task, on files in its layout: dev is carved out of each language's text."""
    task = catalog.load({"mlm": {"languages": ["en", "ru"], "train_languages": ["en", "ru"]}})["mlm"]
    texts = {"en": sentences(400), "ru": sentences(150, "cyrillic")}
    tokens = {}
    for language, lines in texts.items():
        write(tmp_path / f"mlm/{language}.txt", "\n".join([*lines, " ".join(lines[:20])]) + "\n")
        shards = [
            prepare(task, split, language, tiny_model, 64, tmp_path, tmp_path / "out") for split in ("train", "dev")
        ]
        assert all(shard.manifest["truncated"] == 0 for shard in shards)
        assert sum(shard.manifest["split_examples"] for shard in shards) == 1
        assert dict(shards[0].field_kinds) == {}
        assert 0 < len(shards[1]) < len(shards[0])
        tokens[language] = np.concatenate([np.asarray(shard.tokens) for shard in shards])
    pieces = PairTokenizer(tiny_model).pieces([*texts["en"], " ".join(texts["en"][:20])])
    inner = tokens["en"][tokens["en"] > 2]  # without <s>, <pad>, </s>
    assert len(inner) == sum(map(len, pieces)), "every token is in one of the two"


def test_the_catalogue_trains_in_the_forty_languages_of_xtreme() -> None:
    known = catalog.load()
    task = known["mlm"]
    assert sorted(task.languages) == sorted(known["panx"].languages_in("xtreme"))
    assert len(task.languages) == 40
    assert task.languages == task.train_languages == task.default_train_languages
    assert task.language_exponent == 0.3
    assert task.options["mask_probability"] == 0.15
    assert task.recipe["learning_rate"] == 5e-6
    files, hub = task.sources
    assert files.paths("train", "sw") == ("mlm/sw.txt",)
    assert (hub.hub, hub.config.replace("{lang}", hub.code("sw"))) == ("wikimedia/wikipedia", "20231101.sw")
    assert task.splits == ("train", "dev")
