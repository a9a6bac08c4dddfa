"""Random multimodal models in the layouts that their authors published, and what each makes of a text by itself.

Weights have the original names, the parts that are no text tower included; configurations have the original keys.
Dimension letters: B sequences, L tokens of the longest, H hidden.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import make_tiny_tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import AltCLIPConfig, AltCLIPModel, XLMRobertaConfig, XLMRobertaModel

VOCAB, HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 400, 32, 3, 4, 48, 130
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
}
Weights = dict[str, Tensor]


@dataclass
class Model:
    """A model as it is published."""

    config: dict[str, Any]
    weights: Weights
    hidden: Callable[[Tensor, Tensor], list[Tensor]]
    """Its own hidden states, (B, L, H) each, after the embeddings and each block, of token ids and mask (B, L)."""
    file: str = "pytorch_model.bin"
    config_file: str = "config.json"
    tower: str = ""
    """What stands before the tower's names."""

    def write(self, folder: Path, *, tokenizer: bool = True, safe: bool = False, legacy: bool = False) -> Path:
        """Its folder; ``safe``: as safetensors; ``legacy``: as torch saved before 1.6."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.config_file).write_text(json.dumps(self.config))
        if safe:
            kept = {name: value.clone().contiguous() for name, value in self.weights.items()}
            save_file(kept, folder / "model.safetensors", {"format": "pt"})
        else:
            torch.save(self.weights, folder / self.file, _use_new_zipfile_serialization=not legacy)
        if tokenizer:
            make_tiny_tokenizer(folder, VOCAB)
        return folder


def drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Weights:
    """Random weights, large enough for tokens to matter; those of norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * 0.1
        found[name] = 1 + value if "LayerNorm.weight" in name else value
    return found


def _redrawn(model: torch.nn.Module, seed: int) -> None:
    """A module of transformers with weights of :func:`drawn`."""
    weights = drawn({name: tuple(value.shape) for name, value in model.named_parameters()}, seed)
    model.load_state_dict(weights, strict=False)


def altclip() -> Model:
    """AltCLIP by transformers' own module; older files have the positions' numbers in them, and a pooler."""
    config = AltCLIPConfig(
        text_config={**SIZES, "project_dim": 24, "layer_norm_eps": 1e-5, "attn_implementation": "eager"},
        vision_config={"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 8, "patch_size": 4},
        projection_dim=24,
    )  # fmt: skip
    model = AltCLIPModel(config).eval()
    _redrawn(model, 1)
    # what transformers calls layers now is layer in every file, as its own save_pretrained has it
    weights = {name.replace(".encoder.layers.", ".encoder.layer."): value for name, value in model.state_dict().items()}
    weights["text_model.roberta.embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    weights |= drawn({"text_model.roberta.pooler.dense.weight": (HIDDEN, HIDDEN)}, 2)
    encoder = model.text_model.roberta

    def hidden(ids: Tensor, mask: Tensor) -> list[Tensor]:
        return list(encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states)

    return Model(config.to_dict(), weights, hidden, tower="text_model.roberta.")


def _xlm_r(seed: int, *, pooler: bool) -> tuple[Weights, Callable[[Tensor, Tensor], list[Tensor]]]:
    config = XLMRobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5, attn_implementation="eager")
    model = XLMRobertaModel(config, add_pooling_layer=pooler).eval()
    _redrawn(model, seed)

    def hidden(ids: Tensor, mask: Tensor) -> list[Tensor]:
        return list(model(ids, attention_mask=mask, output_hidden_states=True).hidden_states)

    weights = {**model.state_dict(), "embeddings.position_ids": torch.arange(POSITIONS)[None]}
    return weights, hidden


M_CLIP_CONFIG = {  # of M-CLIP/XLM-Roberta-Large-Vit-B-32
    "architectures": ["MultilingualCLIP"],
    "modelBase": "xlm-roberta-large",
    "model_type": "M-CLIP",
    "numDims": 512,
    "torch_dtype": "float32",
    "transformerDimensions": 1024,
    "transformers_version": "4.8.1",
}


def m_clip() -> Model:
    """M-CLIP: transformers' XLM-R with its pooler, and a linear map."""
    tower, hidden = _xlm_r(3, pooler=True)
    weights = {f"transformer.{name}": value for name, value in tower.items()}
    weights |= drawn({"LinearTransformation.weight": (24, HIDDEN), "LinearTransformation.bias": (24,)}, 4)
    return Model(dict(M_CLIP_CONFIG), weights, hidden, tower="transformer.")


def open_clip_config(base: str, vision: Mapping[str, Any], **text: Any) -> dict[str, Any]:
    model = {"embed_dim": 512, "vision_cfg": dict(vision)}
    names = {"hf_model_name": base, "hf_tokenizer_name": base, **text}
    return {"model_cfg": {**model, "text_cfg": names}, "preprocess_cfg": {"mean": [0.48], "std": [0.26]}}


B_32 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
H_14 = {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}


def open_clip() -> Model:
    """LAION's xlm-roberta-base-ViT-B-32: transformers' XLM-R without a pooler, a projection of two layers, a ViT."""
    tower, hidden = _xlm_r(5, pooler=False)
    weights = {f"text.transformer.{name}": value for name, value in tower.items()}
    others: dict[str, tuple[int, ...]] = {
        "text.proj.0.weight": (28, HIDDEN),
        "text.proj.2.weight": (24, 28),
        "visual.class_embedding": (16,),
        "visual.positional_embedding": (5, 16),
        "visual.proj": (16, 24),
        "visual.conv1.weight": (16, 3, 4, 4),
        "visual.ln_pre.weight": (16,),
        "visual.transformer.resblocks.0.attn.in_proj_weight": (48, 16),
        "logit_scale": (),
    }
    config = open_clip_config("xlm-roberta-base", B_32, proj="mlp", pooler_type="mean_pooler")
    return Model(
        config, weights | drawn(others, 6), hidden, "open_clip_pytorch_model.bin", "open_clip_config.json",
        "text.transformer.",
    )  # fmt: skip


def _block(prefix: str, attention: str, output: str, forward: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a block, whose three parts are named ``attention``, ``output`` and ``forward``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query", "key", "value"):
        shapes |= {
            f"{prefix}{attention}.{name}.weight": (HIDDEN, HIDDEN),
            f"{prefix}{attention}.{name}.bias": (HIDDEN,),
        }
    for part, rows, columns in (
        (f"{output}.dense", HIDDEN, HIDDEN),
        (f"{forward}intermediate.dense", INNER, HIDDEN),
        (f"{forward}output.dense", HIDDEN, INNER),
    ):
        shapes |= {f"{prefix}{part}.weight": (rows, columns), f"{prefix}{part}.bias": (rows,)}
    for part in (f"{output}.LayerNorm", f"{forward}output.LayerNorm"):
        shapes |= {f"{prefix}{part}.weight": (HIDDEN,), f"{prefix}{part}.bias": (HIDDEN,)}
    return shapes


def _embeddings(prefix: str, token_types: str, kinds: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}word_embeddings.weight": (VOCAB, HIDDEN),
        f"{prefix}position_embeddings.weight": (POSITIONS, HIDDEN),
        f"{prefix}{token_types}.weight": (kinds, HIDDEN),
        f"{prefix}LayerNorm.weight": (HIDDEN,),
        f"{prefix}LayerNorm.bias": (HIDDEN,),
    }


UC2_CONFIG = {  # of UC2's config/uc2-base.json
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "model_type": "xlm-roberta",
    "output_past": True,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "vocab_size": 250002,
}


def uc2(block_eps: float = 1e-5) -> Model:
    """UC2: XLM-R with token types of its own and an image's embeddings beside, by the arithmetic written out here.

    ``block_eps`` is the epsilon of the blocks' norms: IGLUE's code takes the configuration's, UC2's own has 1e-12.
    """
    shapes = _embeddings("roberta.embeddings.", "new_token_type_embeddings", 2)
    for number in range(LAYERS):
        shapes |= _block(f"roberta.encoder.layer.{number}.", "attention.self", "attention.output", "")
    others: dict[str, tuple[int, ...]] = {
        "roberta.img_embeddings.img_linear.weight": (HIDDEN, 20),
        "roberta.img_embeddings.img_linear.bias": (HIDDEN,),
        "roberta.img_embeddings.img_layer_norm.weight": (HIDDEN,),
        "roberta.img_embeddings.pos_linear.weight": (HIDDEN, 7),
        "roberta.img_embeddings.mask_embedding.weight": (2, 20),
        "roberta.img_embeddings.LayerNorm.weight": (HIDDEN,),
        "roberta.pooler.dense.weight": (HIDDEN, HIDDEN),
        "cls.bias": (VOCAB,),
        "cls.dense.weight": (HIDDEN, HIDDEN),
        "cls.layer_norm.weight": (HIDDEN,),
        "vis_cls.dense.weight": (HIDDEN, HIDDEN),
        "vis_cls.decoder.weight": (9, HIDDEN),
        "feat_regress.net.0.weight": (HIDDEN, HIDDEN),
        "feat_regress.bias": (20,),
        "region_classifier.net.3.weight": (11, HIDDEN),
        "itm_output.weight": (2, HIDDEN),
        "itm_output.bias": (2,),
    }
    weights = drawn(shapes | others, 7)
    weights["cls.decoder.weight"] = weights["roberta.embeddings.word_embeddings.weight"]  # one tensor, saved twice

    def hidden(ids: Tensor, mask: Tensor) -> list[Tensor]:
        part = _under(weights, "roberta.")
        states = [_embed(part, ids, "new_token_type_embeddings", 1e-5)]
        for number in range(LAYERS):
            block = _under(part, f"encoder.layer.{number}.")
            own = _under(block, "attention.")
            between = _attend(states[-1], mask, _under(own, "self."), _under(own, "output."), block_eps)
            states.append(_forward(between, block, block_eps))
        return states

    return Model(UC2_CONFIG | SIZES, weights, hidden, "uc2.pt", tower="roberta.")


_EVEN, _ODD, _BOTH = list(range(0, 24, 2)), list(range(1, 24, 2)), list(range(24))
XUNITER_CONFIG: dict[str, Any] = {  # of VOLTA's config/ctrl_xuniter_base.json
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "num_attention_heads": 12,
    "pooler_size": 1024,
    "type_vocab_size": 1,
    "vocab_size": 250002,
    "pad_token_id": 1,
    "bert_model": "xlm-roberta-base",
    "do_lower_case": False,
    "num_locs": 5,
    "add_global_imgfeat": "first",
    "image_embeddings": "uniter",
    "model": "roberta",
    "v_attention_probs_dropout_prob": 0.1,
    "v_hidden_act": "gelu",
    "v_feature_size": 2048,
    "v_hidden_size": 768,
    "v_num_attention_heads": 12,
    "v_intermediate_size": 3072,
    "fusion_method": "mul",
    "tt_attn_sublayers": _EVEN,
    "tv_attn_sublayers": _EVEN,
    "vt_attn_sublayers": _EVEN,
    "vv_attn_sublayers": _EVEN,
    "t_ff_sublayers": _ODD,
    "v_ff_sublayers": _ODD,
    "shared_sublayers": _BOTH,
    "single_ln_sublayers": _BOTH,
    "sublayer2attn_hidden_size": {},
    "sublayer2num_attention_heads": {},
    "sublayer2intermediate_size": {},
    "bert_layer2attn_sublayer": {str(n): 2 * n for n in range(12)},
    "bert_layer2ff_sublayer": {str(n): 2 * n + 1 for n in range(12)},
}
VOLTA_UC2_CONFIG = XUNITER_CONFIG | {  # what is other in config/uc2_base.json
    "type_vocab_size": 2,
    "pooler_size": 768,
    "num_locs": 7,
    "add_global_imgfeat": None,
    "image_embeddings": "uc2",
    "layer_norm_eps": 1e-5,
    "fusion_method": "text",
}


def xuniter() -> Model:
    """xUNITER, whose configuration says nothing of epsilons: VOLTA's is 1e-12."""
    return _volta(XUNITER_CONFIG, "token_type_embeddings", 1, 1e-12, 8)


def volta_uc2() -> Model:
    """UC2 as IGLUE gives it out: converted to VOLTA."""
    return _volta(VOLTA_UC2_CONFIG, "new_token_type_embeddings", 2, 1e-5, 9)


def _volta(real: Mapping[str, Any], token_types: str, kinds: int, eps: float, seed: int) -> Model:
    """A model of VOLTA: attention and feed-forward in turn, with the image's modules the same as the text's."""
    config = {**real, **SIZES}
    del config["num_hidden_layers"]
    for key in [key for key in config if key.endswith("_sublayers")]:
        config[key] = [number for number in config[key] if number < 2 * LAYERS]
    shapes = _embeddings("bert.embeddings.", token_types, kinds)
    for number in range(LAYERS):
        for name, shape in _block("", "attention_self", "attention_output", "").items():
            place = 2 * number + (not name.startswith("attention"))
            shapes[f"bert.encoder.layer.{place}.{name}"] = shape
    others: dict[str, tuple[int, ...]] = {
        "bert.embeddings.image_embeddings.weight": (HIDDEN, 20),
        "bert.embeddings.image_location_embeddings.weight": (HIDDEN, 5),
        "bert.embeddings.image_token_type_embeddings.weight": (kinds, HIDDEN),
        "bert.embeddings.image_layer_norm.weight": (HIDDEN,),
        "bert.embeddings.image_location_layer_norm.bias": (HIDDEN,),
        "bert.embeddings.v_LayerNorm.weight": (HIDDEN,),
        "bert.t_pooler.dense.weight": (24, HIDDEN),
        "bert.v_pooler.dense.weight": (24, HIDDEN),
        "cls.predictions.bias": (VOCAB,),
        "cls.predictions.transform.dense.weight": (HIDDEN, HIDDEN),
        "cls.bi_seq_relationship.weight": (2, 24),
        "cls.imagePredictions.decoder_dict.0.weight": (11, HIDDEN),
    }
    weights = drawn(shapes | others, seed)
    for name in list(shapes):
        if ".layer." in name:  # the image's, one tensor with the text's
            block, _, rest = name.rpartition(".encoder.layer.")
            number, part, module, kind = rest.split(".")
            weights[f"{block}.encoder.layer.{number}.{part}.v_{module}.{kind}"] = weights[name]

    def hidden(ids: Tensor, mask: Tensor) -> list[Tensor]:
        part = _under(weights, "bert.")
        states = [_embed(part, ids, token_types, eps)]
        between = states[0]
        for number in range(2 * LAYERS):
            own = _under(part, f"encoder.layer.{number}.")
            if number % 2 == 0:
                attention, output = _under(own, "attention_self."), _under(own, "attention_output.")
                between = _attend(between, mask, attention, output, eps)
            else:
                between = _forward(between, own, eps)
                states.append(between)
        return states

    return Model(config, weights, hidden, "pytorch_model_9.bin", tower="bert.")


def _under(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _embed(weights: Weights, ids: Tensor, token_types: str, eps: float) -> Tensor:
    """Word, position (counted from behind the padding's 1) and the text's token type, normalised: (B, L, H)."""
    positions = (ids != 1).long().cumsum(1) * (ids != 1) + 1
    part = _under(weights, "embeddings.")
    rows = part["word_embeddings.weight"][ids] + part["position_embeddings.weight"][positions]
    return _norm(rows + part[f"{token_types}.weight"][0], _under(part, "LayerNorm."), eps)


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _norm(x: Tensor, weights: Weights, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps)
    return centred / scale * weights["weight"] + weights["bias"]


def _attend(x: Tensor, mask: Tensor, attention: Weights, output: Weights, eps: float) -> Tensor:
    heads = [_linear(x, attention, n).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in ("query", "key", "value")]
    scores = heads[0] @ heads[1].transpose(-1, -2) / math.sqrt(HIDDEN // HEADS)
    chances = torch.softmax(scores + (1 - mask[:, None, None].float()) * -10000.0, -1)
    context = (chances @ heads[2]).transpose(1, 2).flatten(-2)
    return _norm(_linear(context, output, "dense") + x, _under(output, "LayerNorm."), eps)


def _forward(x: Tensor, block: Weights, eps: float) -> Tensor:
    inner = F.gelu(_linear(x, block, "intermediate.dense"))
    return _norm(_linear(inner, block, "output.dense") + x, _under(block, "output.LayerNorm."), eps)


MODELS: dict[str, Callable[[], Model]] = {
    made.__name__: made for made in (altclip, m_clip, open_clip, uc2, xuniter, volta_uc2)
}
