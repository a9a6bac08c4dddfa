"""An encoder as a directory that Hugging Face's AutoModel reads, with the heads beside it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import XLMRobertaConfig

from xtrain.files import make_folder, read_json, write_json, writing
from xtrain.model.loading import ARCHITECTURES, TOKENIZER_FILES, WORD_EMBEDDINGS

_HEADS_FILE = "heads.safetensors"
_HEADS_INDEX = "heads.json"


@dataclass(frozen=True)
class SavedHead:
    """The head of one task: what it needs to be built again, and its weights."""

    format: str
    """The task's format, for :func:`xtrain.model.heads.build`."""
    labels: tuple[str, ...]
    """The labels in the order of the outputs; empty for multiple choice."""
    weights: Mapping[str, Tensor]
    """By the names of the head's parameters."""


def save_encoder(
    weights: Mapping[str, Tensor],
    heads: Mapping[str, SavedHead],
    config: XLMRobertaConfig,
    tokenizer_folder: Path,
    out: Path,
) -> None:
    """Write ``out``: config.json, model.safetensors, the tokenizer's files, heads.safetensors and heads.json.

    ``weights`` are all of the encoder's, by checkpoint name ("embeddings.word_embeddings.weight"), with the
    whole vocabulary; they are written as float32. The directory appears whole, and replaces an older
    one. Raises :class:`~xtrain.errors.UserError` where it cannot be written.
    """
    rows = weights[WORD_EMBEDDINGS].shape[0]
    assert rows == config.vocab_size, f"{rows} of {config.vocab_size} word embeddings: expand the vocabulary first"
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    make_folder(out.parent)
    try:
        with writing(out):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            _write_config(config, temporary)
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).is_file():
                    shutil.copyfile(tokenizer_folder / name, temporary / name)
            _save(weights, temporary / "model.safetensors")
            _write_heads(heads, temporary)
            _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_heads(folder: Path) -> dict[str, SavedHead]:
    """The heads that :func:`save_encoder` wrote into ``folder``, by task; none if there is no heads.json."""
    if not (folder / _HEADS_INDEX).is_file():
        return {}
    index, tensors = read_json(folder / _HEADS_INDEX), load_file(folder / _HEADS_FILE)
    return {
        task: SavedHead(
            entry["format"],
            tuple(entry["labels"]),
            {name: tensors[f"{task}/{name}"] for name in entry["parameters"]},
        )
        for task, entry in index.items()
    }


def _write_config(config: XLMRobertaConfig, folder: Path) -> None:
    values = config.to_diff_dict()
    values |= {"architectures": [ARCHITECTURES[config.model_type]], "dtype": "float32"}
    write_json(folder / "config.json", values)


def _write_heads(heads: Mapping[str, SavedHead], folder: Path) -> None:
    tensors = {f"{task}/{name}": value for task, head in heads.items() for name, value in head.weights.items()}
    index = {
        task: {"format": head.format, "labels": list(head.labels), "parameters": sorted(head.weights)}
        for task, head in heads.items()
    }
    _save(tensors, folder / _HEADS_FILE)
    write_json(folder / _HEADS_INDEX, index)


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write ``weights`` as fp32; raises OSError, as other writing does, where safetensors has its own."""
    plain = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in weights.items()}
    try:
        save_file(plain, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _replace(temporary: Path, out: Path) -> None:
    """Move ``temporary`` to ``out``, its files synced first; what was at ``out`` goes."""
    for path in temporary.iterdir():
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    old = temporary.with_suffix(".old")
    if out.exists():
        os.rename(out, old)
    os.rename(temporary, out)
    shutil.rmtree(old, ignore_errors=True)
