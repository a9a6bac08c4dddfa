"""A whole toy study on generated data and a tiny random model, run by the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tomli_w
from tiny import pairs, sentences

PROJECT = Path(__file__).resolve().parent.parent
LANGUAGES = {"en": "latin", "ru": "cyrillic", "ar": "arabic"}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def make_data(root: Path) -> Path:
    """Three tasks: pairs to classify in three languages, a choice of three, and parallel sentences."""
    write_jsonl(root / "toy/train-en.jsonl", list(pairs(160, seed=1)))
    write_jsonl(root / "toy/dev-en.jsonl", list(pairs(40, seed=2)))
    for language, script in LANGUAGES.items():
        write_jsonl(root / f"toy/test-{language}.jsonl", list(pairs(30, seed=3, script=script)))
    first, others = sentences(120, seed=5), [sentences(120, seed=n) for n in (6, 7, 8)]
    choices = [
        {"context": first[n], "choices": [other[n] for other in others], "label": n % 3} for n in range(len(first))
    ]
    write_jsonl(root / "choose/train.jsonl", choices[:90])
    write_jsonl(root / "choose/dev.jsonl", choices[90:])
    for language, script in list(LANGUAGES.items())[1:]:
        rows = zip(sentences(25, script, seed=9), sentences(25, seed=9), strict=True)
        write_jsonl(root / f"mine/{language}.jsonl", [{"source": a, "target": b} for a, b in rows])
    return root


TASKS: dict[str, Any] = {
    "toy": {
        "format": "classification",
        "labels": ["class0", "class1", "class2"],
        "languages": list(LANGUAGES),
        "parallel": True,
        "sources": [
            {
                "files": {split: f"toy/{split}-{{lang}}.jsonl" for split in ("train", "dev", "test")},
                "columns": {"text_a": "text_a", "text_b": "text_b", "label": "label"},
            }
        ],
    },
    "choose": {
        "format": "multiple_choice",
        "languages": ["en"],
        "options": {"num_choices": 3},
        "sources": [
            {
                "files": {"train": "choose/train.jsonl", "dev": "choose/dev.jsonl"},
                "columns": {"context": "context", "choices": "choices", "label": "label"},
            }
        ],
    },
    "mine": {
        "format": "sentence_retrieval",
        "languages": ["ru", "ar"],
        "sources": [{"files": {"test": "mine/{lang}.jsonl"}, "columns": {"source": "source", "target": "target"}}],
    },
}


def study(base: Path, **changes: Any) -> dict[str, Any]:
    """The toy study as a mapping; ``changes`` replace top-level keys."""
    return {
        "name": "toy",
        "base": str(base),
        "seeds": [0],
        "intermediate": [{"name": "none"}, {"name": "choose", "tasks": ["choose"]}],
        "target": [{"task": "toy"}, {"task": "mine"}],
        "recipe": {
            "intermediate": {"epochs": 1, "batch_size": 8, "max_length": 64, "eval_every": 5, "learning_rate": 1e-3},
            "target": {"max_steps": 12, "batch_size": 8, "max_length": 64, "eval_every": 4, "learning_rate": 1e-3},
        },
        "engine": {"log_every": 1, "tokens_per_micro_batch": 512},
        "tracking": {"mode": "off"},
        "task": TASKS,
        **changes,
    }


def write_study(path: Path, mapping: Mapping[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(dict(mapping)), encoding="utf-8")
    return path


class Commands(Protocol):
    """Who runs ``python -m xtrain`` and ranks for a toy: runs.Nursery, whose processes have imported everything."""

    def start_command(self, *arguments: str, out: Path, errors: Path, folder: Path, fault: Mapping[str, Any],
                      environment: Mapping[str, str]) -> int: ...  # fmt: skip

    def wait(self) -> Any: ...

    def run(self, run: Path, ranks: int) -> Any: ...


class Toy:
    """A folder with a model, data and a study, and the command line to run them."""

    def __init__(self, root: Path, base: Path, data: Path, commands: Commands) -> None:
        self.root, self.base, self.data, self._commands = root, base, data, commands

    def xtrain(
        self, *arguments: str, environment: Mapping[str, str] | None = None, fault: Mapping[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """``python -m xtrain ...`` in this folder; never uses the network or a real W&B key."""
        out, errors = self.root / "stdout.txt", self.root / "stderr.txt"
        for old in (out, errors):
            old.unlink(missing_ok=True)
        self._commands.start_command(
            *arguments, out=out, errors=errors, folder=self.root, fault=fault or {},
            environment={**SETTINGS, **(environment or {})},
        )  # fmt: skip
        (code,) = self._commands.wait().codes
        return subprocess.CompletedProcess(arguments, code, out.read_text("utf-8"), errors.read_text("utf-8"))

    def run(
        self, name: str, /, *arguments: str, environment: Mapping[str, str] | None = None, **changes: Any
    ) -> subprocess.CompletedProcess[str]:
        """Write the study with ``changes`` and run it into ``out-{name}``."""
        path = write_study(self.root / f"{name}.toml", study(self.base, **changes))
        command = ["run", str(path), "--data", str(self.data), "--out", str(self.out(name)), *arguments]
        return self.xtrain(*command, environment=environment)

    def planned(self, name: str, **changes: Any) -> Path:
        """Write the study with ``changes`` and the run directory of its target phase into ``out-{name}``."""
        path = write_study(self.root / f"{name}.toml", study(self.base, **changes))
        done = self.xtrain("plan", str(path), "--data", str(self.data), "--out", str(self.out(name)), "--write")
        assert done.returncode == 0, done.stderr
        return self.run_directory(name, "target")

    def train(self, run: Path, ranks: int) -> Path:
        """Run the phase of a run directory as the command does, and no other; returns ``run``."""
        ended = self._commands.run(run, ranks)
        assert ended.codes == [0] * ranks, ended
        return run

    def run_killed(
        self, name: str, step: int, *arguments: str, environment: Mapping[str, str] | None = None, **changes: Any
    ) -> Path:
        """As :meth:`run`, but the first rank to reach global step ``step`` kills the command and then itself.

        Returns the run directory of the target phase that was cut off.
        """
        path = write_study(self.root / f"{name}.toml", study(self.base, **changes))
        command = ["run", str(path), "--data", str(self.data), "--out", str(self.out(name)), *arguments]
        fault = {"kind": "kill command at step", "step": step}
        result = self.xtrain(*command, environment=environment, fault=fault)
        assert result.returncode == -signal.SIGKILL, result.stderr
        return self.run_directory(name, "target")

    def out(self, name: str) -> Path:
        return self.root / f"out-{name}"

    def run_directory(self, name: str, kind: str) -> Path:
        """The one run directory of a kind of phase in ``out-{name}``."""
        (found,) = [path for path in (self.out(name) / kind).iterdir() if path.is_dir()]
        return found


# Of a process of the project's in tests: offline, one thread.
SETTINGS = {
    "PYTHONPATH": str(PROJECT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "200",
}


def run_python(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A Python process of the project's."""
    env = {**os.environ, **SETTINGS, **(environment or {})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=280
    )


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of every step, from ``metrics.jsonl``."""
    return [line["loss"] for line in read_jsonl(run / "metrics.jsonl") if "loss" in line]
