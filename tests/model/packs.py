"""Random packed batches, the same sequences padded, and random encoders, for the model's tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from xtrain.data.batches import PackedBatch
from xtrain.model.config_file import EncoderConfig
from xtrain.model.encoder import Encoder

VOCAB = 64


def make_batch(
    lengths: Sequence[int],
    *,
    per_example: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    indices: Sequence[int] | None = None,
    task: str = "t",
    seed: int = 0,
) -> PackedBatch:
    """Sequences of ``lengths`` random tokens; example e is ``per_example[e]`` of them (one by default)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor(lengths)
    groups = torch.ones_like(sizes) if per_example is None else torch.tensor(per_example)
    assert int(groups.sum()) == len(sizes)
    num = len(groups)
    zero = torch.zeros(1, dtype=torch.long)
    return PackedBatch(
        task=task,
        input_ids=torch.randint(4, VOCAB, (int(sizes.sum()),), generator=generator),
        positions=torch.cat([torch.arange(n) for n in lengths]),
        cu_seqlens=torch.cat([zero, sizes.cumsum(0)]).to(torch.int32),
        max_seqlen=max(lengths),
        example_offsets=torch.cat([zero, groups.cumsum(0)]),
        fields={"label": torch.zeros(num, dtype=torch.long) if labels is None else torch.tensor(labels)},
        weights=torch.ones(num) if weights is None else torch.tensor(weights),
        indices=torch.arange(num) if indices is None else torch.tensor(indices),
    )


def padded(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """The sequences of ``batch`` as (B, L) ids, padded with XLM-R's 1, and their attention mask."""
    rows = batch.input_ids.split(batch.cu_seqlens.long().diff().tolist())
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=1)
    lengths = batch.cu_seqlens.long().diff()
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def make_reference(hidden: int = 16, layers: int = 2, heads: int = 2, dropout: float = 0.1) -> XLMRobertaModel:
    """A plain Hugging Face encoder with eager attention; weights large enough for tokens to matter."""
    config = XLMRobertaConfig(
        vocab_size=VOCAB, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=2 * hidden, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, initializer_range=0.2,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = XLMRobertaModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and LayerNorm, which start at 0 and 1
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def our_config(theirs: XLMRobertaConfig) -> EncoderConfig:
    """Of Hugging Face's configuration what a model's ``config.json`` would give us."""
    return EncoderConfig.of(theirs.to_dict(), "config.json")


def make_encoder(reference: XLMRobertaModel, dropout: float | None = None) -> Encoder:
    """Our encoder with its own copy of the reference's weights."""
    encoder = Encoder(our_config(reference.config), dropout=dropout)
    weights = {name: value.detach().clone() for name, value in reference.state_dict().items()}
    encoder.model.load_state_dict(weights, assign=True)
    return encoder.requires_grad_(True)
