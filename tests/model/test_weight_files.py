"""Weights are plain, finite floating-point numbers that belong to the encoder, or the base is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from xtrain.errors import UserError
from xtrain.model import load_encoder, load_heads, resolve
from xtrain.model.config_file import read_config
from xtrain.model.heads.mlm import lm_head_weights
from xtrain.model.weight_files import find_encoder

QUERY = "encoder.layer.1.attention.self.query"
TABLE = "embeddings.word_embeddings.weight"
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def change(folder: Path, edit: Callable[[Weights], object], sharded: bool = False) -> None:
    """Save ``folder``'s weights anew after ``edit``, in one file or in two with an index."""
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    if not sharded:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    (folder / "model.safetensors").unlink()
    parts = {"model-1.safetensors": sorted(weights)[:9], "model-2.safetensors": sorted(weights)[9:]}
    for file, names in parts.items():
        save_file({name: weights[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def refused(folder: Path, *parts: str) -> None:
    """Both where a study is opened and where a rank loads."""
    for call in (lambda: resolve(str(folder)), lambda: load_encoder(folder, torch.float32)):
        with pytest.raises(UserError) as caught:
            call()
        for part in parts:
            assert part in str(caught.value)


def rewritten_header(folder: Path, name: str, dtype: str, shape: list[int]) -> None:
    """The header's entry of a tensor changed by hand: for kinds that torch cannot write."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[name] |= {"dtype": dtype, "shape": shape}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    ("dtype", "written"),
    [
        (torch.int8, "I8"), (torch.uint8, "U8"), (torch.int16, "I16"), (torch.int32, "I32"), (torch.int64, "I64"),
        (torch.bool, "BOOL"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2"),
        (torch.complex64, "C64"),
    ],
)  # fmt: skip
def test_no_weights_are_refused(folder: Path, dtype: torch.dtype, written: str, sharded: bool) -> None:
    def edit(weights: Weights) -> None:
        for name in (f"{QUERY}.weight", TABLE, f"{QUERY}.bias"):
            weights[name] = weights[name].to(dtype)

    change(folder, edit, sharded)
    file = "model-1.safetensors" if sharded else "model.safetensors"
    said = f"{'1 tensor' if sharded else '3 tensors'} of {written} where weights are to be"
    refused(folder, file, said, TABLE, f"{QUERY}.weight", "F64, F32, F16, BF16", "unquantised")


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "F6_E2M3", "I4", "whatever"])
def test_kinds_that_the_library_may_not_know(folder: Path, dtype: str) -> None:
    rewritten_header(folder, f"{QUERY}.weight", dtype, [32, 64])
    refused(folder, "model.safetensors", f"1 tensor of {dtype} where weights are to be", f"{QUERY}.weight")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_numbers_are_taken(folder: Path, tiny_model: Path, dtype: torch.dtype) -> None:
    def edit(weights: Weights) -> None:
        weights |= {name: value.to(dtype) for name, value in weights.items()}
        weights["embeddings.position_ids"] = torch.arange(514)[None]  # a buffer of older versions, and no weight

    change(folder, edit)
    resolve(str(folder))
    encoder, report = load_encoder(folder, torch.float32)
    assert report.unused == ("embeddings.position_ids",)
    exact = load_file(tiny_model / "model.safetensors")
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, exact[name].to(dtype).to(torch.float32))


@pytest.mark.parametrize(
    "name",
    [
        f"{QUERY}.SCB", f"{QUERY}.weight_scale", f"{QUERY}.weight.absmax", f"{QUERY}.weight.quant_map",
        f"{QUERY}.qzeros", f"{QUERY}.g_idx", f"{QUERY}.lora_A.default.weight", f"{QUERY}.weight_g",
        "embeddings.word_embeddings.weight_scale", "encoder.layer.0.attention.self.distance_embedding.weight",
        "encoder.layer.1.output.adapters.x.weight",
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_what_stands_beside_a_weight_is_never_passed_over(folder: Path, name: str, prefix: str) -> None:
    def edit(weights: Weights) -> None:
        found = {prefix + own: value for own, value in weights.items()} | {prefix + name: torch.ones(32)}
        weights.clear()
        weights |= found

    change(folder, edit)
    refused(folder, "model.safetensors", "1 tensor beside the weights", prefix + name)


def test_packed_weights_under_other_names(folder: Path) -> None:
    def edit(weights: Weights) -> None:
        for name in [name for name in weights if name.endswith("query.weight")]:
            del weights[name]
            module = name.removesuffix("weight")
            weights |= {f"{module}qweight": torch.zeros(4, 32, dtype=torch.int32), f"{module}scales": torch.ones(1, 32)}

    change(folder, edit)
    refused(folder, "4 tensors beside the weights", f"{QUERY}.qweight", f"{QUERY}.weight", "are missing")


def test_more_blocks_than_the_configuration_says(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    refused(folder, "config.json: num_hidden_layers: 1, and the weights are of 2 blocks")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sharded", [False, True])
def test_values_that_are_no_finite_numbers(folder: Path, bad: float, dtype: torch.dtype, sharded: bool) -> None:
    def edit(weights: Weights) -> None:
        weights |= {name: value.to(dtype) for name, value in weights.items()}
        weights[f"{QUERY}.weight"].view(-1)[torch.tensor([1, 7, 9])] = bad

    change(folder, edit, sharded)
    file = "model-2.safetensors" if sharded else "model.safetensors"
    refused(folder, file, f"{QUERY}.weight: 3 of 1,024 values are not finite")


def test_the_embedding_table_in_parts_and_what_does_not_fit(folder: Path) -> None:
    change(folder, lambda weights: weights[TABLE][5].fill_(float("nan")))
    load_encoder(folder, torch.float32, kept_rows=torch.tensor([4, 6]))  # that row is not read
    with pytest.raises(UserError, match=r"word_embeddings\.weight: 32 of \d+ values are not finite"):
        load_encoder(folder, torch.float32, kept_rows=torch.tensor([5]))
    with pytest.raises(UserError, match="32 of 12,800 values are not finite"):
        resolve(str(folder))

    def large(weights: Weights) -> None:
        weights[TABLE].fill_(1e5)

    change(folder, large)
    resolve(str(folder))
    with pytest.raises(UserError, match="a value of 100000 does not fit into float16"):
        load_encoder(folder, torch.float16)


def test_the_second_look_is_cheap(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(str(folder))
    monkeypatch.setattr("xtrain.model.bases.check_values", lambda tensors: pytest.fail("weights were read again"))
    resolve(str(folder))
    change(folder, lambda weights: weights[TABLE].fill_(1.0))
    with pytest.raises(pytest.fail.Exception, match="read again"):
        resolve(str(folder))


def test_added_tokens_without_a_row(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(["<ent>", "</ent>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError) as caught:
        resolve(str(folder))
    for part in ("tokenizer.json: its largest token id is 401, and the embedding table has 400 rows", "'<ent>'",
                 "0 to 399", "remove the added tokens", "resize_token_embeddings(402)"):  # fmt: skip
        assert part in str(caught.value)

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 402}))  # said, but not done
    refused(folder, f"{TABLE} [400, 32], not [402, 32]")
    change(folder, lambda weights: weights.update({TABLE: torch.zeros(410, 32)}))  # more rows than tokens are no harm
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 410}))
    resolve(str(folder))


def test_ids_with_holes(folder: Path) -> None:
    """The number of tokens says nothing: what counts is the largest id."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    pieces = [piece for piece, _ in tokenizer["model"]["vocab"]]
    ids = {piece: number for number, piece in enumerate(pieces)}
    ids[pieces[-2]] = 1000
    tokenizer["model"] = {"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="its largest token id is 1000, and the embedding table has 400 rows"):
        resolve(str(folder))


def test_files_that_are_none(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 10\n")
    refused(folder, "model.safetensors: is a Git LFS pointer", "git lfs pull")
    path.write_bytes(b"")
    refused(folder, "model.safetensors: not safetensors")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(folder, "model.safetensors: not safetensors")


@pytest.mark.parametrize(
    "index", [[], {}, {"weight_map": None}, {"weight_map": {TABLE: 3}}, {"weight_map": {TABLE: "../x.safetensors"}}]
)
def test_an_index_that_is_none(folder: Path, index: object) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "index.json: has no weight_map")


def test_an_index_that_names_what_is_not_there(folder: Path) -> None:
    change(folder, lambda weights: None, sharded=True)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][f"{QUERY}.weight"] = "model-1.safetensors"
    path.write_text(json.dumps(index))
    refused(folder, "names 1 tensor of which the files know nothing", f"{QUERY}.weight")


def test_heads_are_weights_too(folder: Path) -> None:
    def edit(weights: Weights) -> None:
        weights["lm_head.dense.weight"] = torch.zeros(32, 32, dtype=torch.int8)

    change(folder, edit)
    with pytest.raises(UserError, match=r"1 tensor of I8 where weights are to be: lm_head\.dense\.weight"):
        lm_head_weights(folder)
    change(folder, lambda weights: weights.update({"lm_head.dense.weight": torch.full((32, 32), float("nan"))}))
    with pytest.raises(UserError, match=r"lm_head\.dense\.weight: 1,024 of 1,024 values are not finite"):
        lm_head_weights(folder)
    good = {"dense.weight": (32, 32), "dense.bias": 32, "layer_norm.weight": 32, "layer_norm.bias": 32, "bias": 399}
    change(folder, lambda weights: weights.update({f"lm_head.{name}": torch.ones(size) for name, size in good.items()}))
    with pytest.raises(UserError, match=r"lm_head\.bias is \[399\], not \[400\]"):
        lm_head_weights(folder)
    save_file({"task/bias": torch.full((3,), float("nan"))}, folder / "heads.safetensors")
    entry = {"format": "classification", "labels": ["a", "b", "c"], "parameters": ["bias"]}
    (folder / "heads.json").write_text(json.dumps({"task": entry}))
    with pytest.raises(UserError, match=r"heads\.safetensors: task/bias: 3 of 3 values are not finite"):
        load_heads(folder)


def test_headers_alone_are_read_where_that_is_enough(folder: Path) -> None:
    found = find_encoder(folder, read_config(folder))
    assert {place.dtype for place in found.places.values()} == {"F32"}
    assert [path.name for path, _ in found.by_file()] == ["model.safetensors"]
