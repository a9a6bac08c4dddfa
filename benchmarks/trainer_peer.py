"""The peer: transformers' Trainer with DeepSpeed ZeRO-2 in bf16 on the same model, data and recipe.

Run by benchmarks/mnli_training.py; prints one JSON object with seconds of training and accuracies.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from xtrain.dispatch.rank_process import run_rank
from xtrain.dispatch.rendezvous import from_environment
from xtrain.training.engine import initialize_ranks

LABELS = ("entailment", "neutral", "contradiction")


def read_jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_tsv(path: Path) -> list[dict[str, str]]:
    rows = (line.split("\t") for line in path.read_text("utf-8").splitlines())
    return [{"text_a": a, "text_b": b, "label": label} for a, b, label in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=-1)
    parser.add_argument("--languages", nargs="*", default=[])
    arguments = parser.parse_args()
    initialize_ranks(from_environment({}), training=True)  # the peer takes the group that there is

    import datasets
    import numpy as np
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)

    def encoded(rows: list[dict[str, str]]) -> datasets.Dataset:
        data = datasets.Dataset.from_list(rows)
        return data.map(
            lambda batch: {
                **tokenizer(batch["text_a"], batch["text_b"], truncation=True, max_length=128),
                "labels": [LABELS.index(label) for label in batch["label"]],
            },
            batched=True,
            remove_columns=data.column_names,
        )

    zero2 = json.loads((Path(__file__).parent.parent / "ds_configs" / "zero2.json").read_text("utf-8"))
    training = transformers.TrainingArguments(
        output_dir=str(arguments.out),
        num_train_epochs=2,
        max_steps=arguments.max_steps,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        learning_rate=5e-5,
        warmup_steps=0.1,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        bf16=True,
        use_cpu=True,
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        seed=arguments.seed,
        deepspeed={
            **zero2,
            "bf16": {"enabled": True},
            "train_micro_batch_size_per_gpu": 32,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 1.0,
        },
    )

    class Clock(transformers.TrainerCallback):
        """When each optimizer step began and ended."""

        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.began = 0.0

        def on_step_begin(self, *_: object, **__: object) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    clock = Clock()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=3)
    trainer = transformers.Trainer(
        model=model,
        args=training,
        train_dataset=encoded(read_jsonl(arguments.data / "intermediate/mnli/train.jsonl")),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        callbacks=[clock],
    )
    result = trainer.train()
    scores = {}
    for language in arguments.languages:
        prediction = trainer.predict(encoded(read_tsv(arguments.data / f"xnli/dev-{language}.tsv")))
        scores[language] = 100.0 * float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))
    print(
        json.dumps(
            {
                "train_runtime": result.metrics["train_runtime"],
                "steps": result.global_step,
                "step_seconds": clock.seconds,
                "loss": result.training_loss,
                "accuracy": scores,
            }
        )
    )


if __name__ == "__main__":
    run_rank(main)
