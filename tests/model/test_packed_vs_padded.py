"""Packed rows and padded rows: the same logits, losses and gradients, against plain Hugging Face."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs import make_batch, make_encoder, make_reference, padded
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import XLMRobertaModel
from whole import split_weights

from xtrain.data.batches import PackedBatch
from xtrain.model import PhaseModel, sentence_vectors
from xtrain.model.heads import build

TOLERANCE = 1e-5
lengths_of = st.lists(
    st.one_of(st.integers(1, 24), st.integers(1, 512)), min_size=1, max_size=6
)  # short ones are common, as in real text; the longest that XLM-R takes are there


class Padded(nn.Module):
    """Hugging Face's encoder and its classification head's formula, written out on padded rows."""

    def __init__(self, model: XLMRobertaModel, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, batch: PackedBatch) -> Tensor:
        ids, mask = padded(batch)
        first = self.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        return self.head.out_proj(torch.tanh(self.head.dense(first)))


def both(task_format: str, num_labels: int) -> tuple[PhaseModel, Padded]:
    """The packed model, and a padded one with weights of its own that are equal."""
    reference = make_reference()
    torch.manual_seed(1)
    head, other = (build(task_format, 16, num_labels, 0.1) for _ in range(2))
    other.load_state_dict(head.state_dict())
    model = PhaseModel(make_encoder(reference), {"t": head})
    return model.eval(), Padded(reference, other).eval()


def check(packed: PhaseModel, reference: Padded, batch: PackedBatch, expected_loss: Tensor, logits: Tensor) -> None:
    """Both backward passes, then compare logits, loss and every gradient."""
    packed.zero_grad()
    reference.zero_grad()
    loss, found = packed(batch)
    assert (found - logits).abs().max() < TOLERANCE
    assert abs(loss.item() - expected_loss.item()) < TOLERANCE * max(1.0, expected_loss.item())
    loss.backward()
    expected_loss.backward()
    encoder, heads = split_weights({name: p.grad for name, p in packed.named_parameters()})
    for name, parameter in reference.named_parameters():
        part, _, rest = name.partition(".")
        gradient = encoder[rest] if part == "model" else heads["t"][rest]
        scale = max(1.0, float(parameter.grad.abs().max()))
        assert (gradient - parameter.grad).abs().max() < TOLERANCE * scale, name


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(lengths=lengths_of, seed=st.integers(0, 10_000))
def test_classification(lengths: list[int], seed: int) -> None:
    packed, reference = both("classification", 3)
    labels = [(seed + n) % 3 for n in range(len(lengths))]
    weights = [float((seed >> n) % 2) for n in range(len(lengths))]
    batch = make_batch(lengths, labels=labels, weights=weights, seed=seed)
    logits = reference(batch)
    losses = F.cross_entropy(logits, batch.fields["label"], reduction="none")
    check(packed, reference, batch, (losses * batch.weights).sum(), logits)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    groups=st.lists(st.lists(st.integers(1, 200), min_size=2, max_size=5), min_size=1, max_size=3),
    seed=st.integers(0, 10_000),
)
def test_multiple_choice(groups: list[list[int]], seed: int) -> None:
    packed, reference = both("multiple_choice", 0)
    labels = [seed % len(group) for group in groups]
    batch = make_batch(
        [n for group in groups for n in group], per_example=[len(g) for g in groups], labels=labels, seed=seed
    )
    logits = reference(batch)
    scores = logits.squeeze(-1).split([len(group) for group in groups])
    losses = [F.cross_entropy(s[None], torch.tensor([label])) for s, label in zip(scores, labels, strict=True)]
    check(packed, reference, batch, torch.stack(losses).sum(), logits)


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(lengths=lengths_of, seed=st.integers(0, 10_000), depth=st.sampled_from([0, 1, 2]))
def test_sentence_vectors_of_any_block(lengths: list[int], seed: int, depth: int) -> None:
    reference = make_reference().eval()
    encoder = make_encoder(reference).eval()
    batch = make_batch(lengths, seed=seed)
    ids, mask = padded(batch)
    with torch.no_grad():
        hidden = reference(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[depth]
        expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        found = sentence_vectors(encoder(batch, num_layers=depth), batch)
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("lengths", [[1], [512], [1, 1, 1], [16] * 4, [512, 1], list(range(1, 40))])
def test_edges(lengths: list[int]) -> None:
    packed, reference = both("classification", 2)
    batch = make_batch(lengths)
    logits = reference(batch)
    check(packed, reference, batch, F.cross_entropy(logits, batch.fields["label"], reduction="sum"), logits)


def test_a_sequence_does_not_see_its_neighbours() -> None:
    encoder = make_encoder(make_reference()).eval()
    together = make_batch([7, 30, 3])
    alone = make_batch([30], seed=5)
    together.input_ids[7:37] = alone.input_ids
    with torch.no_grad():
        assert torch.allclose(encoder(together)[7:37], encoder(alone), atol=1e-5)


def test_first_tokens_alone_are_those_of_the_full_result() -> None:
    encoder = make_encoder(make_reference(layers=3)).eval()
    batch = make_batch([5, 1, 40, 17])
    with torch.no_grad():
        for depth in (0, 1, 2, 3, None):
            rows = encoder(batch, num_layers=depth)[batch.cu_seqlens[:-1].long()]
            assert torch.allclose(encoder(batch, num_layers=depth, first_only=True), rows, atol=1e-5)


def test_bf16_is_near_fp32() -> None:
    """Not exact: the point is that the 16-bit path has no gross error (masks, scaling, padding slots)."""
    reference = make_reference(hidden=32, layers=3)
    batch = make_batch([9, 60, 33, 1])
    with torch.no_grad():
        exact = make_encoder(reference).eval()(batch)
        rounded = make_encoder(reference).eval().to(torch.bfloat16)(batch).float()
    assert F.cosine_similarity(exact, rounded, dim=-1).min() > 0.995
