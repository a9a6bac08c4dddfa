"""Token ids are exactly those of transformers' AutoTokenizer, pairs cut longest first."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tiny_tokenizer, sentences, words

from xtrain.errors import UserError
from xtrain.tasks.encoding import PairTokenizer, longest_first, tokenizer_hash

TEXTS = (
    st.lists(
        st.one_of(
            st.sampled_from(words("latin") + words("cyrillic") + words("han")),
            st.text(max_size=6),
            st.sampled_from(["</s>", "<mask>", "▁", "  ", "\n", "\u2028", "ﬁ"]),
        ),
        min_size=1,
        max_size=30,
    )
    .map(" ".join)
    .filter(str.strip)
)  # an empty text is refused before it gets here


@pytest.fixture(scope="module")
def both(tiny_model: Path) -> tuple[PairTokenizer, Any]:
    """Ours, and transformers' own."""
    from transformers import AutoTokenizer

    return PairTokenizer(tiny_model), AutoTokenizer.from_pretrained(tiny_model)


@settings(max_examples=150)
@given(pairs=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), max_length=st.integers(8, 80))
def test_equal_to_transformers(both: tuple[PairTokenizer, Any], pairs: list[tuple[str, str]], max_length: int) -> None:
    ours, theirs = both
    first, second = (ours.pieces(list(side)) for side in zip(*pairs, strict=True))
    for (a, b), ids_a, ids_b in zip(pairs, first, second, strict=True):
        whole = theirs(a, b)["input_ids"]
        ids, cut = ours.sequence(ids_a, ids_b, max_length)
        assert ids == theirs(a, b, truncation=True, max_length=max_length)["input_ids"]
        assert cut == (len(whole) > max_length)
        single, cut = ours.sequence(ids_a, None, max_length)
        assert single == theirs(a, truncation=True, max_length=max_length)["input_ids"]
        assert cut == (len(theirs(a)["input_ids"]) > max_length)


@cache
def _word_level() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return tokenizer


@settings(max_examples=300)
@given(first=st.integers(0, 40), second=st.integers(0, 40), room=st.integers(1, 50))
def test_longest_first_is_the_librarys_rule(first: int, second: int, room: int) -> None:
    tokenizer = _word_level()
    tokenizer.enable_truncation(room, strategy="longest_first")
    encoded = tokenizer.encode(" ".join("x" * first), " ".join("x" * second))
    kept = (encoded.type_ids.count(0), encoded.type_ids.count(1))
    assert longest_first(first, second, room) == kept


def test_each_distinct_text_is_tokenised_in_place(tiny_model: Path) -> None:
    tokenizer = PairTokenizer(tiny_model)
    texts = sentences(3)
    assert tokenizer.pieces([texts[0], texts[1], texts[0]]) == [
        *tokenizer.pieces(texts[:2]),
        *tokenizer.pieces(texts[:1]),
    ]


def test_truncation_and_padding_in_the_file_are_not_used(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    backend.enable_truncation(6)
    backend.enable_padding(length=20)
    backend.save(str(tmp_path / "m" / "tokenizer.json"))
    text = " ".join(words()[:40])
    assert PairTokenizer(tmp_path / "m").pieces([text]) == PairTokenizer(tiny_model).pieces([text])


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer") as caught:
        PairTokenizer(tmp_path)
    assert "sentencepiece.bpe.model" in str(caught.value)


def test_a_tokenizer_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        PairTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(UserError, match=r"sentencepiece\.bpe\.model: cannot be read as a tokenizer"):
        PairTokenizer(tmp_path)


def test_a_tokenizer_of_another_shape(tmp_path: Path) -> None:
    _word_level().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="does not build pairs as XLM-R does"):
        PairTokenizer(tmp_path)


def test_the_hash_knows_the_tokenizer_and_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path / "same")
    make_tiny_tokenizer(tmp_path / "other", vocab=390)
    assert tokenizer_hash(tmp_path / "same") == tokenizer_hash(tiny_model)
    assert tokenizer_hash(tmp_path / "other") != tokenizer_hash(tiny_model)
    (tmp_path / "same" / "config.json").write_text(json.dumps({"hidden_size": 7}))
    assert tokenizer_hash(tmp_path / "same") == tokenizer_hash(tiny_model)


def test_code_beside_a_tokenizer_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anybody asked whether it should: transformers asks, where it is not told."""
    sprung = tmp_path / "sprung"
    (tmp_path / "sentencepiece.bpe.model").write_bytes(b"")
    (tmp_path / "evil.py").write_text(f"open({str(sprung)!r}, 'w')\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "made-up", "auto_map": {"AutoConfig": "evil.C"}}))
    names = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    monkeypatch.setattr("builtins.input", lambda _: "y")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        PairTokenizer(tmp_path)
    assert not sprung.exists()
