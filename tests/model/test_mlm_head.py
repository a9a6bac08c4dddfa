"""The MLM head: Hugging Face's lm_head at the masked positions, its weights, and all ZeRO stages alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packs import VOCAB, make_batch, make_encoder, make_reference, padded
from runs import Nursery
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
from whole import whole_weights

from xtrain.data.batches import PackedBatch
from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.model import PhaseModel, build_head, load_encoder
from xtrain.model.heads.mlm import MlmHead, lm_head_weights
from xtrain.study import Recipe
from xtrain.tasks.formats import IGNORED
from xtrain.training.engine import TrainEngine, initialize_ranks
from xtrain.training.optimizer import build_optimizer, parameter_groups

LENGTHS = [7, 12, 3, 20]
STEPS = 5


def masked(batch: PackedBatch, seed: int = 0, chance: float = 0.3) -> PackedBatch:
    """``batch`` with a label at some tokens; at the first of each example always."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(batch.num_tokens, generator=generator) < chance
    chosen[batch.cu_seqlens[:-1].long()] = True
    label = torch.where(chosen, torch.randint(4, VOCAB, chosen.shape, generator=generator), IGNORED)
    return replace(batch, fields={"label": label})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model as transformers saves it, with every parameter drawn."""
    config = XLMRobertaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = XLMRobertaForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and LayerNorm, which start at 0 and 1
                parameter.add_(torch.randn_like(parameter) * 0.2)
    path = tmp_path_factory.mktemp("mlm") / "model"
    model.save_pretrained(path)
    return path


def ours(folder: Path) -> PhaseModel:
    encoder, _ = load_encoder(folder, torch.float32)
    head = build_head("mlm", 16, 0, 0.1, vocab_size=VOCAB, layer_norm_eps=1e-5)
    weights = lm_head_weights(folder)
    assert weights is not None
    head.load_state_dict(weights)  # strict: every parameter, and no other
    return PhaseModel(encoder, {"t": head}).eval()


def theirs(folder: Path, batch: PackedBatch) -> tuple[XLMRobertaForMaskedLM, Tensor]:
    """The model of transformers, and its logits for the tokens of ``batch``, (T, V)."""
    model = XLMRobertaForMaskedLM.from_pretrained(folder).eval()
    ids, mask = padded(batch)
    return model, model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


def test_loss_and_predictions_are_those_of_transformers(folder: Path) -> None:
    batch = masked(make_batch(LENGTHS, weights=[1, 1, 0, 1]))
    model, label = ours(folder), batch.fields["label"]
    loss, found = model(batch)
    _, logits = theirs(folder, batch)
    expected = F.cross_entropy(logits, label, ignore_index=IGNORED, reduction="none")  # (T,), 0 where not masked
    chosen = label != IGNORED
    assert found.shape == (int(chosen.sum()), 2)
    torch.testing.assert_close(found[:, 0], expected[chosen], rtol=1e-5, atol=1e-5)
    assert found[:, 1].tolist() == logits.argmax(1)[chosen].tolist()
    sums = torch.stack([part.sum() for part in expected.split(LENGTHS)])
    head = model.heads["t"]
    assert isinstance(head, MlmHead)
    torch.testing.assert_close(head.loss(found, batch), sums, rtol=1e-5, atol=1e-5)
    assert loss.item() == pytest.approx((sums * batch.weights).sum().item(), rel=1e-5)
    predictions = head.predictions(found, batch)
    for e, (right, likeliest) in enumerate(zip(label.split(LENGTHS), logits.argmax(1).split(LENGTHS), strict=True)):
        places = right != IGNORED
        assert predictions["label"][e].tolist() == right[places].tolist()
        assert predictions["prediction"][e].tolist() == likeliest[places].tolist()
    np.testing.assert_allclose(predictions["loss"], sums.detach().numpy(), rtol=1e-5)


def test_gradients_are_those_of_transformers(folder: Path) -> None:
    """Of the head, and of the embeddings through both of their uses."""
    batch = masked(make_batch(LENGTHS))
    model = ours(folder)
    model(batch)[0].backward()
    reference, logits = theirs(folder, batch)
    F.cross_entropy(logits, batch.fields["label"], ignore_index=IGNORED, reduction="sum").backward()
    pairs = {
        "embeddings": (
            model.encoder.model.embeddings.word_embeddings,
            reference.roberta.embeddings.word_embeddings,
        ),
        "dense": (model.heads["t"].dense, reference.lm_head.dense),
        "norm": (model.heads["t"].layer_norm, reference.lm_head.layer_norm),
    }
    for name, (mine, other) in pairs.items():
        torch.testing.assert_close(mine.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(model.heads["t"].decoder.bias.grad, reference.lm_head.bias.grad, rtol=1e-4, atol=1e-5)


def test_examples_of_the_same_number_of_masked_tokens_stay_apart() -> None:
    """numpy makes a matrix of arrays of one length, unless it is kept from it."""
    batch = masked(make_batch([4, 4, 4]), chance=0.0)  # the first token of each
    model = PhaseModel(make_encoder(make_reference()), {"t": build_head("mlm", 16, 0, 0.0, vocab_size=VOCAB)}).eval()
    found = model.head("t").predictions(model(batch)[1], batch)
    assert found["prediction"].shape == found["label"].shape == (3,)
    assert [len(part) for part in found["label"]] == [1, 1, 1]


def test_a_resting_head_has_zeros_for_gradients() -> None:
    model = PhaseModel(
        make_encoder(make_reference()),
        {"t": build_head("mlm", 16, 0, 0.1, vocab_size=VOCAB), "u": build_head("classification", 16, 3, 0.1)},
    ).train()
    loss, _ = model(make_batch(LENGTHS, task="u"))
    loss.backward()
    for name, parameter in model.heads["t"].named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_the_bias_of_the_vocabulary_is_not_decayed() -> None:
    head = build_head("mlm", 16, 0, 0.1, vocab_size=VOCAB)
    decayed, plain = parameter_groups(head, 0.01)
    assert [p.shape for p in decayed["params"]] == [(16, 16)]
    assert sorted(p.numel() for p in plain["params"]) == [16, 16, 16, VOCAB]


def test_checkpoints_without_a_tied_head_have_none(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert lm_head_weights(tiny_model) is None
    weights = load_file(folder / "model.safetensors")
    untied = {**weights, "lm_head.decoder.weight": torch.zeros(VOCAB, 16)}
    save_file(untied, tmp_path / "model.safetensors")
    assert lm_head_weights(tmp_path) is None
    save_file({k: v for k, v in weights.items() if k != "lm_head.bias"}, tmp_path / "model.safetensors")
    assert lm_head_weights(tmp_path) is None


# Under DeepSpeed: this file is also what each rank runs.


def test_zero_stages_on_two_ranks_give_the_losses_of_plain_torch(tmp_path: Path, nursery: Nursery) -> None:
    """Both tasks in turn: the losses and the final weights; and the loss falls."""
    nursery.work(__file__, 2, tmp_path, tmp_path)
    plain = train_plainly()
    for stage in (2, 3):
        found = json.loads((tmp_path / f"zero-{stage}.json").read_text())
        assert found["losses"] == pytest.approx(plain["losses"], abs=1e-5), stage
        for name, value in plain["weights"].items():
            if not name.endswith("key.bias"):  # its gradient is 0 but for rounding, of which Adam makes whole steps
                assert found["weights"][name] == pytest.approx(value, rel=1e-4, abs=1e-4), (stage, name)
    first, *_, last = plain["losses"]  # of the same batch, before training and after
    assert last < 0.9 * first


RECIPE = Recipe(learning_rate=1e-2, max_grad_norm=1.0)


def make_model() -> PhaseModel:
    torch.manual_seed(0)
    heads = {"t": build_head("mlm", 16, 0, 0.0, vocab_size=VOCAB), "u": build_head("classification", 16, 3, 0.0)}
    return PhaseModel(make_encoder(make_reference(dropout=0.0)), heads).train()


def train_plainly() -> dict[str, Any]:
    """Some steps in fp32: masked language modelling and classification in turn."""
    model = make_model()
    optimizer, _ = build_optimizer(model, RECIPE)
    losses = [evaluated(model)]
    for step in range(STEPS):
        batches = [batch_of(step, half) for half in range(2)]
        loss = torch.stack([model(batch)[0] for batch in batches]).sum() / sum(units_of(batch) for batch in batches)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return result(model, losses, dict(model.named_parameters()))


def train(stage: int, device: torch.device) -> dict[str, Any]:
    """The same steps under DeepSpeed, on each of two ranks its half of the examples."""
    # as with a large model: nothing is kept whole because it is small, or because it is wanted again soon
    keys = ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size")
    zero = {"stage": stage, **{f"stage3_{key}": 0 for key in keys}}
    config = {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "zero_optimization": zero,
        "gradient_clipping": RECIPE.max_grad_norm, "zero_allow_untested_optimizer": True,
    }  # fmt: skip
    engine = TrainEngine(make_model(), RECIPE, config, device)
    losses = [evaluated(engine.model)]  # before any training step, which would tell DeepSpeed of the table by itself
    for step in range(STEPS):
        batches = [batch_of(step, half) for half in range(2)]
        units = sum(units_of(batch) for batch in batches)
        loss = engine.accumulate(batches[torch.distributed.get_rank()], units, last=True) / units
        engine.step(RECIPE.learning_rate)
        torch.distributed.all_reduce(loss)
        losses.append(loss.item())
    return result(engine.model, losses, whole_weights(engine))


def evaluated(model: torch.nn.Module) -> float:
    """The loss of the first batch, as evaluation computes it: not through DeepSpeed's own forward."""
    with torch.no_grad():
        loss: float = model.eval()(batch_of(0, 0))[0].item()
    model.train()
    return loss


def result(model: torch.nn.Module, losses: list[float], weights: Mapping[str, Tensor]) -> dict[str, Any]:
    checksum = {n: [v.detach().double().sum().item(), v.detach().abs().max().item()] for n, v in weights.items()}
    return {"losses": [*losses, evaluated(model)], "weights": checksum}


def batch_of(step: int, half: int) -> PackedBatch:
    """A half of the global batch of a step: masked language modelling on even steps, classification on odd."""
    lengths = [[7, 12], [3, 20]][half]
    if step % 2:
        return make_batch(lengths, task="u", labels=[0, 2], seed=10 * step + half)
    return masked(make_batch(lengths, task="t", seed=half), seed=half)  # the same text each time: it is learnt


def units_of(batch: PackedBatch) -> int:
    label = batch.fields["label"]
    return int((label != IGNORED).sum())


def main() -> None:
    ranks = from_environment()
    device = initialize_ranks(ranks, training=True)
    torch.set_num_threads(1)
    for stage in (2, 3):
        found = train(stage, device)
        if ranks.is_first:
            (Path(sys.argv[1]) / f"zero-{stage}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    run_rank(main)
