"""Heads: what stands on the encoder for one task, one module for what is alike."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from xtrain.model.heads.base import Head, HeadShape

__all__ = ["HEADS", "Head", "HeadShape", "build"]

HEADS = {
    "classification": "first_token:build_classification",
    "multiple_choice": "first_token:build_multiple_choice",
    "tagging": "tagging:build_tagging",
    "span_qa": "span_qa:build_span_qa",
    "answer_retrieval": "dual_encoder:build_dual_encoder",
    "mlm": "mlm:build_mlm",
}
"""Format -> its module here and its builder (shape) -> head."""


def build(
    task_format: str,
    hidden_size: int,
    num_labels: int,
    dropout: float,
    *,
    vocab_size: int = 0,
    layer_norm_eps: float = 1e-5,
    options: Mapping[str, Any] | None = None,
) -> Head:
    """A new head for a format that is trained; ``num_labels`` counts where the format has labels."""
    assert task_format in HEADS, f"no head for format {task_format!r}"
    module, _, function = HEADS[task_format].partition(":")
    builder = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    shape = HeadShape(hidden_size, num_labels, dropout, vocab_size, layer_norm_eps, options or {})
    head: Head = builder(shape)
    return head
