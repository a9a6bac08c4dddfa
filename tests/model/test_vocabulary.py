"""The used rows alone, trained and expanded, are the full table, to the rounding of fp32."""

from __future__ import annotations

import pytest
import torch
from packs import VOCAB, make_batch, make_reference, our_config
from torch.nn import functional as F

from xtrain.model import PhaseModel, UsedVocabulary, untouched_decay
from xtrain.model.encoder import Encoder
from xtrain.model.heads import build

WORDS = "model.embeddings.word_embeddings.weight"


def test_ids_and_rows() -> None:
    used = UsedVocabulary(torch.tensor([[9, 5], [5, 30]]), 40, special=[0, 2], padding_id=1)
    assert used.kept.tolist() == [0, 1, 2, 5, 9, 30]
    assert (len(used), used.padding_row) == (6, 1)
    assert used.mapped(torch.tensor([30, 5, 0]), used.remap).tolist() == [5, 3, 0]
    with pytest.raises(AssertionError, match="kept vocabulary"):
        used.mapped(torch.tensor([5, 6]), used.remap)
    with pytest.raises(AssertionError, match="outside the vocabulary"):
        UsedVocabulary(torch.tensor([40]), 40, special=[], padding_id=1)


def test_the_padding_row_need_not_be_row_1() -> None:
    used = UsedVocabulary(torch.tensor([3]), 10, special=[], padding_id=7)
    assert used.kept.tolist() == [3, 7]
    assert used.padding_row == 1


def test_some_rows_are_expanded_as_all_are() -> None:
    used = UsedVocabulary(torch.tensor([3, 5, 30]), 40, special=[0, 2], padding_id=1)
    trained, before = torch.randn(6, 4), torch.randn(40, 4)
    full = used.expand(trained, before, 0.9)
    assert torch.equal(full[used.kept], trained)
    assert torch.equal(full[6:30], before[6:30] * 0.9)
    for first, last in ((0, 40), (0, 1), (4, 29), (5, 31), (31, 40), (7, 7)):
        begin, end = used.within(first, last)
        assert used.kept[begin:end].tolist() == [row for row in used.kept.tolist() if first <= row < last]
        assert torch.equal(used.expand(trained[begin:end], before[first:last], 0.9, first), full[first:last])
    with pytest.raises(AssertionError):
        used.expand(trained[1:], before)
    with pytest.raises(AssertionError, match="rows to 41 of 40"):
        used.expand(trained, before, first=1)


def train(vocabulary: UsedVocabulary | None, rates: list[float], weight_decay: float) -> PhaseModel:
    """Some AdamW steps on batches that use a few of the vocabulary's tokens; dropout is on."""
    reference = make_reference()
    encoder = Encoder(our_config(reference.config), vocabulary)
    weights = {name: value.detach().clone() for name, value in reference.state_dict().items()}
    if vocabulary is not None:
        key = WORDS.removeprefix("model.")
        weights[key] = weights[key][vocabulary.kept]
    encoder.model.load_state_dict(weights, assign=True)
    torch.manual_seed(4)
    model = PhaseModel(encoder.requires_grad_(True), {"t": build("classification", 16, 3, 0.1)}).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, eps=1e-8, weight_decay=weight_decay)
    for step, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"] = rate
        torch.manual_seed(step)
        loss, _ = model(restricted(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


def restricted(step: int) -> object:
    """A batch of step ``step`` that uses the 12 tokens 0, 3, 6, ... alone; not each step uses every one."""
    batch = make_batch([3, 8, 5], labels=[0, 1, 2], seed=step)
    batch.input_ids.remainder_(12).mul_(3)
    return batch


def test_training_the_used_rows_is_training_all_rows() -> None:
    rates = [0.01 * min(n / 3, (14 - n) / 11) for n in range(1, 14)]  # warm-up and decay
    used = UsedVocabulary(torch.arange(12) * 3, VOCAB, special=[0, 2], padding_id=1)
    assert len(used) == 14
    full, short = train(None, rates, 0.1), train(used, rates, 0.1)
    start = make_reference().state_dict()["embeddings.word_embeddings.weight"]
    for name, value in full.encoder.state_dict().items():
        found = short.encoder.state_dict()[name]
        if name == WORDS:
            found = used.expand(found, start, untouched_decay(rates, 0.1))
            assert (value - start).abs().max() > 1e-3  # something was learnt, and decayed
            moved = (value - start).abs().amax(1) > 1e-4
            assert moved.sum() == VOCAB - 1  # all but the padding row, which is zero from the start
        assert (found - value).abs().max() < 1e-6, name
    for name, value in full.heads.state_dict().items():
        assert (short.heads.state_dict()[name] - value).abs().max() < 1e-6, name


def test_decay_is_the_product_over_the_steps() -> None:
    rates = [1e-3, 5e-4, 0.0]
    assert untouched_decay(rates, 0.01) == pytest.approx((1 - 1e-5) * (1 - 5e-6), rel=1e-15)
    assert untouched_decay(rates, 0.0) == 1.0
    row = torch.nn.Parameter(torch.full((4,), 3.0))
    optimizer = torch.optim.AdamW([row], lr=1.0, weight_decay=0.01)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        row.grad = torch.zeros(4)
        optimizer.step()
    assert torch.allclose(row.detach(), torch.tensor(3.0) * untouched_decay(rates, 0.01), rtol=1e-7)


def test_no_gradient_for_the_padding_row() -> None:
    used = UsedVocabulary(torch.arange(12) * 3, VOCAB, special=[0, 2], padding_id=1)
    reference = make_reference()
    encoder = Encoder(our_config(reference.config), used)
    weights = dict(reference.state_dict())
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][used.kept]
    encoder.model.load_state_dict(weights, assign=True)
    batch = make_batch([4, 4])
    batch.input_ids.copy_(torch.tensor([0, 1, 3, 2] * 2))  # a text that spells out the padding token
    F.mse_loss(encoder.requires_grad_(True)(batch), torch.ones(8, 16)).backward()
    gradient = encoder.model.embeddings.word_embeddings.weight.grad
    assert (gradient[used.padding_row] == 0).all()
    assert (gradient[used.remap[3]] != 0).any()
