"""From the folder of a base to an encoder with every one of its weights filled."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from xtrain.errors import listed
from xtrain.model.config_file import EncoderConfig, read_config
from xtrain.model.encoder import Encoder
from xtrain.model.vocabulary import UsedVocabulary
from xtrain.model.weight_files import (
    WORD_EMBEDDINGS,
    check_float,
    checked,
    find_encoder,
    num_parameters,
    read_places,
    weight_files,
)
from xtrain.tasks.hashes import file_hash

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
)
_CHUNK_ROWS = 16384  # of the embedding table read at once, when only some rows are kept


@dataclass(frozen=True)
class LoadReport:
    """What of an encoder was filled from a checkpoint, and what of the checkpoint was left."""

    num_tensors: int
    """The encoder's tensors; every one was found, or loading would have raised."""
    num_parameters: int
    """Their elements, the whole embedding table counted."""
    unused: tuple[str, ...]
    """Tensors of the checkpoint that are no part of the encoder (pooler, heads)."""
    kept_rows: int
    """Rows of the word embeddings in memory."""
    vocab_size: int
    """Rows of the word embeddings in the checkpoint."""

    def __str__(self) -> str:
        text = (
            f"encoder: {self.num_tensors} of {self.num_tensors} tensors, "
            f"{self.num_parameters:,} parameters filled (100 %)"
        )
        if self.kept_rows < self.vocab_size:
            text += f"; {self.kept_rows:,} of {self.vocab_size:,} word embeddings kept in memory"
        return text + f"; unused in the file: {listed(self.unused, most=8) if self.unused else 'nothing'}"


def load_encoder(
    folder: Path, dtype: torch.dtype, *, dropout: float | None = None, kept_rows: Tensor | None = None
) -> tuple[Encoder, LoadReport]:
    """The encoder in ``folder``, every weight filled, as ``dtype``, and a report to print.

    ``dropout`` replaces the configuration's probabilities, ``kept_rows`` (any shape, int64) are the token
    ids whose embeddings are kept (all if None). Tensors are read one by one, so that no second copy of
    the model is ever in memory. Raises :class:`UserError` if a tensor is missing, has another shape, holds no
    floating-point numbers, or a number that is not finite.
    """
    config = read_config(folder)
    tensors = find_encoder(folder, config)
    vocabulary = None if kept_rows is None else used_vocabulary(config, kept_rows)
    encoder = Encoder(config, vocabulary, dropout)
    weights: dict[str, Tensor] = {}
    for path, names in tensors.by_file():
        with safe_open(path, framework="pt") as file:
            for name in names:
                whole = tensors.prefix + name
                if name == WORD_EMBEDDINGS and vocabulary is not None:
                    weights[name] = _rows(file.get_slice(whole), vocabulary.kept, dtype, whole, path)
                else:
                    weights[name] = checked(file.get_tensor(whole), whole, path, dtype)
    encoder.model.load_state_dict(weights, assign=True)
    encoder.requires_grad_(True)
    encoder.folder = folder
    report = LoadReport(
        num_tensors=len(tensors.shapes),
        num_parameters=num_parameters(tensors.shapes),
        unused=tensors.unused,
        kept_rows=len(weights[WORD_EMBEDDINGS]),
        vocab_size=config.vocab_size,
    )
    return encoder, report


def used_vocabulary(config: EncoderConfig, used: Tensor) -> UsedVocabulary:
    """What is kept in memory of the vocabulary of ``config`` where the token ids ``used`` (any shape) occur."""
    special = [config.bos_token_id, config.eos_token_id]
    return UsedVocabulary(used, config.vocab_size, special, config.pad_token_id)


def locate_word_embeddings(folder: Path) -> tuple[Path, str]:
    """The file in ``folder`` that the word embedding table is in, and its name there."""
    tensors = find_encoder(folder, read_config(folder))
    name = tensors.prefix + WORD_EMBEDDINGS
    return tensors.places[name].path, name


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors in ``folder`` whose names begin with ``part``, by the rest of their names, fp32."""
    found: dict[str, Tensor] = {}
    places = {name: place for name, place in read_places(folder).items() if name.startswith(part)}
    check_float(places)
    for path in sorted({place.path for place in places.values()}):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in places if places[name].path == path):
                found[name.removeprefix(part)] = checked(file.get_tensor(name), name, path, torch.float32)
    return found


def base_fingerprint(folder: Path) -> str:
    """What identifies the weights in ``folder``, for the hash of a phase.

    The commit if it is a snapshot of a hub repository, else the SHA-256 over config.json and the
    safetensors. Files are read once per process as long as size and modification time stay.
    """
    if commit := snapshot_commit(folder):
        return commit
    digest = hashlib.sha256()
    for path in [folder / "config.json", *weight_files(folder)]:
        digest.update(f"{path.name} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def snapshot_commit(folder: Path) -> str:
    """The commit of a hub repository that ``folder`` is a snapshot of; nothing if it is none."""
    commit = re.fullmatch(r"[0-9a-f]{40}", folder.name)
    return folder.name if commit and folder.parent.name == "snapshots" else ""


def _rows(table: Any, kept: Tensor, dtype: torch.dtype, name: str, path: Path) -> Tensor:
    """Rows ``kept`` (K,) sorted of the table ``name`` on disk, read in chunks: (K, H)."""
    height, width = table.get_shape()
    rows = torch.empty(len(kept), width, dtype=dtype)
    for start in range(0, height, _CHUNK_ROWS):
        first, last = torch.searchsorted(kept, torch.tensor([start, start + _CHUNK_ROWS])).tolist()
        if first < last:
            wanted = table[start : start + _CHUNK_ROWS][kept[first:last] - start]
            rows[first:last] = checked(wanted, name, path, dtype)
    return rows
