"""Folders in the leaderboard's layout for tests: small, made up, complete for a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from xtrain.evaluation.benchmark.layout import BENCHMARKS, BenchmarkTask

WORDS = {"zh": "北京 大学", "ar": "كتاب الطالب", "hi": "नई दिल्ली", "th": "กรุงเทพ", "ru": "старый дом"}
QUESTIONS = 4


def text_in(language: str, number: int) -> str:
    """An answer that no normalisation empties, another one for every number."""
    return f"{WORDS.get(language, 'red house')} {number}{number}"


def labels_of(task: BenchmarkTask, language: str) -> str:
    """The content of a label file of three or four rows."""
    if task.kind == "label":
        return "".join(f"{task.labels[n % len(task.labels)]}\n" for n in range(4))
    if task.kind == "choice":
        return "".join(json.dumps({"premise": "x", "label": n % 2}) + "\n" for n in range(4))
    if task.kind == "index":
        return "2\n0\n1\n"
    if task.kind == "tags":
        return "NOUN\nVERB\n\nADJ\nNOUN\n" if task.name == "udpos" else "B-PER\nI-PER\nO\n\nB-LOC\nO\n"
    if task.kind == "pairs":
        return f"{language}-1\ten-9\n{language}-2\ten-8\n"
    if task.kind == "ranking":
        return json.dumps({"q1": ["a", "b"] if task.name == "lareqa" else ["a"], "q2": ["c"]})
    questions = [
        {"id": f"q{n}", "question": "?", "answers": [{"text": text_in(language, n), "answer_start": 0}]}
        for n in range(QUESTIONS)
    ]
    return json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": "...", "qas": questions}]}]})


def perfect(task: BenchmarkTask, language: str) -> str:
    """The content of a prediction file in which everything is right."""
    if task.kind == "answers":
        return json.dumps({f"q{n}": text_in(language, n) for n in range(QUESTIONS)}, ensure_ascii=False)
    return labels_of(task, language)


def write_folders(root: Path, benchmark: str, *tasks: str) -> tuple[Path, Path]:
    """``root/predictions`` and ``root/labels`` with every language of ``tasks`` (all by default), all right."""
    folders = (root / "predictions", root / "labels")
    for folder, content in zip(folders, (perfect, labels_of), strict=True):
        for name, task in BENCHMARKS[benchmark].tasks.items():
            if tasks and name not in tasks:
                continue
            (folder / name).mkdir(parents=True)
            for language in task.languages:
                (folder / name / task.file_name(language)).write_text(content(task, language), encoding="utf-8")
    return folders
