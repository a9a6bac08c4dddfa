"""The dual encoder: the loss of a global batch and its gradients do not depend on how it is cut."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from packs import make_batch, make_encoder, make_reference
from torch import Tensor
from torch.nn import functional as F

from xtrain.model import PhaseModel
from xtrain.model.heads import build
from xtrain.model.heads.dual_encoder import DualEncoderHead, in_batch_loss

H = 12


def make_head(seed: int = 0) -> DualEncoderHead:
    torch.manual_seed(seed)
    head = build("answer_retrieval", H, 0, 0.1)
    assert isinstance(head, DualEncoderHead)
    with torch.no_grad():
        head.dense.weight.mul_(20)  # a new head's vectors are nearly alike, and so are losses of a wrong sign
        head.log_scale.fill_(-2.5)  # a scale of 8: at 100 all softmaxes are saturated
    return head.train()


def pairs_batch(count: int, groups: Tensor | None = None, **more: Tensor) -> object:
    batch = make_batch([2] * (2 * count), per_example=[2] * count)
    kind = torch.zeros(count, dtype=torch.long)
    fields = {"kind": kind, "group": torch.arange(count) if groups is None else groups, **more}
    return replace(batch, fields=fields)


def gradients(head: DualEncoderHead) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()
    return found


@pytest.mark.parametrize("cuts", [[10], [4, 6], [1, 3, 2, 3, 1]])
@pytest.mark.parametrize("repeated", [False, True])
def test_the_surrogate_has_the_gradients_of_the_whole_loss(cuts: list[int], repeated: bool) -> None:
    head, count = make_head(), 10
    hidden = torch.randn(2 * count, H, dtype=torch.float32, requires_grad=True)
    groups = torch.tensor([0, 1, 2, 1, 4, 5, 1, 7, 0, 9]) if repeated else torch.arange(count)

    vectors = head(hidden, pairs_batch(count)).view(count, 2, H)
    whole = in_batch_loss(vectors, head.scale(), groups)
    whole.sum().backward()
    expected, expected_hidden = gradients(head), hidden.grad.clone()
    hidden.grad = None

    with torch.no_grad():
        vectors = head(hidden, pairs_batch(count)).view(count, 2, H)
    found = head.contrast(vectors, groups)
    assert torch.allclose(found.loss, whole, atol=1e-6)
    begin = 0
    for size in cuts:
        part = slice(begin, begin + size)
        share = (found.scale_gradient / count).expand(size)
        fields = {"vector_gradient": found.vector_gradient[part], "scale_gradient": share}
        batch = pairs_batch(size, groups[part], **fields)
        head.loss(head(hidden[2 * begin : 2 * (begin + size)], batch), batch).sum().backward()
        begin += size
    for name, value in gradients(head).items():
        assert torch.allclose(value, expected[name], atol=1e-6), name
        assert float(value.abs().max()) > 1e-3, f"{name}: the test says nothing"
    assert torch.allclose(hidden.grad, expected_hidden, atol=1e-6)


def test_the_loss_is_the_cross_entropy_against_all_candidates() -> None:
    vectors = F.normalize(torch.randn(4, 2, H), dim=-1)
    scores = 7.0 * vectors[:, 0] @ vectors[:, 1].T
    expected = F.cross_entropy(scores, torch.arange(4), reduction="none")
    assert torch.allclose(in_batch_loss(vectors, torch.tensor(7.0)), expected)
    # the candidates 1 and 3 are one text: neither is a negative of the other's query
    found = in_batch_loss(vectors, torch.tensor(7.0), torch.tensor([5, 6, 7, 6]))
    for query, others in enumerate([[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3]]):
        one = torch.logsumexp(scores[query, others], 0) - scores[query, query]
        assert float(found[query]) == pytest.approx(float(one), abs=1e-5)


def test_a_batch_without_gradients_has_the_loss_among_its_own_pairs() -> None:
    head = make_head()
    batch = make_batch([3, 2, 2, 4, 2, 2], per_example=[2, 1, 2, 1])
    fields = {"kind": torch.tensor([0, 1, 0, 2]), "group": torch.tensor([1, 0, 2, 3])}
    batch = replace(batch, fields=fields)
    logits = head(torch.randn(6, H), batch)
    pairs = torch.stack([logits[[0, 3]], logits[[1, 4]]], dim=1)  # the pairs are sequences 0, 1 and 3, 4
    expected = in_batch_loss(pairs, head.scale())
    found = head.loss(logits, batch)
    assert torch.allclose(found[[0, 2]], expected)
    assert found[[1, 3]].tolist() == [0.0, 0.0]
    alone = replace(make_batch([3, 2]), fields={"kind": torch.tensor([1, 2]), "group": torch.tensor([0, 3])})
    assert head.loss(head(torch.randn(2, H), alone), alone).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_scale_starts_at_100_and_stays_positive(dtype: torch.dtype) -> None:
    head = build("answer_retrieval", H, 0, 0.0).to(dtype)
    assert isinstance(head, DualEncoderHead)
    assert float(head.scale().detach()) == 100.0
    with torch.no_grad():
        head.log_scale.fill_(-30.0)
    assert 0 < float(head.scale().detach()) < 1e-6
    vectors = head(torch.randn(2, H, dtype=dtype), make_batch([2, 3]))
    assert vectors.dtype == torch.float32
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(2))


def test_vectors_by_example() -> None:
    head = make_head().eval()
    hidden = torch.randn(3, H)
    expected = F.normalize(torch.tanh(hidden @ head.dense.weight.T + head.dense.bias), dim=-1).detach()
    batch = make_batch([2, 2, 2], per_example=[1, 2])
    found = head.predictions(head(hidden, batch), batch)["vectors"]
    assert found.dtype == object
    assert [one.shape for one in found] == [(1, H), (2, H)]
    assert torch.allclose(torch.from_numpy(found[1]), expected[1:], atol=1e-6)
    single = make_batch([2, 2, 2])
    assert head.predictions(head(hidden, single), single)["vectors"].shape == (3, 1, H)


def test_it_trains_in_a_phase_model_and_rests_beside_another_head() -> None:
    heads = {"t": build("answer_retrieval", 16, 0, 0.0), "other": build("classification", 16, 2, 0.0)}
    model = PhaseModel(make_encoder(make_reference()), heads).train()
    batch = replace(make_batch([5, 9, 4, 6], per_example=[2, 2]), fields={"group": torch.tensor([1, 2])})
    loss, vectors = model(batch)
    loss.backward()
    assert vectors.shape == (4, 16)
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    copy.deepcopy(model.heads["t"])  # nothing of the graph is left in it
    model.zero_grad()
    model(make_batch([5, 9], task="other"))[0].backward()
    assert all((p.grad == 0).all() for p in heads["t"].parameters())  # there, and zero
