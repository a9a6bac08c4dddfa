"""The span head: logits and loss are Hugging Face's, and the n best spans those of a plain search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import make_batch, make_encoder, make_reference
from torch.nn import functional as F
from transformers import XLMRobertaForQuestionAnswering

from xtrain.data.batches import PackedBatch
from xtrain.model import PhaseModel
from xtrain.model.heads import build

OPTIONS = {"num_best": 4, "max_answer": 6}


def batch_of(lengths: list[int], per_example: list[int] | None = None, question: int = 3, seed: int = 0) -> PackedBatch:
    """Windows of ``lengths`` tokens: ``question`` of the question, then the context, then ``</s>``.

    Tokens of the context stand for two characters each; a third of them begins no answer here, as where
    another window has more context.
    """
    rng = np.random.default_rng(seed)
    batch = make_batch(lengths, per_example=per_example)
    begin, end, place = [], [], 0
    for length in lengths:
        inner = length - question - 1
        assert inner > 0
        places = place + 2 * np.arange(inner)
        begin += [-1] * question + np.where(rng.random(inner) < 0.3, -1, places).tolist() + [-1]
        end += [-1] * question + (places + 2).tolist() + [-1]
        place += int(rng.integers(1, 2 * inner + 1))
    starts = [int(rng.integers(0, length)) for length in lengths]
    fields = {
        "char_begin": begin,
        "char_end": end,
        "start": starts,
        "end": [int(rng.integers(start, length)) for start, length in zip(starts, lengths, strict=True)],
    }
    return replace(batch, fields={name: torch.tensor(values) for name, values in fields.items()})


def plain_search(
    logits: torch.Tensor, batch: PackedBatch, num_best: int, max_answer: int
) -> list[tuple[list[tuple[float, int, int]], float]]:
    """For each example its spans as (score, begin, end), best first, and its score of no answer."""
    values, bounds = logits.tolist(), batch.cu_seqlens.tolist()
    begin, end = batch.fields["char_begin"].tolist(), batch.fields["char_end"].tolist()
    found = []
    for first, last in zip(batch.example_offsets.tolist(), batch.example_offsets.tolist()[1:], strict=False):
        best: dict[tuple[int, int], float] = {}
        nulls = []
        for low, high in zip(bounds[first:last], bounds[first + 1 : last + 1], strict=True):
            nulls.append(values[low][0] + values[low][1])
            starts = sorted((t for t in range(low, high) if begin[t] >= 0), key=lambda t: -values[t][0])
            ends = sorted((t for t in range(low, high) if end[t] >= 0), key=lambda t: -values[t][1])
            for s in starts[:num_best]:
                for e in ends[:num_best]:
                    if s <= e < s + max_answer:
                        span = (begin[s], end[e])
                        best[span] = max(best.get(span, -np.inf), values[s][0] + values[e][1])
        ranked = sorted(((score, *span) for span, score in best.items()), reverse=True)
        found.append((ranked, min(nulls)))
    return found


def test_logits_and_loss_are_hugging_faces() -> None:
    encoder = make_reference(dropout=0.0)
    theirs = XLMRobertaForQuestionAnswering(encoder.config).eval()
    theirs.roberta.load_state_dict(encoder.state_dict())
    head = build("span_qa", 16, 0, 0.0)
    head.load_state_dict(theirs.qa_outputs.state_dict(prefix="qa_outputs."))
    model = PhaseModel(make_encoder(encoder), {"t": head}).eval()
    batch = batch_of([9, 14, 6])
    loss, logits = model(batch)
    expected = []
    for number, ids in enumerate(batch.input_ids.split([9, 14, 6])):
        start, end = (batch.fields[name][number : number + 1] for name in ("start", "end"))
        out = theirs(ids[None], start_positions=start, end_positions=end)
        low = int(batch.cu_seqlens[number])
        mine = logits[low : low + len(ids)]
        assert torch.allclose(mine, torch.stack([out.start_logits[0], out.end_logits[0]], dim=-1), atol=1e-5)
        expected.append(out.loss)
    assert torch.allclose(head.loss(logits, batch), torch.stack(expected), atol=1e-5)
    assert torch.allclose(loss, torch.stack(expected).sum(), atol=1e-4)
    loss.backward()
    sum(expected).backward()
    assert torch.allclose(head.qa_outputs.weight.grad, theirs.qa_outputs.weight.grad, atol=1e-5)


def test_the_loss_of_an_example_is_the_sum_over_its_windows() -> None:
    batch = batch_of([9, 14, 6], per_example=[2, 1])
    logits = torch.randn(29, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = build("span_qa", 8, 0, 0.0).loss(logits, batch)
    each = []
    for number, rows in enumerate(logits.split([9, 14, 6])):
        parts = [F.cross_entropy(rows[:, n], batch.fields[side][number]) for n, side in enumerate(("start", "end"))]
        each.append(sum(parts) / 2)
    assert torch.allclose(loss, torch.stack([each[0] + each[1], each[2]]), atol=1e-6)
    loss.sum().backward()
    assert logits.grad.isfinite().all()
    assert build("span_qa", 8, 0, 0.0).loss(logits.to(torch.bfloat16), batch).dtype == torch.float32


@settings(max_examples=60)
@given(
    groups=st.lists(st.lists(st.integers(5, 24), min_size=1, max_size=3), min_size=1, max_size=4),
    num_best=st.integers(1, 8),
    max_answer=st.integers(1, 12),
    seed=st.integers(0, 10_000),
)
def test_the_n_best_are_those_of_a_plain_search(
    groups: list[list[int]], num_best: int, max_answer: int, seed: int
) -> None:
    batch = batch_of([n for group in groups for n in group], [len(group) for group in groups], seed=seed)
    head = build("span_qa", 8, 0, 0.0, options={"num_best": num_best, "max_answer": max_answer})
    logits = torch.randn(batch.num_tokens, 2, generator=torch.Generator().manual_seed(seed))
    found = head.predictions(logits, batch)
    for number, (ranked, null) in enumerate(plain_search(logits, batch, num_best, max_answer)):
        kept = ranked[: 2 * num_best]
        assert found["spans"][number].shape == (len(kept), 2)
        assert found["spans"][number].tolist() == [[begin, end] for _, begin, end in kept]
        assert found["span_scores"][number] == pytest.approx([score for score, _, _ in kept], abs=1e-5)
        assert found["no_answer_score"][number] == pytest.approx(null, abs=1e-5)


def test_predictions_can_be_put_together() -> None:
    batch = batch_of([9, 9], per_example=[1, 1])  # equally many spans: no array of three dimensions
    found = build("span_qa", 8, 0, 0.0, options=OPTIONS).predictions(torch.zeros(18, 2), batch)
    assert found["spans"].shape == found["span_scores"].shape == found["no_answer_score"].shape == (2,)
    assert found["spans"].dtype == object
    assert np.concatenate([found["spans"], found["spans"]]).shape == (4,)


def test_an_example_without_a_span() -> None:
    batch = batch_of([9, 9])
    batch.fields["char_begin"][:9] = -1
    found = build("span_qa", 8, 0, 0.0).predictions(torch.randn(18, 2), batch)
    assert found["spans"][0].shape == (0, 2)
    assert found["span_scores"][0].shape == (0,)
    assert len(found["spans"][1]) > 0


def test_a_task_at_rest_touches_every_weight() -> None:
    head = build("span_qa", 8, 0, 0.0)
    head.idle(torch.randn(3, 8)).backward()
    assert all((parameter.grad == 0).all() for parameter in head.parameters())
    assert dict(head.named_parameters()).keys() == {"qa_outputs.weight", "qa_outputs.bias"}
