"""Text towers as bases: each layout against its own arithmetic, and whatever else may lie in such a folder."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import make_batch, padded
from safetensors.torch import load_file
from tiny import make_tiny_model, make_tiny_tokenizer
from towers import (
    B_32,
    H_14,
    LAYERS,
    M_CLIP_CONFIG,
    MODELS,
    SIZES,
    UC2_CONFIG,
    VOLTA_UC2_CONFIG,
    XUNITER_CONFIG,
    Model,
    open_clip_config,
    uc2,
)
from toy import study, write_study
from transformers import AltCLIPConfig, AutoModel

from xtrain.errors import UserError
from xtrain.model import base_fingerprint, build_head, load_encoder, resolve, save_encoder, tower_layouts
from xtrain.model.config_file import EncoderConfig, read_config
from xtrain.model.loading import locate_word_embeddings
from xtrain.model.text_towers import MANIFEST, configured, weight_names
from xtrain.model.weight_files import encoder_shapes, num_parameters
from xtrain.phase.training import _load_base_head
from xtrain.runner import open_study

Change = Callable[[Model], None]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, no hub, and text-only models of the size that tests have."""
    import huggingface_hub

    for name, sizes in tower_layouts.XLM_R.items():
        monkeypatch.setitem(tower_layouts.XLM_R, name, {**sizes, **SIZES})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def difference(folder: Path, model: Model) -> float:
    """The largest between the encoder's hidden states and the model's own, of all blocks, in fp32."""
    batch = make_batch([5, 17, 1, 30])
    ids, mask = padded(batch)
    encoder = load_encoder(folder, torch.float32)[0].eval()
    with torch.no_grad():
        own = model.hidden(ids, mask)
        assert len(own) == LAYERS + 1
        return max(float((encoder(batch, depth) - states[mask.bool()]).abs().max()) for depth, states in enumerate(own))


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states_are_the_model_s_own(
    name: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is published; what is made is a plain XLM-R, whose bytes do not depend on how the weights came."""
    model = MODELS[name]()
    folder = model.write(tmp_path / "published", legacy=name == "uc2")
    made = resolve(str(folder))
    assert difference(made, model) < 1e-5
    assert made.parent == cache / "towers"
    assert read_config(made).model_type == "xlm-roberta"
    assert set(load_file(made / "model.safetensors")) == set(encoder_shapes(read_config(made)))

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in (f"{folder} is of ", f"{5 + 16 * LAYERS} tensors of its text tower kept", "left out: ", "SHA-256 "):
        assert part in said
    assert resolve(str(folder)) == made
    assert capsys.readouterr().err == "", "it was made once"
    safe = resolve(str(model.write(tmp_path / "safe", safe=True)))
    assert safe != made
    assert base_fingerprint(safe) == base_fingerprint(made)


def test_the_epsilon_of_uc2_s_blocks(tmp_path: Path) -> None:
    """UC2's own code has 1e-12 in its blocks whatever its configuration says, IGLUE's takes the configuration's."""
    made = resolve(str(uc2().write(tmp_path / "uc2")))
    assert 1e-6 < difference(made, uc2(block_eps=1e-12)) < 1e-4


def test_all_that_starts_from_a_base_starts_from_a_tower(tmp_path: Path, toy_data: Path) -> None:
    """The study, the used vocabulary, the export: to each it is a plain base."""
    model = MODELS["altclip"]()
    folder = model.write(tmp_path / "altclip")
    path = write_study(tmp_path / "study.toml", study(folder, target=[{"task": "toy"}]))
    job = open_study(path, data_root=toy_data, out=tmp_path / "out")
    (base,) = job.graph.bases.values()
    assert base == resolve(str(folder)) != folder
    batch = make_batch([4, 9])
    encoder, report = load_encoder(base, torch.float32, kept_rows=batch.input_ids)
    assert report.unused == ()
    assert report.kept_rows < report.vocab_size
    with torch.no_grad():
        kept, whole = encoder.eval()(batch), load_encoder(base, torch.float32)[0].eval()(batch)
    assert torch.equal(kept, whole)
    file, name = locate_word_embeddings(base)
    assert torch.equal(load_file(file)[name], model.weights["text_model.roberta.embeddings.word_embeddings.weight"])
    save_encoder(load_file(base / "model.safetensors"), {}, read_config(base), base, tmp_path / "encoder")
    ids, mask = padded(batch)
    theirs = AutoModel.from_pretrained(tmp_path / "encoder", add_pooling_layer=False).eval()
    with torch.no_grad():
        states = theirs(ids, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(whole, states, rtol=0, atol=1e-5)


def test_masked_language_modelling_says_that_it_begins_without_a_head(tmp_path: Path) -> None:
    made = resolve(str(MODELS["uc2"]().write(tmp_path / "uc2")))
    head = build_head("mlm", SIZES["hidden_size"], 0, 0.1, vocab_size=SIZES["vocab_size"])
    before = {name: value.clone() for name, value in head.state_dict().items()}
    assert _load_base_head(head, made) == [
        "the head of the masked language model starts from random weights: the base model has none"
    ]
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


REAL = {  # of the files that their authors published: hidden size, blocks, heads, inner size, epsilon, parameters
    "altclip": (AltCLIPConfig().to_dict(), (1024, 24, 16, 4096, 1e-5), 558_840_832),
    "m_clip": (M_CLIP_CONFIG, (1024, 24, 16, 4096, 1e-5), 558_840_832),
    "open_clip base": (open_clip_config("xlm-roberta-base", B_32, proj="mlp"), (768, 12, 12, 3072, 1e-5), 277_453_056),
    "open_clip large": (open_clip_config("xlm-roberta-large", H_14), (1024, 24, 16, 4096, 1e-5), 558_840_832),
    "uc2": (UC2_CONFIG, (768, 12, 12, 3072, 1e-5), 277_453_056),
    "xuniter": (XUNITER_CONFIG, (768, 12, 12, 3072, 1e-12), 277_453_056),
    "volta uc2": (VOLTA_UC2_CONFIG, (768, 12, 12, 3072, 1e-5), 277_453_056),
}


@pytest.mark.parametrize("name", REAL)
def test_real_configurations(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the sizes as they are
    values, sizes, parameters = REAL[name]
    file = "open_clip_config.json" if name.startswith("open_clip") else "config.json"
    (tmp_path / file).write_text(json.dumps(values))
    tower = configured(tmp_path)
    assert tower is not None
    config = tower.config
    found = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size)
    assert (*found, config.layer_norm_eps) == sizes
    assert (config.vocab_size, config.max_length, config.type_vocab_size) == (250002, 512, 1)
    assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == (1, 0, 2)
    assert num_parameters(encoder_shapes(config)) == parameters
    assert config.attention_probs_dropout_prob == (0 if name == "altclip" else 0.1)


def test_what_transformers_leaves_out_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "altclip", "text_config": {"num_hidden_layers": 5}}')
    tower = configured(tmp_path)
    assert tower is not None
    assert (tower.config.num_hidden_layers, tower.config.attention_probs_dropout_prob) == (5, 0)


# What lies in such a folder and is no text tower of XLM-R.


def configure(**values: Any) -> Change:
    return lambda model: model.config.update(values)


def text_cfg(**values: Any) -> Change:
    return lambda model: model.config["model_cfg"].update(text_cfg=values)


def without(key: str) -> Change:
    return lambda model: model.config.pop(key)


def alone(part: str) -> Change:
    """The tensors of ``part`` and no others."""

    def change(model: Model) -> None:
        model.weights = {name: value for name, value in model.weights.items() if name.startswith(part)}

    return change


def drop(name: str) -> Change:
    return lambda model: model.weights.pop(name)


def add(name: str, value: Any = None) -> Change:
    return lambda model: model.weights.update({name: torch.zeros(3) if value is None else value})


def move(name: str, to: str) -> Change:
    return lambda model: model.weights.update({to: model.weights.pop(name)})


NAN = torch.full((SIZES["hidden_size"],), float("nan"))
REFUSED: list[tuple[str, Change, tuple[str, ...]]] = [
    ("altclip", configure(model_type="altclip_vision_model"), ("model_type: 'altclip_vision_model' is not",)),
    ("altclip", alone("vision_model."), ("no tensor of a text tower", "text_model.roberta.", "here are vision_model")),
    ("altclip", without("text_config"), ("config.json: text_config: missing", "BAAI/AltCLIP")),
    ("altclip", configure(text_config=[]), ("config.json: text_config: [] is not allowed",)),
    ("altclip", configure(text_config={"hidden_size": 0}), ("config.json: text_config: hidden_size: 0", "allowed: ")),
    ("altclip", configure(text_config={**SIZES, "intermediate_size": 64}), ("of another shape", "[48, 32], not [64")),
    ("altclip", configure(quantization_config={"quant_method": "awq"}), ("quantised (awq)", "unquantised")),
    ("altclip", add("text_model.lora.weight"), ("1 tensor of which AltCLIP is not known", "text_model.lora.weight")),
    ("altclip", add("text_model.roberta.embeddings.LayerNorm.bias", NAN), ("LayerNorm.bias: 32 of 32",)),
    ("m_clip", configure(modelBase="sentence-transformers/LaBSE"), ("modelBase: 'sentence-transformers/LaBSE' is no",)),
    ("m_clip", configure(modelBase="bert-base-multilingual-cased"), ("'xlm-roberta-large'", "Vit-L-14")),
    ("m_clip", configure(modelBase=["x"]), ('modelBase: ["x"] is no XLM-R',)),
    ("m_clip", without("modelBase"), ("config.json: modelBase: missing",)),
    ("m_clip", drop("transformer.embeddings.LayerNorm.bias"), ("1 of the text tower's", "embeddings.LayerNorm.bias")),
    ("m_clip", add("transformer.encoder.layer.3.output.dense.bias"), ("has 4 blocks, and ", "says 3", "allowed: 3")),
    ("open_clip", text_cfg(context_length=77, width=512), ("hf_model_name: missing", "CLIP's own", "laion/")),
    ("open_clip", text_cfg(hf_model_name="roberta-base"), ("hf_model_name: 'roberta-base' is no XLM-R",)),
    ("open_clip", text_cfg(hf_model_name="google/mt5-base"), ("hf_model_name: 'google/mt5-base' is no XLM-R",)),
    ("open_clip", lambda model: model.config.clear(), ("hf_model_name: missing",)),
    ("open_clip", alone("visual."), ("no tensor of a text tower", "'text.transformer.'", "here are visual")),
    ("uc2", drop("roberta.encoder.layer.1.attention.self.key.bias"), ("1 of the text tower's", "layer.1.attention")),
    ("uc2", add("roberta.encoder.layer.3.output.dense.bias"), ("has 4 blocks, and ",)),
    ("uc2", add("roberta.embeddings.token_type_embeddings.weight"), ("of which UC2 is not known", "token_type_embed")),
    ("uc2", add("vqa_output.0.weight"), ("vqa_output.0.weight", "allowed: under 'roberta.'", "vis_cls")),
    ("uc2", configure(hidden_act="nonsense"), ("config.json: hidden_act: 'nonsense'",)),
    ("xuniter", drop("bert.encoder.layer.3.intermediate.dense.weight"), ("encoder.layer.1.intermediate.dense.weight",)),
    ("xuniter", add("bert.encoder.layer.6.attention_self.key.bias"), ("has 4 blocks, and ",)),
    ("xuniter", add("bert.encoder.layer.1.attention_self.key.bias"), ("layer.1.attention_self.key.bias", "not known")),
    ("xuniter", add("bert.encoder.layer.0.attention.self.key.bias"), ("layer.0.attention.self.key.bias", "not known")),
    (
        "xuniter",
        move("bert.encoder.layer.0.attention_self.key.bias", "bert.encoder.layer.1.attention_self.key.bias"),
        ("layer.1.attention_self.key.bias", "1 of the text tower's"),
    ),
    ("xuniter", configure(model="bert"), ("config.json: model: 'bert': the text model is no XLM-R", "'roberta'")),
    ("xuniter", without("model"), ("config.json: model: missing, which means BERT",)),
    ("xuniter", configure(bert_model="roberta-base"), ("bert_model: 'roberta-base' is no XLM-R", "IGLUE")),
    ("xuniter", configure(image_embeddings="vilbert"), ("image_embeddings: 'vilbert'", "'uniter', 'uc2'")),
    ("xuniter", configure(tt_attn_sublayers=[0, 1, 4]), ("tt_attn_sublayers: [0, 1, 4]", "allowed: [0, 2, 4]")),
    ("xuniter", configure(tt_attn_sublayers=[]), ("tt_attn_sublayers: []", "[0, 2, 4, ...]")),
    ("xuniter", configure(t_ff_sublayers=[1, 3]), ("t_ff_sublayers: [1, 3]", "allowed: [1, 3, 5]")),
    ("xuniter", configure(sublayer2attn_hidden_size={"0": 16}), ('sublayer2attn_hidden_size: {"0": 16}',)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "parts"), REFUSED, ids=[f"{n[0]}-{n[2][0][:40]}" for n in REFUSED])
def test_something_else_is_refused(name: str, change: Change, parts: tuple[str, ...], tmp_path: Path) -> None:
    model = MODELS[name]()
    change(model)
    folder = model.write(tmp_path / "model")
    with pytest.raises(UserError) as caught:
        resolve(str(folder))
    for part in (str(folder), *parts):
        assert part in str(caught.value), str(caught.value)
    assert "to do:" in str(caught.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


class RunsCode:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path, legacy: bool) -> None:
    model = MODELS["m_clip"]()
    model.weights["transformer.more"] = RunsCode(tmp_path / "ran")  # type: ignore[assignment]
    folder = model.write(tmp_path / "model", legacy=legacy)
    with pytest.raises(UserError, match=r"pytorch_model\.bin: holds more than tensors, and would run code when read: "):
        resolve(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: torch.save({"state_dict": {}, "epoch": 3}, path), "holds state_dict, epoch beside tensors"),
        (lambda path: torch.save([torch.zeros(2)], path), "holds no tensors by name"),
        (lambda path: torch.save({}, path), "holds no tensors by name"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "cannot be read as torch's weights"),
        (lambda path: path.write_bytes(b""), "cannot be read as torch's weights"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
        (lambda path: path.rename(path.with_suffix(".h5")), "has no weights"),
        (
            lambda path: path.rename(path.with_name("a.pt")) and torch.save({}, path.with_name("b.pt")),
            "2 files could be",
        ),
    ],
)
def test_files_that_hold_no_weights(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    folder = MODELS["m_clip"]().write(tmp_path / "model")
    spoil(folder / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        resolve(str(folder))
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "to do:" in str(caught.value)


def test_integers_are_no_weights(tmp_path: Path) -> None:
    model = MODELS["m_clip"]()
    name = "transformer.embeddings.LayerNorm.bias"
    model.weights[name] = model.weights[name].to(torch.int8)
    with pytest.raises(UserError, match=r"no plain floating-point numbers: .*LayerNorm\.bias torch\.int8"):
        resolve(str(model.write(tmp_path / "model")))


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    model = MODELS["uc2"]()
    for name, value in model.weights.items():
        model.weights[name] = value.half()
    made = resolve(str(model.write(tmp_path / "model")))
    table = load_file(made / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(table, model.weights["roberta.embeddings.word_embeddings.weight"].float())


def test_safetensors_go_before_pickles() -> None:
    both = ["a.pt", "config.json", "model.safetensors", "pytorch_model.bin", "sub/model.safetensors"]
    assert weight_names(both, "m") == ["model.safetensors"]
    assert weight_names([*both, "open_clip_model.safetensors"], "m") == ["open_clip_model.safetensors"]
    assert weight_names(["optimizer.pt", "pytorch_model.bin", "x.bin", "y.h5"], "m") == ["pytorch_model.bin"]
    assert weight_names(["training_args.bin", "step_9.pt"], "m") == ["step_9.pt"]
    shards = ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    assert weight_names(shards, "m") == [shards[2], *shards[:2]]


def test_several_files_with_an_index(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = MODELS["m_clip"]()
    whole = model.write(tmp_path / "whole", safe=True)
    folder = model.write(tmp_path / "cut", safe=True)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    of = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(tensors)}
    for file in set(of.values()):
        save_file({name: value for name, value in tensors.items() if of[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": of}))
    assert base_fingerprint(resolve(str(folder))) == base_fingerprint(resolve(str(whole)))


# The tokenizer.


def hub_with_tokenizer(folder: Path, repository: str) -> None:
    """The hub's cache, with the tokenizer of a text-only model in it."""
    commit = "0123456789" * 4
    root = folder / f"models--{repository.replace('/', '--')}"
    make_tiny_tokenizer(root / "snapshots" / commit, SIZES["vocab_size"])
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)


@pytest.mark.parametrize(
    ("name", "base"), [("m_clip", "large"), ("open_clip", "base"), ("uc2", "base"), ("xuniter", "base")]
)
def test_the_tokenizer_of_the_text_only_model(name: str, base: str, tmp_path: Path) -> None:
    """Without one in the folder it is the named XLM-R's; and needed only while the folder is made."""
    folder = MODELS[name]().write(tmp_path / "model", tokenizer=False)
    with pytest.raises(UserError) as caught:
        resolve(str(folder))
    for part in (str(folder), f"has no tokenizer, and that of FacebookAI/xlm-roberta-{base}", "copy tokenizer.json"):
        assert part in str(caught.value)
    hub_with_tokenizer(tmp_path / "hub", f"FacebookAI/xlm-roberta-{base}")
    from xtrain.tasks.hub_repository import answer

    answer.cache_clear()
    made = resolve(str(folder))
    assert (made / "tokenizer.json").is_file()
    (tmp_path / "hub").rename(tmp_path / "gone")
    answer.cache_clear()
    assert resolve(str(folder)) == made


# The cache.


def test_another_content_is_another_folder(tmp_path: Path) -> None:
    model = MODELS["altclip"]()
    folder = model.write(tmp_path / "model")
    first = resolve(str(folder))
    model.weights["text_model.roberta.embeddings.LayerNorm.bias"] += 1
    torch.save(model.weights, folder / "pytorch_model.bin")
    os.utime(folder / "pytorch_model.bin", ns=(1, 1))  # another time even on a coarse clock
    second = resolve(str(folder))
    assert first != second
    assert base_fingerprint(first) != base_fingerprint(second)
    (folder / "config.json").write_text(
        json.dumps({**model.config, "text_config": {**SIZES, "hidden_dropout_prob": 0}})
    )
    assert resolve(str(folder)) not in (first, second)


def test_a_broken_folder_is_made_again(tmp_path: Path) -> None:
    folder = MODELS["altclip"]().write(tmp_path / "model")
    made = resolve(str(folder))
    mark = base_fingerprint(made)
    facts = json.loads((made / MANIFEST).read_text())
    assert facts["layout"] == "AltCLIP"
    assert facts["left_out"]["vision_model"] > 10
    (made / "model.safetensors").write_bytes((made / "model.safetensors").read_bytes()[:-100])
    assert resolve(str(folder)) == made
    assert base_fingerprint(made) == mark


def test_several_at_once_make_it_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = MODELS["altclip"]().write(tmp_path / "model")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(resolve(str(folder)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert capsys.readouterr().err.count("tensors of its text tower kept") == 1
    assert sorted(path.name for path in found[0].parent.iterdir()) == [found[0].name, f"{found[0].name}.lock"]


# Ordinary bases stay what they are.


def test_a_plain_base_is_its_own_folder(tmp_path: Path, cache: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", prefix="roberta.")
    assert resolve(str(folder)) == folder
    config = json.loads((folder / "config.json").read_text())
    from safetensors.torch import save_file

    weights = load_file(folder / "model.safetensors")  # with token types as UC2 has them, under the usual name
    weights["roberta.embeddings.token_type_embeddings.weight"] = torch.zeros(2, 32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "type_vocab_size": 2}))
    assert resolve(str(folder)) == folder
    assert not (cache / "towers").exists()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no model\.safetensors, only pytorch_model\.bin"):
        resolve(str(folder))


def test_an_ordinary_configuration_beside_open_clip_s(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    (folder / "open_clip_config.json").write_text("{}")
    assert resolve(str(folder)) == folder
    assert EncoderConfig.of(json.loads((folder / "config.json").read_text()), "c").hidden_size == 32
