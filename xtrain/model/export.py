"""An encoder as a directory that Hugging Face's AutoModel reads, with the heads beside it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from xtrain.checkpoints import sync_folder
from xtrain.files import Staging, make_folder, read_json, through, write_json, writing
from xtrain.model.config_file import ARCHITECTURES, EncoderConfig
from xtrain.model.loading import TOKENIZER_FILES
from xtrain.model.tensor_files import TensorFileWriter
from xtrain.model.weight_files import WORD_EMBEDDINGS, checked
from xtrain.model.weight_sources import InMemory, WeightSource

BLOCK = 16 * 2**20
"""Bytes of a tensor that are read and written at once."""

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_HEADS_FILE = "heads.safetensors"
_HEADS_INDEX = "heads.json"
ENCODER_FILES = (_CONFIG, _WEIGHTS, _HEADS_FILE, _HEADS_INDEX)
"""What every exported encoder has; which files of a tokenizer come with them is up to the base."""


@dataclass(frozen=True)
class SavedHead:
    """The head of one task: what it needs to be built again, and its weights."""

    format: str
    """The task's format, for :func:`xtrain.model.heads.build`."""
    labels: tuple[str, ...]
    """The labels in the order of the outputs; empty for multiple choice."""
    weights: Mapping[str, Tensor]
    """By the names of the head's parameters; may read them when they are asked for."""


def save_encoder(
    weights: WeightSource | Mapping[str, Tensor],
    heads: Mapping[str, SavedHead],
    config: EncoderConfig,
    tokenizer_folder: Path,
    out: Path,
    notes: Mapping[str, Any] | None = None,
    staging: Staging | None = None,
) -> None:
    """Write ``out``: config.json, model.safetensors, the tokenizer's files, heads.safetensors and heads.json.

    ``weights`` are all of the encoder's, by checkpoint name ("embeddings.word_embeddings.weight"), with the
    whole vocabulary (see :class:`~xtrain.model.weight_sources.Expanded`); they are written as float32, in pieces
    of :data:`BLOCK` bytes, so that memory depends on what a source needs to read that much and not on the model.
    ``notes`` go to xtrain.json. The directory appears whole, and replaces an older one; one process at a time
    may write it. It is made in ``staging`` if there is one, else beside its place. Raises
    :class:`~xtrain.errors.UserError` where it cannot be written, :class:`~xtrain.errors.Fenced` where ``staging`` was
    taken away.
    """
    source = InMemory(weights) if isinstance(weights, Mapping) else weights
    rows = source.shapes[WORD_EMBEDDINGS][0]
    assert rows == config.vocab_size, f"{rows} of {config.vocab_size} word embeddings: expand the vocabulary first"
    temporary = (staging.path if staging else out.parent) / f".{out.name}.{os.getpid()}.tmp"
    make_folder(out.parent)
    try:
        with through(staging), writing(out):
            _remove_left_over(out)
            temporary.mkdir()
            _write_config(config, temporary)
            for name in TOKENIZER_FILES:
                if (tokenizer_folder / name).is_file():
                    shutil.copyfile(tokenizer_folder / name, temporary / name)
            _save(source, temporary / _WEIGHTS)
            _write_heads(heads, temporary)
            if notes is not None:
                write_json(temporary / "xtrain.json", dict(notes))
            _replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_heads(folder: Path) -> dict[str, SavedHead]:
    """The heads that :func:`save_encoder` wrote into ``folder``, by task; none if there is no heads.json."""
    if not (folder / _HEADS_INDEX).is_file():
        return {}
    index, tensors = read_json(folder / _HEADS_INDEX), load_file(folder / _HEADS_FILE)
    for name, value in tensors.items():
        checked(value, name, folder / _HEADS_FILE)
    return {
        task: SavedHead(
            entry["format"],
            tuple(entry["labels"]),
            {name: tensors[f"{task}/{name}"] for name in entry["parameters"]},
        )
        for task, entry in index.items()
    }


def _write_config(config: EncoderConfig, folder: Path) -> None:
    values = {key: value for key, value in config.values.items() if key != "torch_dtype"}  # the older name of dtype
    values |= {"architectures": [ARCHITECTURES[config.model_type]], "dtype": "float32"}
    write_json(folder / _CONFIG, values)


def _write_heads(heads: Mapping[str, SavedHead], folder: Path) -> None:
    _save(_Heads(heads), folder / _HEADS_FILE)
    index = {
        task: {"format": head.format, "labels": list(head.labels), "parameters": sorted(head.weights)}
        for task, head in heads.items()
    }
    write_json(folder / _HEADS_INDEX, index)


class _Heads:
    """The weights of all heads as "TASK/PARAMETER"; one that several tasks share is there for each of them."""

    def __init__(self, heads: Mapping[str, SavedHead]) -> None:
        self.sources = {task: InMemory(head.weights) for task, head in heads.items()}
        self.shapes = {
            f"{task}/{name}": shape for task, source in self.sources.items() for name, shape in source.shapes.items()
        }

    def read(self, name: str, start: int, stop: int) -> Tensor:
        task, _, parameter = name.rpartition("/")
        return self.sources[task].read(parameter, start, stop)


def _save(weights: WeightSource, path: Path) -> None:
    """Write ``weights`` as fp32 in the order of safetensors' own writer, a block at a time."""
    shapes = {name: weights.shapes[name] for name in sorted(weights.shapes)}
    with TensorFileWriter(path, shapes, metadata={"format": "pt"}) as writer:
        for name, shape in shapes.items():
            size, width = prod(shape), shape[-1] if len(shape) > 1 else 1
            step = max(1, BLOCK // 4 // max(1, width)) * max(1, width)  # whole rows
            for start in range(0, max(1, size), step):
                writer.write(name, weights.read(name, start, min(start + step, size)))
        writer.close()


def _remove_left_over(out: Path) -> None:
    """Remove what a process that was killed while it wrote ``out`` has left: as much as a whole model."""
    own = re.compile(rf"\.{re.escape(out.name)}\.\d+\.(tmp|old)")
    for path in out.parent.iterdir():
        if own.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _replace(temporary: Path, out: Path) -> None:
    """Move ``temporary`` to ``out``, its files synced first; what was at ``out`` goes."""
    for path in temporary.iterdir():
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(temporary)
    old = temporary.with_suffix(".old")
    if out.exists():
        os.rename(out, old)
    os.rename(temporary, out)
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)
