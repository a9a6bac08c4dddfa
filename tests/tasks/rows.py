"""Small data sets in files, and the specs that read them, for the tests of tasks and data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.formats import ProblemList, Row
from xtrain.tasks.sources import read


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows))


def spec(**entry: Any) -> TaskSpec:
    """A task called ``t``; classification into a and b from ``train.jsonl`` unless told otherwise."""
    usual: dict[str, Any] = {
        "format": "classification",
        "languages": ["en"],
        "labels": ["a", "b"],
        "sources": [source()],
    }
    if entry.get("format", "classification") != "classification":
        del usual["labels"]
    return catalog.load({"t": {**usual, **entry}})["t"]


def source(**keys: Any) -> dict[str, Any]:
    """A source of ``train.jsonl`` with the columns text and label, unless told otherwise."""
    usual = {"files": {"train": "train.jsonl"}, "columns": {"text_a": "text", "label": "label"}}
    if "hub" in keys:
        del usual["files"]
    return {**usual, **keys}


def rows_of(task: TaskSpec, root: Path | None, split: str = "train", language: str = "en") -> list[Row]:
    """All rows of a split; raises what is wrong with them."""
    problems = ProblemList()
    rows = list(read(task, split, language, root, problems))
    problems.raise_if_any()
    return rows
