"""Which heads a phase has: new ones, and those that several tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xtrain.model import Encoder, Head, build_head
from xtrain.tasks import TaskSpec

MASKED = "mlm"  # the format whose batches are masked, and whose head is tied to the embeddings


def new_head(spec: TaskSpec, encoder: Encoder, dropout: float) -> Head:
    """A new head for ``spec`` on ``encoder``, drawn from torch's default generator."""
    config = encoder.config
    return build_head(
        spec.format, encoder.hidden_size, len(spec.labels), dropout, vocab_size=config.vocab_size,
        layer_norm_eps=config.layer_norm_eps, options=spec.options,
    )  # fmt: skip


def shared_heads(tasks: Sequence[str], specs: Mapping[str, TaskSpec]) -> dict[str, str]:
    """The head of each task, by the name of the first that has it: those with the same labels share one."""
    first: dict[tuple[str, tuple[str, ...]], str] = {}
    return {
        task: first.setdefault((specs[task].format, specs[task].labels), task) if specs[task].labels else task
        for task in tasks
    }
