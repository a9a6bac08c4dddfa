"""``config.json`` of a model's folder: the one reader of it, and the table of all that counts in it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xtrain.errors import Problem, UserError, listed, nearest, raise_if_any
from xtrain.files import read_json

ARCHITECTURES = {  # model_type: its class in transformers; all have the same tensors and arithmetic
    "xlm-roberta": "XLMRobertaModel",
    "roberta": "RobertaModel",
    "camembert": "CamembertModel",
}
ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish")
QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Keys under which a quantised model says what was done to its weights."""
UNQUANTISED = "take the unquantised model (the repository that this one was made from), or save it as bfloat16 first"


@dataclass(frozen=True)
class EncoderConfig:
    """What of a ``config.json`` an encoder is built and run by; every value is checked."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int
    hidden_act: str
    layer_norm_eps: float
    hidden_dropout_prob: float
    attention_probs_dropout_prob: float
    values: Mapping[str, Any] = field(repr=False, compare=False, default_factory=dict)
    """The whole file, for the export."""

    @property
    def max_length(self) -> int:
        """The most tokens that a sequence can have: position rows up to the padding index are not used."""
        return self.max_position_embeddings - self.pad_token_id - 1

    @classmethod
    def of(cls, values: object, where: str) -> EncoderConfig:
        """``values`` as ``where`` holds them; raises one :class:`UserError` with all that is wrong."""
        if not isinstance(values, Mapping):
            raise UserError(Problem(where, f"holds {as_json(values)}, not an object with keys", "{...}", _FETCH))
        raise_if_any(_quantised(values, where))
        if values.get("model_type") not in list(ARCHITECTURES):  # of another model nothing else would be worth saying
            raise UserError(_other_model(values, where))
        raise_if_any(problem for name, key in _KEYS.items() for problem in key.problems(name, values, where))
        names = [item.name for item in dataclasses.fields(cls) if item.name != "values"]
        found = {name: _KEYS[name].convert(values.get(name, _KEYS[name].default)) for name in names}
        config = cls(**found, values=values)
        raise_if_any(_together(config, where))
        return config


def read_config(folder: Path) -> EncoderConfig:
    """The configuration in ``folder``; a :class:`UserError` if it is missing, broken, or says what cannot be."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            Problem(str(folder), "has no config.json", "a model of XLM-R's shape in the format of transformers", _FETCH)
        )
    return EncoderConfig.of(read_json(path), str(path))


_FETCH = "fetch the model's config.json again, or mend it by hand"
_MISSING = object()


class _Key(NamedTuple):
    """What a key may hold."""

    allowed: str
    fits: Callable[[Any], bool]
    default: Any = _MISSING
    convert: Callable[[Any], Any] = lambda value: value

    def problems(self, name: str, values: Mapping[str, Any], where: str) -> list[Problem]:
        value = values.get(name, self.default)
        if value is _MISSING:
            return [Problem(f"{where}: {name}", "missing", self.allowed, _FETCH)]
        if name in values and not self.fits(value):
            return [Problem(f"{where}: {name}", f"{as_json(value)} is not allowed", self.allowed, _FETCH)]
        return []


def _whole(low: int, high: int, default: Any = _MISSING) -> _Key:
    return _Key(
        f"a whole number from {low:,} to {high:,}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        default,
    )


def _number(allowed: str, fits: Callable[[float], bool]) -> _Key:
    return _Key(
        allowed,
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and fits(value),
        convert=float,
    )


def _one_of(*choices: Any, default: Any = _MISSING) -> _Key:
    allowed = listed(map(as_json, choices))
    return _Key(allowed, lambda value: any(type(value) is type(one) and value == one for one in choices), default)


def as_json(value: object) -> str:
    """``value`` as a message quotes it, cut at 80 characters."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


_PROBABILITY = _number("a number from 0 to less than 1", lambda value: 0 <= value < 1)
_KEYS: dict[str, _Key] = {
    "model_type": _one_of(*ARCHITECTURES),
    "vocab_size": _whole(1, 2**24 - 1),  # a token's number has to be exact in fp32
    "hidden_size": _whole(1, 2**16),
    "num_hidden_layers": _whole(1, 1000),
    "num_attention_heads": _whole(1, 2**16),
    "intermediate_size": _whole(1, 2**20),
    "max_position_embeddings": _whole(1, 2**20),
    "type_vocab_size": _whole(1, 2**16),
    "pad_token_id": _whole(0, 2**24 - 1),
    "bos_token_id": _whole(0, 2**24 - 1, default=0),
    "eos_token_id": _whole(0, 2**24 - 1, default=2),
    "hidden_act": _one_of(*ACTIVATIONS),
    "layer_norm_eps": _number("a number above 0 and at most 0.01", lambda value: 0 < value <= 0.01),
    "hidden_dropout_prob": _PROBABILITY,
    "attention_probs_dropout_prob": _PROBABILITY,
    "position_embedding_type": _one_of("absolute", default="absolute"),  # the newest transformers has no other
    "is_decoder": _one_of(False, default=False),
    "add_cross_attention": _one_of(False, default=False),
}
READ_KEYS = tuple(_KEYS)
"""What is read of the file; all else in it is only handed on."""


def _quantised(values: Mapping[str, Any], where: str) -> list[Problem]:
    found = [key for key in QUANTISED if values.get(key) is not None]
    problems = []
    for key in found:
        table = values[key] if isinstance(values[key], Mapping) else {}
        method = table.get("quant_method") or table.get("quant_library") or table.get("quant_type") or table.get("mode")
        what = f"the weights are quantised ({method if isinstance(method, str) else as_json(values[key])})"
        problems.append(Problem(f"{where}: {key}", what, "weights as plain floating-point numbers", UNQUANTISED))
    return problems


def _other_model(values: Mapping[str, Any], where: str) -> Problem:
    model_type = values.get("model_type")
    said = "missing" if "model_type" not in values else f"{as_json(model_type)} is not of XLM-R's shape"
    remedy = "choose another base; multilingual ones are FacebookAI/xlm-roberta-base and -large, and docs/encoders.md"
    remedy += " says which multimodal models have a text tower that can be one"
    near = nearest(model_type, ARCHITECTURES) if isinstance(model_type, str) else ""
    return Problem(f"{where}: model_type", said, listed(ARCHITECTURES), f"{near} {remedy}".strip())


def _together(config: EncoderConfig, where: str) -> list[Problem]:
    """What the values allow one by one but not together."""
    problems = []
    if config.hidden_size % config.num_attention_heads:
        what = f"{config.num_attention_heads} heads cannot share hidden_size = {config.hidden_size}"
        allowed = f"a divisor of {config.hidden_size}"
        problems.append(Problem(f"{where}: num_attention_heads", what, allowed, _FETCH))
    for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(config, key) >= config.vocab_size:
            what = f"{getattr(config, key)} is no token: vocab_size = {config.vocab_size}"
            problems.append(Problem(f"{where}: {key}", what, f"0 to {config.vocab_size - 1}", _FETCH))
    if config.max_length < 8:  # the shortest that a recipe may ask for
        what = f"{config.max_position_embeddings} leaves sequences of {max(0, config.max_length)} tokens"
        what += f" (positions up to pad_token_id = {config.pad_token_id} are not used)"
        allowed = f"at least {config.pad_token_id + 9}"
        problems.append(Problem(f"{where}: max_position_embeddings", what, allowed, _FETCH))
    return problems
