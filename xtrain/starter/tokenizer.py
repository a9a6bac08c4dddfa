"""Write the starter's tokenizer in XLM-R's own form, from a tokenizer.json with the same pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xtrain.errors import Problem, UserError
from xtrain.files import write_json, write_text

SPECIAL = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
MASK = "<mask>"  # XLM-R's last piece
MAX_LENGTH = 512

CONFIG: dict[str, Any] = {
    "tokenizer_class": "XLMRobertaTokenizer",
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": {
        "__type": "AddedToken",
        "content": MASK,
        "lstrip": True,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
    },
    "model_max_length": MAX_LENGTH,
}


def as_xlm_roberta(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The parsed ``tokenizer.json`` with its pieces and character map in the frame XLM-R ships.

    Raises :class:`KeyError`, :class:`TypeError` or :class:`ValueError` where it is not a unigram
    tokenizer with XLM-R's special pieces.
    """
    model = tokenizer["model"]
    pieces = [piece for piece, _ in model["vocab"]]
    if model["type"] != "Unigram" or pieces[: len(SPECIAL)] != list(SPECIAL) or pieces[-1] != MASK:
        raise ValueError("not XLM-R's unigram pieces")
    special = {**SPECIAL, MASK: len(pieces) - 1}
    # A run of white space is one boundary, as in sentencepiece: split first, then mark the beginnings.
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": piece,
                "single_word": False,
                "lstrip": piece == MASK,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for piece, number in special.items()
        ],
        "normalizer": _character_map(tokenizer["normalizer"]),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": tokenizer["post_processor"],
        "decoder": metaspace,
        "model": model,
    }


def _character_map(normalizer: dict[str, Any]) -> dict[str, Any]:
    """The ``Precompiled`` step of a normaliser: sentencepiece's map of characters (NFKC and more)."""
    for step in normalizer.get("normalizers", [normalizer]):
        if step["type"] == "Precompiled":
            return {"type": "Precompiled", "precompiled_charsmap": step["precompiled_charsmap"]}
    raise ValueError("no precompiled character map")


def write(text: bytes, where: str, out: Path, vocabulary: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into ``out``.

    ``text`` is a ``tokenizer.json`` found at ``where`` (named in errors); ``vocabulary`` the rows of the
    model's embedding table, which must cover every piece. Raises :class:`UserError`.
    """
    try:
        tokenizer = as_xlm_roberta(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(Problem(where, f"is not XLM-R's tokenizer: {error}", remedy="fetch the file again")) from None
    pieces = len(tokenizer["model"]["vocab"])
    if pieces > vocabulary:
        raise UserError(Problem(where, f"has {pieces} pieces, more than the model's {vocabulary} embedding rows"))
    write_text(out / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))
    write_json(out / "tokenizer_config.json", CONFIG)
