"""From a base (hub id, directory, or "starter") to an encoder with every one of its weights filled."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, XLMRobertaConfig

from xtrain import starter
from xtrain.errors import Problem, UserError, listed, raise_if_any
from xtrain.files import read_json, sha256
from xtrain.model.encoder import Encoder
from xtrain.model.vocabulary import UsedVocabulary
from xtrain.tasks.hub_repository import locate

ARCHITECTURES = {  # model_type: its class in transformers; all have the same tensors and arithmetic
    "xlm-roberta": "XLMRobertaModel",
    "roberta": "RobertaModel",
    "camembert": "CamembertModel",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
)
WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
_INDEX = "model.safetensors.index.json"
_WANTED = ("config.json", _INDEX, *TOKENIZER_FILES)  # of a hub repository, beside the weights
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
    not in the local cache and there is no network, if there are no safetensors, or if the model is not of
    XLM-R's shape.
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
    read_config(folder)
    _weight_files(folder)
    return folder


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
        raise UserError(_no_safetensors(base, pickled, f"./{base.rpartition('/')[2]}"))
    return repository.fetch(wanted)


def read_config(folder: Path) -> XLMRobertaConfig:
    """The configuration in ``folder``; another architecture than :data:`ARCHITECTURES` is an error."""
    path = folder / "config.json"
    values = read_json(path)
    model_type = values.get("model_type") if isinstance(values, dict) else None
    if model_type not in ARCHITECTURES:
        raise UserError(
            Problem(
                f"{path}: model_type",
                f"{model_type!r} is not of XLM-R's shape",
                allowed=listed(ARCHITECTURES),
                remedy="choose another base; multilingual ones are FacebookAI/xlm-roberta-base and -large",
            )
        )
    if values.get("position_embedding_type", "absolute") != "absolute" or values.get("is_decoder"):
        raise UserError(
            Problem(str(path), "is a decoder or has relative positions", "an encoder with absolute positions")
        )
    config = AutoConfig.for_model(**{key: value for key, value in values.items() if key != "architectures"})
    if config.hidden_size % config.num_attention_heads:
        what = f"{config.num_attention_heads} heads cannot share hidden_size = {config.hidden_size}"
        raise UserError(Problem(f"{path}: num_attention_heads", what, remedy="fetch the model again: this is no XLM-R"))
    return cast(XLMRobertaConfig, config)


def load_encoder(
    folder: Path, dtype: torch.dtype, *, dropout: float | None = None, kept_rows: Tensor | None = None
) -> tuple[Encoder, LoadReport]:
    """The encoder in ``folder``, every weight filled, as ``dtype``, and a report to print.

    ``dropout`` replaces the configuration's probabilities, ``kept_rows`` (any shape, int64) are the token
    ids whose embeddings are kept (all if None). Tensors are read one by one, so that no second copy of
    the model is ever in memory. Raises :class:`UserError` if a tensor is missing or has another shape.
    """
    config = read_config(folder)
    vocabulary = None if kept_rows is None else used_vocabulary(config, kept_rows)
    encoder = Encoder(config, vocabulary, dropout)
    places = _places(folder)
    prefix = _prefix(places, folder)
    shapes = {name: list(tensor.shape) for name, tensor in encoder.model.state_dict().items()}
    shapes[WORD_EMBEDDINGS] = [config.vocab_size, config.hidden_size]
    _check(folder, places, prefix, shapes)
    weights: dict[str, Tensor] = {}
    for path in sorted({places[prefix + name] for name in shapes}):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in shapes if places[prefix + name] == path):
                if name == WORD_EMBEDDINGS and vocabulary is not None:
                    weights[name] = _rows(file.get_slice(prefix + name), vocabulary.kept, dtype)
                else:
                    weights[name] = file.get_tensor(prefix + name).to(dtype, copy=True)
    encoder.model.load_state_dict(weights, assign=True)
    encoder.requires_grad_(True)
    encoder.folder = folder
    report = LoadReport(
        num_tensors=len(shapes),
        num_parameters=sum(torch.Size(shape).numel() for shape in shapes.values()),
        unused=tuple(sorted(set(places) - {prefix + name for name in shapes})),
        kept_rows=len(weights[WORD_EMBEDDINGS]),
        vocab_size=config.vocab_size,
    )
    return encoder, report


def used_vocabulary(config: XLMRobertaConfig, used: Tensor) -> UsedVocabulary:
    """What is kept in memory of the vocabulary of ``config`` where the token ids ``used`` (any shape) occur."""
    special = [token for token in (config.bos_token_id, config.eos_token_id) if token is not None]
    return UsedVocabulary(used, config.vocab_size, special, config.pad_token_id)


def locate_word_embeddings(folder: Path) -> tuple[Path, str]:
    """The file in ``folder`` that the word embedding table is in, and its name there."""
    places = _places(folder)
    name = _prefix(places, folder) + WORD_EMBEDDINGS
    return places[name], name


def read_part(folder: Path, part: str) -> dict[str, Tensor]:
    """The tensors in ``folder`` whose names begin with ``part``, by the rest of their names, fp32."""
    found: dict[str, Tensor] = {}
    places = {name: path for name, path in _places(folder).items() if name.startswith(part)}
    for path in sorted(set(places.values())):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in places if places[name] == path):
                found[name.removeprefix(part)] = file.get_tensor(name).to(torch.float32, copy=True)
    return found


def base_fingerprint(folder: Path) -> str:
    """What identifies the weights in ``folder``, for the hash of a phase.

    The commit if it is a snapshot of a hub repository, else the SHA-256 over config.json and the
    safetensors. Files are read once per process as long as size and modification time stay.
    """
    if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    digest = hashlib.sha256()
    for path in [folder / "config.json", *_weight_files(folder)]:
        status = path.stat()
        digest.update(f"{path.name} {_hash(path, status.st_size, status.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


_HASHES: dict[tuple[Path, int, int], str] = {}


def _hash(path: Path, size: int, modified: int) -> str:
    key = (path.absolute(), size, modified)
    if key not in _HASHES:
        _HASHES[key] = sha256(path)
    return _HASHES[key]


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the model in ``folder``, sorted."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX)
        files = sorted({folder / str(file) for file in index.get("weight_map", {}).values()})
        raise_if_any(
            Problem(str(file), "missing, though the index names it", remedy="fetch the model again")
            for file in files
            if not file.is_file()
        )
        return files
    pickled = sorted(path.name for path in folder.glob("*.bin"))
    raise UserError(_no_safetensors(str(folder), pickled, f"{folder}-safe"))


def _no_safetensors(where: str, pickled: list[str], copy: str) -> Problem:
    remedy = "name a directory or a hub repository that has model.safetensors"
    if pickled:
        remedy = (
            "convert it, for it may run code when read: python -c 'from transformers import AutoModel; "
            f'AutoModel.from_pretrained("{where}").save_pretrained("{copy}")\', '
            "and copy the tokenizer's files beside it"
        )
    what = "no model.safetensors" + (f", only {listed(pickled, most=3)}" if pickled else "")
    return Problem(where, what, "weights as safetensors", remedy)


def _places(folder: Path) -> dict[str, Path]:
    """Name of each tensor in ``folder`` and the file that it is in."""
    places = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                places.update(dict.fromkeys(file.keys(), path))
        except SafetensorError as error:
            problem = Problem(str(path), f"not safetensors: {error}", remedy="fetch or copy the file again")
            raise UserError(problem) from None
    return places


def _prefix(places: dict[str, Path], folder: Path) -> str:
    """What stands before the encoder's names in the file, such as "roberta."; nothing if nothing is found."""
    found = sorted(name.removesuffix(WORD_EMBEDDINGS) for name in places if name.endswith(WORD_EMBEDDINGS))
    if len(found) > 1:
        problem = Problem(str(folder), f"holds {len(found)} encoders, under {listed(map(repr, found))}", "one encoder")
        raise UserError(problem)
    return found[0] if found else ""


def _check(folder: Path, places: dict[str, Path], prefix: str, shapes: dict[str, list[int]]) -> None:
    """Raise one :class:`UserError` with all tensors that are missing or have another shape."""
    missing = [name for name in shapes if prefix + name not in places]
    other = [
        f"{name} {found}, not {shapes[name]}"
        for name, found in _shapes(places, prefix, [name for name in shapes if name not in missing])
        if found != shapes[name]
    ]
    where, of = str(folder), f"of the encoder's {len(shapes)} tensors"
    remedy = "fetch or export the model again; an encoder is never trained from weights that were not loaded"
    problems = []
    if missing:
        problems.append(Problem(where, f"{len(missing)} {of} are missing: {listed(missing)}", remedy=remedy))
    if other:
        what = f"{len(other)} {of} have another shape than config.json says: {listed(other)}"
        problems.append(Problem(where, what, remedy=remedy))
    raise_if_any(problems)


def _shapes(places: dict[str, Path], prefix: str, names: list[str]) -> Iterator[tuple[str, list[int]]]:
    for path in sorted({places[prefix + name] for name in names}):
        with safe_open(path, framework="pt") as file:
            for name in (name for name in names if places[prefix + name] == path):
                yield name, list(file.get_slice(prefix + name).get_shape())


def _rows(table: Any, kept: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows ``kept`` (K,) sorted of a table on disk, read in chunks: (K, H)."""
    height, width = table.get_shape()
    rows = torch.empty(len(kept), width, dtype=dtype)
    for start in range(0, height, _CHUNK_ROWS):
        first, last = torch.searchsorted(kept, torch.tensor([start, start + _CHUNK_ROWS])).tolist()
        if first < last:
            rows[first:last] = table[start : start + _CHUNK_ROWS][kept[first:last] - start].to(dtype)
    return rows
