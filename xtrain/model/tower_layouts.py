"""The text towers that are XLM-R inside a multimodal model: a row for each layout, of its configuration and names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from xtrain.errors import Problem, UserError, listed
from xtrain.model.config_file import QUANTISED, READ_KEYS, as_json

OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIG_FILES = ("config.json", OPEN_CLIP_CONFIG)
"""The files that say of a model what it is."""
HUB_TOWERS = (
    "BAAI/AltCLIP",
    "M-CLIP/XLM-Roberta-Large-Vit-B-32",
    "M-CLIP/XLM-Roberta-Large-Vit-L-14",
    "M-CLIP/XLM-Roberta-Large-Vit-B-16Plus",
    "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
    "laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k",
)
"""Repositories of the hub with such a tower."""

_ALIKE: dict[str, Any] = {  # of XLM-R's base and large
    "vocab_size": 250002,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
XLM_R: dict[str, dict[str, Any]] = {
    "xlm-roberta-base": {
        **_ALIKE,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "xlm-roberta-large": {
        **_ALIKE,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
"""What the configurations of the text-only models hold, for those that give nothing but one of their names."""
Values = Mapping[str, Any]
_TAKE = f"take one of {listed(HUB_TOWERS)}"


@dataclass(frozen=True)
class Layout:
    """How one kind of multimodal model holds its text tower."""

    name: str
    prefix: str
    """What stands before the names of the tower's tensors."""
    left_out: re.Pattern[str]
    """Whole names of the tensors that are no part of the tower; what is neither is an error."""
    configure: Callable[[Values, str], dict[str, Any]]
    """The keys of an XLM-R's config.json, from the model's own and the path that it is in. Raises :class:`UserError`
    where it names another text model, or blocks that are not XLM-R's."""
    rename: Callable[[str], str] = lambda name: name
    """XLM-R's name of a tensor, from the one behind the prefix; empty if it has none."""
    marker: str = ""
    """A tensor that makes it this layout, where the configuration alone could be an ordinary XLM-R's."""
    section: str = ""
    """The key of the configuration under which the tower's own are, for messages."""
    token_types: bool = False
    """Whether token types may have several rows, of which the first is that of text."""


def layout_of(file: str, values: object) -> Layout | None:
    """The layout of a model whose configuration in ``file`` holds ``values``; None if it is no text tower's.

    Where the layout has a marker, the weights have the last word.
    """
    if not isinstance(values, Mapping):
        return None
    if file == OPEN_CLIP_CONFIG:
        return OPEN_CLIP
    if values.get("model_type") == "altclip":
        return ALTCLIP
    if values.get("model_type") == "M-CLIP":
        return M_CLIP
    if "tt_attn_sublayers" in values:
        return VOLTA
    if values.get("model_type") == "xlm-roberta" and values.get("type_vocab_size") == 2:
        return UC2
    return None


def text_only(values: Values) -> str:
    """The hub's id of the text-only XLM-R that a configuration names; where it names none, of the base model."""
    model = values.get("model_cfg")
    text = model.get("text_cfg") if isinstance(model, Mapping) else None
    name = text.get("hf_model_name") if isinstance(text, Mapping) else values.get("modelBase", values.get("bert_model"))
    known = str(name).removeprefix("FacebookAI/")
    return f"FacebookAI/{known if known in XLM_R else 'xlm-roberta-base'}"


def _altclip(values: Values, where: str) -> dict[str, Any]:
    text = values.get("text_config")
    if not isinstance(text, Mapping):
        what = "missing" if text is None else f"{as_json(text)} is not allowed"
        raise UserError(Problem(f"{where}: text_config", what, "an object with the sizes of the text tower", _TAKE))
    # what transformers leaves out when it saves is what its AltCLIPTextConfig says without it
    defaults = {**XLM_R["xlm-roberta-large"], "attention_probs_dropout_prob": 0.0}
    return defaults | _read(text) | _quantised(values)


def _m_clip(values: Values, where: str) -> dict[str, Any]:
    return {**_named(values.get("modelBase"), f"{where}: modelBase", "missing"), **_quantised(values)}


def _open_clip(values: Values, where: str) -> dict[str, Any]:
    model = values.get("model_cfg", values)
    text = model.get("text_cfg") if isinstance(model, Mapping) else None
    name = text.get("hf_model_name") if isinstance(text, Mapping) else None
    return _named(name, f"{where}: hf_model_name", "missing: the text tower is one of CLIP's own and no XLM-R")


def _uc2(values: Values, where: str) -> dict[str, Any]:
    return {**_read(values), "type_vocab_size": 1, **_quantised(values)}


def _volta(values: Values, where: str) -> dict[str, Any]:
    """Of xUNITER and of UC2 as VOLTA has it. An epsilon that is not given is 1e-12 there, and not XLM-R's 1e-5."""
    if values.get("model") != "roberta":
        said = as_json(values["model"]) if "model" in values else "missing, which means BERT"
        raise UserError(Problem(f"{where}: model", f"{said}: the text model is no XLM-R", "'roberta'", _VOLTA_TAKE))
    if "bert_model" in values:
        _named(values["bert_model"], f"{where}: bert_model", "", _VOLTA_TAKE)
    if values.get("image_embeddings") not in ("uniter", "uc2"):
        what = f"{as_json(values.get('image_embeddings'))} is a model that was not tried"
        raise UserError(Problem(f"{where}: image_embeddings", what, "'uniter', 'uc2'", _VOLTA_TAKE))
    attention, forward = values.get("tt_attn_sublayers"), values.get("t_ff_sublayers")
    count = len(attention) if isinstance(attention, list) else 0
    for key, found, first in (("tt_attn_sublayers", attention, 0), ("t_ff_sublayers", forward, 1)):
        wanted = list(range(first, 2 * count, 2))
        if not count or found != wanted:
            what = f"{as_json(found)}: text does not pass through blocks of attention and feed-forward in turn"
            allowed = as_json(wanted) if count else "[0, 2, 4, ...]"
            raise UserError(Problem(f"{where}: {key}", what, allowed, _VOLTA_TAKE))
    for key in ("sublayer2attn_hidden_size", "sublayer2num_attention_heads", "sublayer2intermediate_size"):
        if values.get(key):
            what = f"{as_json(values[key])}: blocks of several sizes"
            raise UserError(Problem(f"{where}: {key}", what, "{}", _VOLTA_TAKE))
    found = {**_read(values), "num_hidden_layers": count, "type_vocab_size": 1}
    return {"layer_norm_eps": 1e-12, **found, **_quantised(values)}


def _named(name: object, where: str, missing: str, remedy: str = _TAKE) -> dict[str, Any]:
    """The configuration of the text-only model called ``name``."""
    known = name.removeprefix("FacebookAI/") if isinstance(name, str) else ""
    if known not in XLM_R:
        what = missing if name is None else f"{as_json(name)} is no XLM-R"
        raise UserError(Problem(where, what, listed(map(repr, XLM_R)), remedy))
    return dict(XLM_R[known])


def _read(values: Values) -> dict[str, Any]:
    """What counts of ``values``, but for the name of the model: that is XLM-R from here on."""
    return {key: values[key] for key in READ_KEYS if key in values and key != "model_type"}


def _quantised(values: Values) -> dict[str, Any]:
    """What says that the weights are quantised, so that it is refused as of any base."""
    return {key: values[key] for key in QUANTISED if key in values}


def _uc2_name(name: str) -> str:
    return name.replace("embeddings.new_token_type_embeddings.", "embeddings.token_type_embeddings.")


def _volta_name(name: str) -> str:
    """Block i's attention is number 2i there, and what follows it number 2i + 1."""
    block = re.fullmatch(r"encoder\.layer\.(\d+)\.(\w+)\.(.+)", name)
    if block is None:
        return _uc2_name(name)
    number, part, rest = int(block[1]), block[2], block[3]
    parts = _FORWARD if number % 2 else _ATTENTION
    return f"encoder.layer.{number // 2}.{parts[part]}.{rest}" if part in parts else ""


_ATTENTION = {"attention_self": "attention.self", "attention_output": "attention.output"}
_FORWARD = {"intermediate": "intermediate", "output": "output"}
_VOLTA_TAKE = "take xUNITER or UC2 of IGLUE's checkpoints, with VOLTA's ctrl_xuniter_base.json or uc2_base.json"
_ANY = r"(\..+)?"  # the rest of a name, if there is one

ALTCLIP = Layout(
    "AltCLIP",
    "text_model.roberta.",
    re.compile(
        rf"text_model\.(pre_LN|transformation|roberta\.pooler){_ANY}|text_model\.roberta\.embeddings\.position_ids"
        rf"|(text_projection|visual_projection|vision_model){_ANY}|logit_scale"
    ),
    _altclip,
    section="text_config",
)
M_CLIP = Layout(
    "M-CLIP",
    "transformer.",
    re.compile(rf"(LinearTransformation|transformer\.pooler){_ANY}|transformer\.embeddings\.position_ids"),
    _m_clip,
)
OPEN_CLIP = Layout(
    "open_clip",
    "text.transformer.",
    re.compile(
        rf"(visual|text\.proj|text\.transformer\.pooler){_ANY}|text\.transformer\.embeddings\.position_ids"
        r"|logit_scale|logit_bias"
    ),
    _open_clip,
)
UC2 = Layout(
    "UC2",
    "roberta.",
    re.compile(
        rf"(roberta\.(img_embeddings|pooler)|cls|vis_cls|feat_regress|region_classifier|itm_output){_ANY}"
        r"|roberta\.embeddings\.position_ids"
    ),
    _uc2,
    _uc2_name,
    marker="roberta.embeddings.new_token_type_embeddings.weight",
    token_types=True,
)
VOLTA = Layout(
    "VOLTA",
    "bert.",
    re.compile(
        rf"bert\.embeddings\.(v_\w+|image_\w+|mask_embedding){_ANY}|bert\.embeddings\.position_ids"
        rf"|bert\.encoder\.layer\.\d+\.\w+\.v_\w+{_ANY}|(bert\.(v_embeddings|t_pooler|v_pooler)|cls){_ANY}"
    ),
    _volta,
    _volta_name,
    token_types=True,
)
LAYOUTS = (ALTCLIP, M_CLIP, OPEN_CLIP, UC2, VOLTA)
