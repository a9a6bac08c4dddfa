"""A tiny random XLM-R directory and generated text, for every test that needs a model or words."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

SCRIPTS = {
    "latin": "abcdefghijklmnoprstuvwz",
    "cyrillic": "абвгдежзиклмнопрстуфя",
    "arabic": "ابتثجحدرسشعفقلمنهوي",
    "han": "天地人山水火木金土日月年大小上下中国学生",
}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3, as XLM-R has them; <mask> is the last id


def words(script: str = "latin", count: int = 200, seed: int = 0) -> list[str]:
    """``count`` different made-up words, always the same for the same arguments."""
    rng = np.random.default_rng((seed, sorted(SCRIPTS).index(script)))
    letters = list(SCRIPTS[script])
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(letters, size=int(rng.integers(2, 9))))] = None
    return list(found)


def sentences(count: int, script: str = "latin", seed: int = 0, shortest: int = 3, longest: int = 14) -> list[str]:
    """``count`` sentences of ``shortest`` to ``longest`` made-up words; frequent words as in real text."""
    rng = np.random.default_rng((seed, 1))
    known = words(script)
    chance = 1.0 / np.arange(1, len(known) + 1)
    chance /= chance.sum()
    sizes = rng.integers(shortest, longest + 1, size=count)
    drawn = rng.choice(len(known), size=int(sizes.sum()), p=chance)
    ends = np.cumsum(sizes)
    return [" ".join(known[w] for w in drawn[end - size : end]) + "." for end, size in zip(ends, sizes, strict=True)]


def _pieces(vocab: int) -> list[tuple[str, float]]:
    """``vocab`` unigram pieces with log probabilities: letters first, then frequent words and syllables."""
    counts: Counter[str] = Counter()
    letters: Counter[str] = Counter({"▁": 1000, ".": 500})
    for script in SCRIPTS:
        for sentence in sentences(300, script):
            for word in sentence.split():
                letters.update(word)
                counts["▁" + word.rstrip(".")] += 4
                counts.update(word[i : i + size] for size in (2, 3) for i in range(len(word) - size + 1))
    room = vocab - len(SPECIAL) - 1 - len(letters)
    assert room >= 0, f"vocab must be at least {vocab - room}"
    kept = letters + Counter(dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:room]))
    total = sum(kept.values())
    ordered = sorted(kept.items(), key=lambda kv: (-kv[1], kv[0]))
    return [(name, 0.0) for name in SPECIAL] + [(piece, math.log(n / total)) for piece, n in ordered]


def make_tiny_tokenizer(folder: Path, vocab: int = 400) -> int:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` built as XLM-R's; returns the number of ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(_pieces(vocab), unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*SPECIAL, AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    size: int = tokenizer.get_vocab_size()
    assert [tokenizer.token_to_id(t) for t in (*SPECIAL, "<mask>")] == [0, 1, 2, 3, size - 1]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>"}
    names |= {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>"}
    config = {**names, "model_max_length": 512, "tokenizer_class": "XLMRobertaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return size


def make_tiny_model(
    folder: Path,
    vocab: int = 400,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    *,
    intermediate: int = 64,
    max_positions: int = 514,
    prefix: str = "",
    seed: int = 0,
    dropout: float = 0.1,
) -> Path:
    """Write a Hugging Face XLM-R directory with random fp32 weights into ``folder`` and return it.

    ``vocab`` is exact: the tokenizer has that many ids, ``<mask>`` last. ``prefix`` goes before every
    tensor name ("roberta." is how the real XLM-R is saved). There is no pooler and no LM head. Weights
    are drawn with a standard deviation of 0.1, so that small networks tell their inputs apart.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import XLMRobertaConfig, XLMRobertaModel

    size = make_tiny_tokenizer(folder, vocab)
    config = XLMRobertaConfig(
        vocab_size=size,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        max_position_embeddings=max_positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        architectures=["XLMRobertaModel"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = XLMRobertaModel(config, add_pooling_layer=False)
    config.save_pretrained(folder)
    # the index buffers (position ids) are not weights and are not saved by transformers either
    weights = {prefix + name: value.contiguous() for name, value in model.named_parameters()}
    save_file({k: v.detach() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def pairs(count: int, num_labels: int = 3, seed: int = 0, script: str = "latin") -> Iterator[dict[str, object]]:
    """Classification rows that can be learnt: the first word of ``text_a`` tells the label."""
    rng = np.random.default_rng((seed, 2))
    markers = words(script)[20 : 20 + num_labels]  # rare enough to mean something, but pieces of their own
    labels = rng.integers(num_labels, size=count)
    first, second = sentences(count, script, seed + 1), sentences(count, script, seed + 2)
    for n, label in enumerate(labels):
        yield {"text_a": f"{markers[label]} {first[n]}", "text_b": second[n], "label": f"class{label}"}
