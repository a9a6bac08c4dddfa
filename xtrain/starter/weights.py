"""Turn the 4-bit E5S1 weight file into the weights and configuration of a Hugging Face XLM-R directory.

The file, little-endian: magic ``E5S1`` and a version; the sizes; the tokenizer's pieces and normaliser
(not read here, `tokenizer.py` has the same pieces from elsewhere); a table of tensors; the tensors.
Matrices are in blocks of 32 values, 4 bits each with one scale (the Q4_0 of ggml); vectors are float32.
The file is memory-mapped and the output written a piece at a time, so memory stays at a few tens of MB.

Shapes: V vocabulary, H hidden.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrain.errors import Problem, UserError
from xtrain.files import write_json

MAGIC = b"E5S1"
VERSION = 1
BLOCK = 32  # values of a Q4_0 block
Q4_0_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", (BLOCK // 2,))])
FLOAT32, Q4_0 = 0, 1  # the file's codes for how a tensor is stored
PIECE_BLOCKS = 1 << 18  # blocks dequantised at a time: 32 MiB of float32

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sizes:
    """The sizes in the file's header."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocabulary: int
    positions: int
    token_types: int
    layer_norm_eps: float


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies in the file, and how."""

    dtype: int
    count: int
    """Values, not bytes."""
    offset: int
    num_bytes: int


def dequantise(blocks: npt.NDArray[np.void]) -> Floats:
    """The values of Q4_0 ``blocks``, in order, float32 ``(32 * len(blocks),)``.

    Value ``j`` of a block is ``scale * (nibble - 8)``, where nibbles 0 to 15 are the low halves of the
    16 bytes and 16 to 31 the high halves (ggml's ``dequantize_row_q4_0``).
    """
    nibbles = blocks["nibbles"]  # (blocks, 16)
    values = np.empty((len(blocks), BLOCK), dtype=np.float32)
    values[:, : BLOCK // 2] = nibbles & 0x0F
    values[:, BLOCK // 2 :] = nibbles >> 4
    values -= 8.0
    values *= blocks["scale"].astype(np.float32)[:, None]
    return values.reshape(-1)


class WeightFile:
    """An E5S1 file: its sizes, and its tensors as float32 pieces.

    Raises :class:`UserError` where the file is not of this kind or ends too early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise UserError(Problem(str(path), f"cannot be read as a weight file: {error}")) from None
        self._at = 0
        self.sizes = self._read_sizes()
        self._skip_tokenizer()
        self.tensors = self._read_table()

    def _broken(self, what: str) -> UserError:
        return UserError(
            Problem(
                str(self.path),
                what,
                allowed=f"a whole E5S1 weight file, version {VERSION}",
                remedy="fetch the file again",
            )
        )

    def _skip(self, num_bytes: int, what: str) -> int:
        """Move ``num_bytes`` on and return where that began."""
        begin, self._at = self._at, self._at + num_bytes
        if num_bytes < 0 or self._at > len(self._bytes):
            raise self._broken(f"the file ends ({len(self._bytes)} bytes) within its {what}")
        return begin

    def _take(self, layout: str, what: str) -> tuple[Any, ...]:
        begin = self._skip(struct.calcsize(layout), what)
        return struct.unpack(layout, self._bytes[begin : self._at].tobytes())

    def _read_sizes(self) -> Sizes:
        (magic,) = self._take("<4s", "header")
        if magic != MAGIC:
            raise self._broken(f"begins with {bytes(magic)!r}, not with {MAGIC!r}")
        version, *numbers, eps, block = self._take("<I7ifi", "header")
        if version != VERSION:
            raise self._broken(f"has version {version}")
        if block != BLOCK or min(numbers) < 1 or numbers[0] % BLOCK or numbers[3] % BLOCK:
            raise self._broken(f"has impossible sizes {(*numbers, block)}")
        # The header holds 1e-12 as a float32; six digits give back the number that was meant.
        return Sizes(*(*numbers, float(f"{eps:.6g}")))

    def _skip_tokenizer(self) -> None:
        pieces, *_, blob = self._take("<5iQ", "tokenizer")
        self._skip(4 * (pieces + 1) + 4 * pieces + blob, "tokenizer")
        _, normaliser = self._take("<iI", "normaliser")
        self._skip(normaliser, "normaliser")

    def _read_table(self) -> dict[str, Stored]:
        tensors: dict[str, Stored] = {}
        (number,) = self._take("<i", "table of tensors")
        for _ in range(number):
            (length,) = self._take("<H", "table of tensors")
            begin = self._skip(length, "table of tensors")
            name = self._bytes[begin : begin + length].tobytes().decode("utf-8", errors="replace")
            stored = Stored(*self._take("<BIQQ", "table of tensors"))
            if stored.offset + stored.num_bytes > len(self._bytes):
                raise self._broken(f"the file ends ({len(self._bytes)} bytes) within tensor {name!r}")
            bytes_due = {FLOAT32: 4 * stored.count, Q4_0: stored.count // BLOCK * Q4_0_BLOCK.itemsize}
            if bytes_due.get(stored.dtype) != stored.num_bytes:
                raise self._broken(f"tensor {name!r} is described as {stored}")
            tensors[name] = stored
        return tensors

    def check(self, expected: dict[str, int]) -> None:
        """Raise :class:`UserError` unless the file has each tensor with that number of values."""
        for name, count in expected.items():
            stored = self.tensors.get(name)
            if stored is None or stored.count != count:
                found = "is missing" if stored is None else f"has {stored.count} values"
                raise self._broken(f"tensor {name!r} {found}; {count} values were expected")

    def pieces(self, name: str) -> Iterator[Floats]:
        """The values of a tensor in order, float32, at most 32 MiB of them at a time."""
        stored = self.tensors[name]
        data = self._bytes[stored.offset : stored.offset + stored.num_bytes]
        if stored.dtype == FLOAT32:
            yield data.view("<f4").astype(np.float32)
            return
        blocks = data.view(Q4_0_BLOCK)
        for begin in range(0, len(blocks), PIECE_BLOCKS):
            yield dequantise(blocks[begin : begin + PIECE_BLOCKS])


@dataclass(frozen=True)
class Mapped:
    """A tensor of the XLM-R module and where its values come from."""

    name: str
    shape: tuple[int, ...]
    source: str
    leading_zeros: int = 0
    """Values in front that the source does not have."""

    @property
    def count(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))


# Our names of a layer's tensors -> the file's. f: feed-forward in, o: out, ln: LayerNorm.
_LAYER = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}


def mapping(sizes: Sizes) -> list[Mapped]:
    """Every tensor of ``XLMRobertaModel`` without a pooler, in the order of the file.

    Positions: XLM-R numbers them from ``pad + 1``, so row i goes to row i + 2 behind two rows of zeros.
    Token types: XLM-R has one, the first.
    """
    hidden, ffn = sizes.hidden, sizes.ffn
    shapes = {"intermediate.dense": (ffn, hidden), "output.dense": (hidden, ffn)}
    tensors = [
        Mapped("embeddings.word_embeddings.weight", (sizes.vocabulary, hidden), "emb.word"),
        Mapped("embeddings.position_embeddings.weight", (sizes.positions + 2, hidden), "emb.pos", 2 * hidden),
        Mapped("embeddings.token_type_embeddings.weight", (1, hidden), "emb.type"),
        Mapped("embeddings.LayerNorm.weight", (hidden,), "emb.ln.w"),
        Mapped("embeddings.LayerNorm.bias", (hidden,), "emb.ln.b"),
    ]
    for layer in range(sizes.layers):
        for module, source in _LAYER.items():
            shape = (hidden,) if module.endswith("LayerNorm") else shapes.get(module, (hidden, hidden))
            prefix = f"encoder.layer.{layer}.{module}"
            tensors.append(Mapped(f"{prefix}.weight", shape, f"l{layer}.{source}.w"))
            tensors.append(Mapped(f"{prefix}.bias", shape[:1], f"l{layer}.{source}.b"))
    return tensors


def configuration(sizes: Sizes) -> dict[str, Any]:
    """The contents of ``config.json``."""
    return {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": sizes.positions + 2,
        "type_vocab_size": 1,
        "initializer_range": 0.02,
        "layer_norm_eps": sizes.layer_norm_eps,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "dtype": "float32",
    }


def convert(source: Path, out: Path) -> Sizes:
    """Write ``model.safetensors`` (float32) and ``config.json`` of the E5S1 file ``source`` into ``out``.

    Raises :class:`UserError` where the file is of another kind, ends early or lacks a tensor.
    """
    weights = WeightFile(source)
    tensors = mapping(weights.sizes)
    expected = {tensor.source: tensor.count - tensor.leading_zeros for tensor in tensors}
    expected["emb.type"] = weights.sizes.token_types * weights.sizes.hidden  # all rows, of which we take one
    weights.check(expected)
    _write_safetensors(out / "model.safetensors", weights, tensors)
    write_json(out / "config.json", configuration(weights.sizes))
    return weights.sizes


def _write_safetensors(path: Path, weights: WeightFile, tensors: list[Mapped]) -> None:
    """Write ``tensors`` piece by piece; ``safetensors.save_file`` would hold all 470 MB in memory.

    The format: u64 length of the header, the header (JSON: dtype, shape, begin and end of each tensor,
    counted from the header's end), the values. https://huggingface.co/docs/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + 4 * tensor.count
        header[tensor.name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # so that the values begin on a multiple of 8
    with open(path, "wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            handle.write(bytes(4 * tensor.leading_zeros))
            left = tensor.count - tensor.leading_zeros
            for piece in weights.pieces(tensor.source):
                handle.write(piece[:left].astype("<f4", copy=False).tobytes())
                left = max(0, left - len(piece))
            assert left == 0, tensor
        handle.flush()
        os.fsync(handle.fileno())
