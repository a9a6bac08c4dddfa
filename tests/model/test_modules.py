"""The modules that hold the encoder's weights, beside Hugging Face's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from packs import make_batch, make_encoder, make_reference, our_config, padded
from toy import PROJECT, SETTINGS
from transformers import XLMRobertaConfig, XLMRobertaModel

from xtrain.model.encoder import Encoder
from xtrain.model.weight_files import encoder_shapes


def test_names_shapes_and_order_of_the_weights() -> None:
    """The order too: gradients are summed, and shards laid out, in the order of the parameters."""
    config = XLMRobertaConfig(
        vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        max_position_embeddings=17, type_vocab_size=2, pad_token_id=1,
    )  # fmt: skip
    with torch.device("meta"):
        theirs = XLMRobertaModel(config, add_pooling_layer=False)
    ours = Encoder(our_config(config)).model
    assert [(name, p.shape) for name, p in ours.named_parameters()] == [
        (name, p.shape) for name, p in theirs.named_parameters()
    ]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    shapes = encoder_shapes(our_config(config))
    assert list(shapes.items()) == [(name, tuple(value.shape)) for name, value in theirs.state_dict().items()]
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        assert getattr(ours.embeddings, name).padding_idx == getattr(theirs.embeddings, name).padding_idx, name


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_configured_activation(activation: str) -> None:
    reference = make_reference().eval()
    reference.config.hidden_act = activation
    as_configured = XLMRobertaModel(reference.config, add_pooling_layer=False).eval()
    as_configured.load_state_dict(reference.state_dict())
    batch = make_batch([5, 9, 3])
    ids, mask = padded(batch)
    with torch.no_grad():
        theirs = as_configured(ids, attention_mask=mask).last_hidden_state[mask.bool()]
        ours = make_encoder(reference).eval()(batch)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_rank_does_not_import_hugging_faces_modules() -> None:
    """They take as long as all the rest."""
    code = "import sys, xtrain.phase; sys.exit('transformers.modeling_utils' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=SETTINGS).returncode == 0
