"""From a base (hub id, directory, or "starter") to an encoder with every one of its weights filled."""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from xtrain import starter
from xtrain.errors import Problem, UserError, listed
from xtrain.files import content_hash, write_json
from xtrain.model.config_file import EncoderConfig, read_config
from xtrain.model.encoder import Encoder
from xtrain.model.vocabulary import UsedVocabulary
from xtrain.model.weight_files import (
    INDEX,
    WORD_EMBEDDINGS,
    check_float,
    check_values,
    checked,
    find_encoder,
    no_safetensors,
    num_parameters,
    read_places,
    weight_files,
)
from xtrain.tasks.encoding import PairTokenizer, tokenizer_file, tokenizer_hash
from xtrain.tasks.hashes import file_hash
from xtrain.tasks.hub_repository import locate

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
)
_WANTED = ("config.json", INDEX, *TOKENIZER_FILES)  # of a hub repository, beside the weights
KNOWN_BASES = (
    "FacebookAI/xlm-roberta-base",
    "FacebookAI/xlm-roberta-large",
    "intfloat/multilingual-e5-small",
    "intfloat/multilingual-e5-base",
    "intfloat/multilingual-e5-large",
    "BAAI/AltCLIP",
    "M-CLIP/XLM-Roberta-Large-Vit-B-32",
)
"""Ids to propose for a wrong one."""
_CHECKED = 1  # raise it when check_base would find more
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


def resolve(base: str, revision: str = "main") -> Path:
    """The directory of ``base``: the starter's, a local one, or a hub id's in the hub's local cache.

    Of a hub repository only configuration, tokenizer and safetensors are fetched, at the commit that
    ``revision`` (a branch, tag or commit) stands for; the folder is named after it. Raises
    :class:`UserError` if there is no such directory, repository or revision, if it may not be read, if it is
    not in the local cache and there is no network, or if the model is none that an encoder can be filled from
    (:func:`check_base`).
    """
    if base == "starter":
        folder = starter.model_folder()
    elif Path(base).expanduser().is_dir():
        folder = Path(base).expanduser()
    elif base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise UserError(
            Problem(
                base,
                "no such directory",
                allowed='a model directory, a hub id such as "org/name", or "starter"',
            )
        )
    else:
        folder = _from_hub(base, revision)
    check_base(folder)
    return folder


def tokenizer_folder(base: str, revision: str = "main") -> Path:
    """A folder with the tokenizer of ``base`` and its configuration: of a hub repository no weights are fetched."""
    if base == "starter" or base.startswith((".", "/", "~")) or base.count("/") > 1 or Path(base).is_dir():
        return resolve(base, revision)
    repository = locate(base, "model", revision, KNOWN_BASES)
    return repository.fetch([name for name in repository.files if name in ("config.json", *TOKENIZER_FILES)])


def check_base(folder: Path) -> None:
    """Raise a :class:`UserError` unless an encoder can be filled from ``folder``, and all of its tokens embedded.

    The configuration and the headers are looked at each time; what takes seconds, whether all weights are finite and
    what the tokenizer's largest id is, once for each content: the cache folder remembers what was found right.
    """
    config = read_config(folder)
    tensors = find_encoder(folder, config)
    tokenizer_file(folder)
    key = content_hash([_CHECKED, base_fingerprint(folder), tokenizer_hash(folder)])
    known = starter.cache_folder() / "checked" / f"{key}.json"
    if known.is_file():
        return
    check_values(tensors)
    _check_tokens(folder, config)
    with contextlib.suppress(OSError, UserError):  # a cache that may not be written is no error
        known.parent.mkdir(parents=True, exist_ok=True)
        write_json(known, {"folder": str(folder.absolute())})


def _check_tokens(folder: Path, config: EncoderConfig) -> None:
    """Every token must have a row in the embedding table, whether the data use it or not."""
    vocabulary = PairTokenizer(folder).vocabulary()
    beyond = sorted((number, token) for token, number in vocabulary.items() if number >= config.vocab_size)
    if beyond:
        what = f"its largest token id is {beyond[-1][0]}, and the embedding table has {config.vocab_size} rows"
        what += f": {listed((repr(token) for _, token in beyond), most=5)}"
        remedy = f"remove the added tokens, or give them rows: model.resize_token_embeddings({beyond[-1][0] + 1})"
        allowed = f"token ids from 0 to {config.vocab_size - 1}"
        raise UserError(Problem(str(tokenizer_file(folder)), what, allowed, remedy))


def _from_hub(base: str, revision: str) -> Path:
    """The snapshot of the commit that ``revision`` stands for; asked again, it needs no network."""
    repository = locate(base, "model", revision, KNOWN_BASES)
    wanted = [
        name for name in repository.files if name in _WANTED or ("/" not in name and name.endswith(".safetensors"))
    ]
    if "config.json" not in wanted:
        raise UserError(Problem(base, "has no config.json", "a model of XLM-R's shape in the format of transformers"))
    if not any(name.endswith(".safetensors") for name in wanted):
        pickled = [name for name in repository.files if name.endswith(".bin")]
        raise UserError(no_safetensors(base, pickled, f"./{base.rpartition('/')[2]}"))
    read_config(repository.fetch(["config.json"]))  # before gigabytes of weights that cannot be taken
    return repository.fetch(wanted)


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
    if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    digest = hashlib.sha256()
    for path in [folder / "config.json", *weight_files(folder)]:
        digest.update(f"{path.name} {file_hash(path)}\n".encode())
    return digest.hexdigest()


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
