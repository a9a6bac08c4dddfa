"""Heads: ragged choices, predictions, names of weights; sentence vectors and the layer they come from."""

from __future__ import annotations

import pytest
import torch
from packs import make_batch, make_encoder, make_reference
from torch.nn import functional as F
from transformers import XLMRobertaConfig
from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaClassificationHead
from whole import split_weights

from xtrain.model import PhaseModel, layer_for_retrieval, sentence_vectors
from xtrain.model.heads import build


def test_choices_of_different_number() -> None:
    head = build("multiple_choice", 8, 0, 0.0)
    batch = make_batch([3, 4, 2, 5, 1, 1], per_example=[2, 3, 1], labels=[1, 0, 0])
    logits = torch.tensor([[0.5], [2.0], [3.0], [-1.0], [4.0], [9.0]], requires_grad=True)
    loss = head.loss(logits, batch)
    expected = [
        F.cross_entropy(torch.tensor([[0.5, 2.0]]), torch.tensor([1])),
        F.cross_entropy(torch.tensor([[3.0, -1.0, 4.0]]), torch.tensor([0])),
        torch.tensor(0.0),
    ]
    assert torch.allclose(loss, torch.stack(expected))
    loss.sum().backward()
    assert logits.grad.isfinite().all()
    found = head.predictions(logits, batch)
    assert found["prediction"].tolist() == [1, 2, 0]
    assert found["scores"].tolist()[0] == [0.5, 2.0, -float("inf")]


def test_classification_predicts_the_likeliest() -> None:
    head = build("classification", 8, 3, 0.0)
    logits = torch.tensor([[1.0, 2.0, 0.0], [5.0, 2.0, 0.0]], dtype=torch.bfloat16)
    found = head.predictions(logits, make_batch([2, 2]))
    assert found["prediction"].tolist() == [1, 0]
    assert found["scores"].dtype == "float32"
    assert head.loss(logits, make_batch([2, 2], labels=[1, 1])).dtype == torch.float32


def test_the_classification_head_is_hugging_faces() -> None:
    config = XLMRobertaConfig(hidden_size=8, num_labels=3, hidden_dropout_prob=0.0)
    theirs, ours = XLMRobertaClassificationHead(config).eval(), build("classification", 8, 3, 0.0).eval()
    ours.load_state_dict(theirs.state_dict())
    hidden = torch.randn(2, 5, 8)
    assert torch.allclose(ours(hidden[:, 0], make_batch([5, 5])), theirs(hidden), atol=1e-6)


def test_new_heads_are_small_and_seeded() -> None:
    torch.manual_seed(0)
    first = build("classification", 64, 3, 0.1)
    torch.manual_seed(0)
    assert torch.equal(first.dense.weight, build("classification", 64, 3, 0.1).dense.weight)
    assert float(first.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert (first.out_proj.bias == 0).all()
    with pytest.raises(AssertionError, match="sentence_retrieval"):
        build("sentence_retrieval", 8, 0, 0.1)


def test_weight_zero_means_no_gradient() -> None:
    model = PhaseModel(make_encoder(make_reference()), {"t": build("classification", 16, 2, 0.1)}).eval()
    gradients = []
    for lengths, weights in (([5, 9], [1.0, 0.0]), ([5], [1.0])):
        batch = make_batch(lengths, weights=weights)
        model.zero_grad()
        loss, _ = model(batch)
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name


def test_the_task_of_the_batch_chooses_the_head() -> None:
    heads = {name: build("classification", 16, 2, 0.0) for name in ("a", "b")}
    model = PhaseModel(make_encoder(make_reference()), heads).train()
    model(make_batch([5, 9], task="b"))[0].backward()
    _, gradients = split_weights({name: p.grad for name, p in model.named_parameters()})
    assert all((value == 0).all() for value in gradients["a"].values())  # there, and zero
    assert all((value != 0).any() for value in gradients["b"].values())


def test_heads_dropout_follows_the_example() -> None:
    model = PhaseModel(make_encoder(make_reference(), dropout=0.0), {"t": build("classification", 16, 2, 0.5)})
    model.train()
    both, one = make_batch([6, 9], indices=[3, 8]), make_batch([9], indices=[8])
    one.input_ids.copy_(both.input_ids[6:])
    results = []
    for batch in (both, one):
        torch.manual_seed(0)
        results.append(model(batch)[1])
    assert torch.allclose(results[0][1:], results[1], atol=1e-5)
    torch.manual_seed(1)
    assert not torch.allclose(model(one)[1], results[1], atol=1e-3)


def test_sentence_vectors_are_means_in_fp32() -> None:
    batch = make_batch([1, 3, 2])
    hidden = torch.randn(6, 4).to(torch.bfloat16)
    found = sentence_vectors(hidden, batch)
    expected = torch.stack([part.float().mean(0) for part in hidden.split([1, 3, 2])])
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("depth", "layer"), [(24, 14), (12, 7), (6, 4), (2, 1), (1, 1), (36, 21)])
def test_layer_for_retrieval(depth: int, layer: int) -> None:
    assert layer_for_retrieval(depth) == layer
