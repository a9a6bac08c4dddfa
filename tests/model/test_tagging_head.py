"""The tagging head: Hugging Face's logits, losses and gradients, and predictions word by word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs import make_batch, make_encoder, make_reference, padded
from torch.nn import functional as F
from transformers import XLMRobertaForTokenClassification
from whole import split_weights

from xtrain.data.batches import PackedBatch
from xtrain.model import PhaseModel
from xtrain.model.heads import build
from xtrain.tasks.formats import IGNORED

NUM_LABELS = 5
TOLERANCE = 1e-5


def tagged(
    lengths: Sequence[int],
    per_example: Sequence[int] | None = None,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
) -> PackedBatch:
    """A batch with random labels at about half of the tokens, at the first of each sequence at least."""
    batch = make_batch(lengths, per_example=per_example, seed=seed, indices=indices, weights=weights)
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(NUM_LABELS, (batch.num_tokens,), generator=generator)
    label[torch.rand(batch.num_tokens, generator=generator) < 0.5] = IGNORED
    label[batch.cu_seqlens[:-1].long()] = 1
    return replace(batch, fields={"label": label})


def models() -> tuple[PhaseModel, XLMRobertaForTokenClassification]:
    """The packed model and Hugging Face's, with equal weights."""
    reference = make_reference()
    config = reference.config
    config.num_labels = NUM_LABELS
    theirs = XLMRobertaForTokenClassification(config)
    theirs.roberta.load_state_dict(reference.state_dict())
    head = build("tagging", 16, NUM_LABELS, 0.1)
    head.load_state_dict(theirs.classifier.state_dict(prefix="classifier."))
    return PhaseModel(make_encoder(reference), {"t": head}).eval(), theirs.eval()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_it_is_hugging_faces(lengths: list[int], seed: int) -> None:
    packed, theirs = models()
    weights = [float((seed >> n) % 2) for n in range(len(lengths))]
    batch = tagged(lengths, seed=seed, weights=weights)
    loss, logits = packed(batch)
    ids, mask = padded(batch)
    rows = theirs(input_ids=ids, attention_mask=mask).logits[mask.bool()]  # (T, C)
    wanted = batch.fields["label"] != IGNORED
    assert (logits - rows[wanted]).abs().max() < TOLERANCE
    losses = F.cross_entropy(rows, batch.fields["label"], reduction="none", ignore_index=IGNORED)
    expected = (losses * torch.tensor(weights).repeat_interleave(torch.tensor(lengths))).sum()
    assert abs(loss.item() - expected.item()) < TOLERANCE * max(1.0, expected.item())
    loss.backward()
    expected.backward()
    encoder, heads = split_weights({name: p.grad for name, p in packed.named_parameters()})
    for name, parameter in theirs.named_parameters():
        gradient = encoder[name.removeprefix("roberta.")] if name.startswith("roberta.") else heads["t"][name]
        scale = max(1.0, float(parameter.grad.abs().max()))
        assert (gradient - parameter.grad).abs().max() < TOLERANCE * scale, name


def test_losses_and_predictions_are_by_example() -> None:
    head = build("tagging", 8, NUM_LABELS, 0.0)
    batch = tagged([4, 3, 6, 2], per_example=[1, 2, 1])
    label = batch.fields["label"]
    hidden = torch.randn(batch.num_tokens, 8)
    logits = head(hidden, batch)
    whole = head.classifier(hidden)
    losses = F.cross_entropy(whole, label, reduction="none", ignore_index=IGNORED)
    found = head.predictions(logits, batch)["prediction"]
    assert head.loss(logits.bfloat16(), batch).dtype == torch.float32
    for example, rows in enumerate((slice(0, 4), slice(4, 13), slice(13, 15))):
        assert torch.allclose(head.loss(logits, batch)[example], losses[rows].sum(), atol=1e-6)
        assert found[example].tolist() == whole[rows].argmax(-1)[label[rows] != IGNORED].tolist()


def test_sentences_of_one_length_stay_apart() -> None:
    head = build("tagging", 8, NUM_LABELS, 0.0)
    batch = replace(make_batch([3, 3]), fields={"label": torch.tensor([IGNORED, 1, IGNORED, IGNORED, 2, IGNORED])})
    found = head.predictions(torch.eye(NUM_LABELS)[:2], batch)["prediction"]
    assert (found.shape, found.dtype) == ((2,), np.dtype(object))
    assert [part.tolist() for part in found] == [[0], [1]]


def test_dropout_follows_the_example() -> None:
    head = build("tagging", 16, NUM_LABELS, 0.5)
    model = PhaseModel(make_encoder(make_reference(), dropout=0.0), {"t": head}).train()
    both, one = tagged([6, 9], indices=[3, 8]), tagged([9], indices=[8])
    one.input_ids.copy_(both.input_ids[6:])
    one.fields["label"].copy_(both.fields["label"][6:])
    results = []
    for batch in (both, one):
        torch.manual_seed(0)
        results.append(model(batch)[1])
    assert torch.allclose(results[0][-len(results[1]) :], results[1], atol=1e-5)
    torch.manual_seed(1)
    assert not torch.allclose(model(one)[1], results[1], atol=1e-3)


def test_it_rests_at_the_cost_of_nothing() -> None:
    head = build("tagging", 8, NUM_LABELS, 0.1)
    idle = head.idle(torch.randn(7, 8))
    idle.backward()
    assert idle.item() == 0
    assert all((p.grad == 0).all() for p in head.parameters())
