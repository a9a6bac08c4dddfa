"""The peer of XCOPA: a plain Hugging Face loop, Social IQa and then COPA, evaluated zero-shot in every language.

It answers whether a score near chance is the small starter model's or ours: the same data, lengths, batch size,
epochs and learning rates as studies/small_targets.toml, in fp32, with AutoModelForMultipleChoice (word embeddings
frozen) and torch's AdamW, and nothing of xtrain but the rule that splits Social IQa's one file. Prints the
accuracies and writes them to benchmarks/results/copa_peer.json.

    python benchmarks/copa_peer.py --data SLICE [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from xtrain.starter import model_folder
from xtrain.tasks import catalog
from xtrain.tasks.sources import read

LANGUAGES = ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
ASKED = {"cause": "What was the cause?", "effect": "What was the effect?"}
LIMIT, BATCH_SIZE, LEARNING_RATE = 300, 16, 5e-5
RESULTS = Path(__file__).parent / "results" / "copa_peer.json"

Example = tuple[str, list[str], int]  # context and question, choices, the right one


def social_iqa(data: Path) -> list[Example]:
    """The training part of the one file that the slice has, by the catalogue's fixed hash."""
    rows = (row.values for row in read(catalog.load()["socialiqa"], "train", "en", data))
    return [(f"{row['context']} {row['question']}", list(row["choices"]), "ABC".index(row["label"])) for row in rows]


def copa(path: Path) -> list[Example]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [(f"{r['premise']} {ASKED[r['question']]}", [r["choice1"], r["choice2"]], int(r["label"])) for r in rows]


def batches(examples: Sequence[Example], tokenizer: Any, max_length: int, order: Sequence[int]) -> Iterator[Any]:
    """Padded batches, (examples, choices, tokens), and the right choices."""
    for begin in range(0, len(order), BATCH_SIZE):
        part = [examples[n] for n in order[begin : begin + BATCH_SIZE]]
        pairs = [(context, choice) for context, choices, _ in part for choice in choices]
        encoded = tokenizer(pairs, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        shaped = {name: value.view(len(part), len(part[0][1]), -1) for name, value in encoded.items()}
        yield shaped, torch.tensor([right for _, _, right in part])


def train(model: Any, tokenizer: Any, examples: Sequence[Example], epochs: int, max_length: int, seed: int) -> None:
    """AdamW without decay on biases and LayerNorm, 10 % warm-up, linear decay, gradient norm 1."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed, others = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=1e-8, fused=True)
    steps = epochs * -(-len(examples) // BATCH_SIZE)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(examples), generator=generator).tolist()
        for number, (inputs, right) in enumerate(batches(examples, tokenizer, max_length, order)):
            loss = model(**inputs, labels=right).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if number % 20 == 0:
                print(f"epoch {epoch} step {number} loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, examples: Sequence[Example], max_length: int) -> float:
    """Percent of right choices."""
    model.eval()
    right = 0
    for inputs, labels in batches(examples, tokenizer, max_length, range(len(examples))):
        right += int((model(**inputs).logits.argmax(-1) == labels).sum())
    return 100 * right / len(examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(arguments.seed)
    folder = model_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMultipleChoice.from_pretrained(folder)
    # 96 of its 118 million parameters, nearly all of rows that no batch has: three seconds a step on two cores
    model.get_input_embeddings().weight.requires_grad_(False)
    train(model, tokenizer, social_iqa(arguments.data), 2, 96, arguments.seed)
    train(model, tokenizer, copa(arguments.data / "xcopa/train-en.jsonl"), 5, 64, arguments.seed)
    english = accuracy(model, tokenizer, copa(arguments.data / "xcopa/val-en.jsonl"), 64)
    found = {
        language: accuracy(model, tokenizer, copa(arguments.data / f"xcopa/test-{language}.jsonl")[:LIMIT], 64)
        for language in LANGUAGES
    }
    result = {
        "what": "plain Hugging Face loop: Social IQa (2 epochs), COPA (5 epochs), then XCOPA test, percent",
        "model": "starter, word embeddings frozen", "seed": arguments.seed, "examples_a_language": LIMIT,
        "copa_dev_en": english, "languages": found, "mean": sum(found.values()) / len(found),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                    "torch": torch.__version__, "transformers": transformers.__version__},
    }  # fmt: skip
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
