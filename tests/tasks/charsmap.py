"""A small character map as sentencepiece compiles it, so that tests have XLM-R's normaliser without its tokenizer."""

from __future__ import annotations

import base64
import json
import struct
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from tiny import make_tiny_tokenizer

REMOVED = [chr(n) for n in (*range(1, 9), 11, *range(14, 32), 0x7F, 0x8F, 0x9F)]
"""What XLM-R's normaliser (sentencepiece's nmt_nfkc) makes nothing of."""
BLANK = ["\t", "\n", "\x0c", "\r", "\xa0", "\u1680", "\u2028", "\u2029", "\u202f", "\u3000", "\ufeff", "\u200b"]
BLANK += ["\u200c", "\u200d", "\u200e", "\u200f", "\u2581", "\ufffd"]
"""What it makes a blank of."""
COMPATIBLE = "ﬁﬃ…½①㍿㎢ＡＢＣ９ﷺﻻǆKÅ\u0344"
COMPOSED = ["e\u0301", "a\u030a", "o\u0308"]  # the library looks at no cluster of six bytes or more


def mapping() -> dict[str, str]:
    """Some of that map: what is removed, what becomes a blank, expansions, and pairs that become one letter."""
    found = dict.fromkeys(REMOVED, "") | dict.fromkeys(BLANK, " ")
    return found | {text: unicodedata.normalize("NFKC", text) for text in (*COMPATIBLE, *COMPOSED)}


def compiled(characters: Mapping[str, str]) -> bytes:
    """The map in sentencepiece's form: the size of a double array (darts-clone), the array, texts with a zero each."""
    texts, values = b"", {}
    for key, text in characters.items():
        values[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    units, taken, bases = {0: 0}, {0}, set()

    def lay(place: int, prefix: bytes) -> None:
        below = {key[len(prefix)] if len(key) > len(prefix) else 0 for key in values if key.startswith(prefix)}
        base = next(n for n in range(1, 1 << 20) if n not in bases and not {n ^ label for label in below} & taken)
        bases.add(base)
        taken.update(base ^ label for label in below)
        label = prefix[-1] if prefix else 0
        units[place] = label | (1 << 8 if 0 in below else 0) | (place ^ base) << 10
        for after in sorted(below):
            if after:
                lay(base ^ after, prefix + bytes([after]))
            else:
                units[base] = 1 << 31 | values[prefix]

    lay(0, b"")
    array = [units.get(n, 0) for n in range(-(-(max(units) + 1) // 256) * 256)]
    return struct.pack(f"<I{len(array)}I", 4 * len(array), *array) + texts


def make_charsmap_tokenizer(folder: Path) -> Path:
    """A tiny tokenizer with XLM-R's normaliser, as far as :func:`mapping` goes."""
    make_tiny_tokenizer(folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    charsmap = base64.b64encode(compiled(mapping())).decode()
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder
