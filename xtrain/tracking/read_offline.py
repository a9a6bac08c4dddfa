"""Reads offline W&B runs back with W&B's own reader, and compares them with the record."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtrain.run_directory import RunDirectory
from xtrain.tracking.record import number, read_metrics

STEP = "trainer/step"  # the axis of all metrics: the step of metrics.jsonl
FOLDERS = "offline-run-*"  # one for each start of the phase, named by its time


@dataclass
class OfflineRun:
    """What one offline folder holds."""

    folder: Path
    run: dict[str, Any] = field(default_factory=dict)
    """``run_id``, ``run_group``, ``job_type``, ``display_name``, ``project`` ... as W&B names them."""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """The history in order; ``_step`` is W&B's own counter."""
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    stats: int = 0
    """The number of system measurements."""
    exit_code: int | None = None
    """None: the process was killed."""

    def table(self, key: str) -> list[dict[str, Any]] | None:
        """The rows of the last table logged as ``key``; None if there is none."""
        for row in reversed(self.rows):
            if path := row.get(f"{key}.path"):
                content = json.loads((self.folder / "files" / path).read_text("utf-8"))
                return [dict(zip(content["columns"], values, strict=True)) for values in content["data"]]
        return None


def read_offline(folder: Path) -> OfflineRun:
    """The offline run in ``folder``; raises RuntimeError where W&B cannot read it."""
    result = OfflineRun(folder)
    for record in _records(folder):
        kind = record["type"]
        content = record.get(kind, {})
        if kind == "run":
            result.config |= content.pop("config", {}).get("update", {})
            result.run |= content
        elif kind == "config":
            result.config |= content.get("update", {})
        elif kind == "history":
            result.rows.append(content["item"])
        elif kind == "summary":
            result.summary |= content.get("update", {})
        elif kind == "artifact":
            result.artifacts.append(content)
        elif kind == "stats":
            result.stats += 1
        elif kind == "exit":
            result.exit_code = int(content.get("exit_code", 0))
    return result


def last_row(folder: Path) -> int:
    """W&B's own counter at the last row in ``folder``; -1 where there is none."""
    return max((row.get("_step", -1) for row in read_offline(folder).rows), default=-1)


def compare(run_dir: RunDirectory) -> list[str]:
    """What differs between the offline W&B files of ``run_dir`` and its record; empty if nothing does.

    Every number of ``metrics.jsonl`` must stand in W&B's history at the same step (a later start overrides
    an earlier one, which a resumed run has partly repeated), and nothing else; every value of
    ``scores.json`` in the table; an encoder must be there as an artifact if the directory has one.
    """
    runs = [read_offline(folder) for folder in sorted(run_dir.wandb.glob(FOLDERS))]
    if not runs:
        return [f"{run_dir.wandb}: no offline run"]
    found = _compare_metrics(run_dir, runs)
    identities = {run.run.get("run_id") for run in runs}
    if len(identities) != 1:
        found.append(f"more than one run id: {sorted(map(str, identities))}")
    if run_dir.scores.is_file():
        found += _compare_scores(run_dir.read_scores(), runs)
    own = [item for run in runs for item in run.artifacts if item["type"] == "model" and not _used(item)]
    if run_dir.encoder.is_dir() and not own:
        found.append("the encoder is not there as an artifact")
    for item in own:
        missing = {"model.safetensors", "config.json"} - {entry["path"] for entry in item["manifest"]["contents"]}
        found += [f"artifact {item['name']}: no {name}" for name in sorted(missing)]
    return found


def _used(artifact: Mapping[str, Any]) -> bool:
    return bool(artifact.get("use_after_commit"))


def _compare_metrics(run_dir: RunDirectory, runs: list[OfflineRun]) -> list[str]:
    recorded: dict[tuple[int, str], float] = {}
    for line in read_metrics(run_dir.metrics):
        for key, value in line.items():
            if key not in ("step", "time") and (as_number := number(value)) is not None:
                recorded[line["step"], key] = as_number
    logged: dict[tuple[int, str], float] = {}
    for run in runs:
        numbers = _numbers(run)
        # A start that goes on from a checkpoint takes back what came after it, as Recorder.resume_at does.
        begin = min((step for step, _ in numbers), default=math.inf)
        logged = {place: value for place, value in logged.items() if place[0] < begin} | numbers
    last = max((step for step, _ in recorded), default=0)
    found = [f"step {step}: {key} is not in W&B" for step, key in recorded.keys() - logged.keys()]
    found += [f"step {s}: {key} is only in W&B" for s, key in logged.keys() - recorded.keys() if s <= last]
    for step, key in recorded.keys() & logged.keys():
        ours, theirs = recorded[step, key], logged[step, key]
        if ours != theirs and not (math.isnan(ours) and math.isnan(theirs)):
            found.append(f"step {step}: {key} is {ours!r}, in W&B {theirs!r}")
    return sorted(found)


def _numbers(run: OfflineRun) -> dict[tuple[int, str], float]:
    """{(step, key): value} of the history, without what W&B adds and the table's columns."""
    return {
        (row[STEP], key): value
        for row in run.rows
        for key, text in row.items()
        if not key.startswith(("_", "scores.")) and key != STEP and (value := number(text)) is not None
    }


def _compare_scores(scores: Mapping[str, Any], runs: list[OfflineRun]) -> list[str]:
    table = next((rows for run in reversed(runs) if (rows := run.table("scores")) is not None), None)
    if table is None:
        return ["the table of scores is not in W&B"]
    logged = {(row["task"], row["language"], row["metric"]): row["value"] for row in table}
    recorded = {
        (task, language, metric): value
        for task, result in scores["tasks"].items()
        for language, metrics in result["languages"].items()
        for metric, value in metrics.items()
        if value is not None
    }
    return [
        f"scores: {' '.join(key)} is {recorded.get(key)}, in W&B {logged.get(key)}"
        for key in sorted(recorded.keys() | logged.keys())
        if recorded.get(key) != logged.get(key)
    ]


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    """Each record of the run's file, as ``wandb leet inspect`` prints it."""
    with tempfile.TemporaryDirectory() as scratch:
        # The reader keeps settings and a log of its own; they are not wanted in anyone's home.
        environment = {**os.environ, "WANDB_CONFIG_DIR": scratch, "WANDB_ERROR_REPORTING": "false"}
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                yield json.loads(line)
            message = process.stderr.read().strip()
        if process.returncode:
            raise RuntimeError(f"wandb leet inspect {folder}: {message or process.returncode}")
