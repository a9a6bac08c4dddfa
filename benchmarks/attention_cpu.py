"""CPU attention and the whole encoder, ours on packs against Hugging Face's on padded batches, in one run.

Run: python benchmarks/attention_cpu.py [--threads 2] [--repeats 20] [--out benchmarks/results/attention_cpu.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from transformers import XLMRobertaConfig, XLMRobertaModel

from xtrain.data.batches import PackedBatch
from xtrain.model.attention import AttentionDropout, mask_columns, packed_attention, padded_plan
from xtrain.model.config_file import EncoderConfig
from xtrain.model.dropout import DropoutKeys
from xtrain.model.encoder import Encoder
from xtrain.model.memory import keep_freed_memory

SHAPES = {  # heads, head size, lengths
    "starter, 32 sequences of 20 to 60": (12, 32, torch.linspace(20, 60, 32).long().tolist()),
    "starter, 32 sequences of 40": (12, 32, [40] * 32),
    "XLM-R Large, 32 sequences of 128": (16, 64, [128] * 32),
    "XLM-R Large, 8 sequences of 512": (16, 64, [512] * 8),
}
DTYPE = torch.bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attention_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as train.py does; it helps both sides
    torch.manual_seed(0)
    result: dict[str, Any] = {"machine": machine(options.threads), "unit": "ms, least of the repeats"}
    result["attention of one layer"] = {
        f"{name}, dropout {p}": attention(*shape, p, options.repeats)
        for name, shape in SHAPES.items()
        for p in (0.0, 0.1)
    }
    result["encoder of the starter's size, dropout 0.1"] = {
        name: encoder(lengths, options.repeats) for name, (heads, _, lengths) in SHAPES.items() if heads == 12
    }
    for title in list(result)[2:]:
        print(title)
        for name, values in result[title].items():
            numbers = ", ".join(f"{what} {value:.2f}" for what, value in values.items())
            print(f"  {name}: {numbers}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


def machine(threads: int) -> dict[str, Any]:
    """What the numbers were measured on."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        cpu = f"{named.get('model name', cpu)} (family {named.get('cpu family')}, model {named.get('model')})"
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def least(repeats: int, **steps: Callable[[], None]) -> dict[str, float]:
    """The shortest time of each step in ms, the steps taking turns, so that other load meets all of them."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def make_batch(lengths: list[int], vocab: int = 8000) -> PackedBatch:
    """Random tokens."""
    sizes = torch.tensor(lengths)
    ends = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    return PackedBatch(
        task="t",
        input_ids=torch.randint(4, vocab, (int(ends[-1]),)),
        positions=torch.cat([torch.arange(n) for n in lengths]),
        cu_seqlens=ends.to(torch.int32),
        max_seqlen=max(lengths),
        example_offsets=torch.arange(len(lengths) + 1),
        fields={},
        weights=torch.ones(len(lengths)),
        indices=torch.arange(len(lengths)),
    )


def attention(heads: int, head_size: int, lengths: list[int], p: float, repeats: int) -> dict[str, float]:
    """From projected rows to context rows and back: ours, and padded rows through torch's fused attention."""
    batch, hidden = make_batch(lengths), heads * head_size
    rows = batch.num_tokens + 16
    packed = [torch.randn(rows, hidden, dtype=DTYPE, requires_grad=True) for _ in range(3)]
    upstream = torch.randn(rows, hidden, dtype=DTYPE)
    upstream[batch.num_tokens :] = 0
    longest = max(lengths)
    padded = [torch.randn(len(lengths), longest, hidden, dtype=DTYPE, requires_grad=True) for _ in range(3)]
    full = torch.randn(len(lengths), longest, hidden, dtype=DTYPE)
    real = torch.arange(longest) < torch.tensor(lengths)[:, None]
    mask = None if bool(real.all()) else real[:, None, None, :]  # as transformers: none without padding

    def ours() -> Tensor:
        keys = DropoutKeys.draw(batch, 1, mask_columns(heads, longest)).extended(rows) if p else None
        plan = padded_plan(batch, heads, DTYPE)
        return packed_attention(*packed, heads, plan, AttentionDropout(p, keys, 0))

    def peer() -> Tensor:
        q, k, v = (x.view(len(lengths), longest, heads, head_size).transpose(1, 2) for x in padded)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        return out.transpose(1, 2).reshape(full.shape)

    def no_grad(run: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            run()

    return least(
        repeats,
        **{
            "ours forward": lambda: no_grad(ours),
            "padded sdpa forward": lambda: no_grad(peer),
            "ours forward+backward": lambda: ours().backward(upstream),
            "padded sdpa forward+backward": lambda: peer().backward(full),
        },
    )


def encoder(lengths: list[int], repeats: int) -> dict[str, float]:
    """Forward and backward of 12 blocks, to the first tokens as a classifier reads them."""
    config = XLMRobertaConfig(
        vocab_size=8000, hidden_size=384, num_hidden_layers=12, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=514, type_vocab_size=1, pad_token_id=1, attn_implementation="sdpa",
    )  # fmt: skip
    peer = XLMRobertaModel(config, add_pooling_layer=False)
    ours = Encoder(EncoderConfig.of(config.to_dict(), "config.json"))
    ours.model.load_state_dict(peer.state_dict(), assign=True)
    ours, peer = (model.requires_grad_(True).to(DTYPE).train() for model in (ours, peer))
    batch = make_batch(lengths)
    rows = list(batch.input_ids.split(lengths))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)

    def step(first: Tensor, model: torch.nn.Module) -> None:
        first.float().square().sum().backward()
        model.zero_grad()

    values = least(
        max(3, repeats // 2),
        ours=lambda: step(ours(batch, first_only=True), ours),
        transformers=lambda: step(peer(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state[:, 0], peer),
    )
    return {f"{name} forward+backward": value for name, value in values.items()}


if __name__ == "__main__":
    main()
