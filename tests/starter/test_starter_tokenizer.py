"""The starter's tokenizer: XLM-R's frame around the pieces of another package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from xtrain.errors import UserError
from xtrain.starter import tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer_json: Callable[..., bytes]) -> Path:
    tokenizer.write(tokenizer_json(), "tokenizer.json", tmp_path, vocabulary=24)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", "vocab_size": 24}))
    return tmp_path


def test_special_pieces_are_xlm_robertas(folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    assert type(loaded).__name__.startswith("XLMRobertaTokenizer")
    ids = (loaded.bos_token_id, loaded.pad_token_id, loaded.eos_token_id, loaded.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert (loaded.cls_token_id, loaded.sep_token_id, loaded.mask_token_id) == (0, 2, 8)
    assert len(loaded) == 9


def test_texts_are_cut_as_xlm_roberta_cuts_them(folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded("ab")["input_ids"] == [0, 4, 5, 2]
    assert loaded("a", "ab")["input_ids"] == [0, 4, 2, 2, 4, 5, 2]  # </s></s> between a pair
    # White space of any kind and length is one boundary, and none is left at the ends.
    assert loaded(" \tab \n a ")["input_ids"] == [0, 4, 5, 4, 2]
    assert loaded("a <mask>")["input_ids"] == [0, 4, 8, 2]  # the mask takes the space before it


@pytest.mark.parametrize(
    "text",
    [b"{}", b"no json", b'{"model": {"type": "BPE", "vocab": {}}}', b"[]"],
)
def test_another_tokenizer_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(UserError, match="is not XLM-R's tokenizer"):
        tokenizer.write(text, "tokenizer.json", tmp_path, vocabulary=24)


def test_more_pieces_than_embedding_rows_are_refused(tmp_path: Path, tokenizer_json: Callable[..., bytes]) -> None:
    with pytest.raises(UserError, match="9 pieces, more than the model's 8"):
        tokenizer.write(tokenizer_json(), "tokenizer.json", tmp_path, vocabulary=8)
