"""Small runs that the tests of W&B record: metrics, scores and an encoder, as a phase would."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xtrain.run_directory import RunDirectory
from xtrain.tracking import Recorder, TrackingSettings, WandbRun, read_events, read_metrics

SETTINGS = TrackingSettings(finish_timeout_seconds=60.0, answer_timeout_seconds=60.0)  # for a busy machine
SCORES: dict[str, Any] = {
    "protocol": {"max_length": 128},
    "tasks": {
        "xnli": {
            "languages": {"de": {"accuracy": 58.43, "f1": 57.1}, "sw": {"accuracy": 100 / 3, "f1": 31.0}},
            "average": {"accuracy": 45.88, "f1": 44.05},
            "score": 45.88,
        }
    },
}


class Phase:
    """A run directory with its record and its W&B run, begun at once."""

    def __init__(self, folder: Path, settings: TrackingSettings = SETTINGS, **config: Any) -> None:
        self.dir = RunDirectory(folder).create()
        self.record = Recorder(self.dir)
        self.said: list[str] = []
        self.wandb = WandbRun.start(
            self.dir,
            settings,
            study="a study",
            phase_name="train xnli-s0",
            kind="target",
            config={"recipe": {"learning_rate": 1e-5}, **config},
            on_event=self.record.event,
            say=self.said.append,
        )

    def train(self, steps: Iterable[int]) -> None:
        for step in steps:
            # Kept apart from any other step's, and with all of a double's digits.
            self.log(step, {"loss": 1 / step, "learning_rate": 1e-5 / step, "tokens": step * 1000})
            if step % 5 == 0:
                self.log(step, {"dev/xnli/accuracy": 100 * math.sin(step)})

    def log(self, step: int, values: dict[str, float]) -> None:
        self.record.metrics(step, values)
        self.wandb.log_metrics(step, values)

    def save_encoder(self) -> None:
        folder = self.dir.encoder
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer.json").write_text("{}")
        (folder / "optimizer.pt").write_bytes(b"state")
        self.wandb.log_encoder(folder, metadata={"step": 10})

    def score(self) -> None:
        self.dir.scores.write_text(json.dumps(SCORES))
        self.wandb.log_scores(SCORES)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.dir.events) if event["event"] == kind]

    def recorded(self) -> dict[tuple[int, str], float]:
        """{(step, key): value} of metrics.jsonl."""
        return {
            (line["step"], key): value
            for line in read_metrics(self.dir.metrics)
            for key, value in line.items()
            if key not in ("step", "time")
        }
