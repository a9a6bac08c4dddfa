"""A study whose runs are made up with a known truth: 10 rows, 3 targets, 30 languages, 3 seeds, as run directories."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from toy import write_jsonl, write_study

from xtrain.graph import EVALUATE
from xtrain.runner import Job, open_study
from xtrain.statistics.planted import Spread, answers, mean_for

AGGLUTINATIVE = ("tr", "fi", "hu", "et", "kk", "ta", "te", "ko", "ja", "eu")
OTHERS = ("en", "de", "fr", "es", "pt", "it", "nl", "bg", "ru", "el", "fa", "hi", "ur", "bn", "ar", "he", "vi", "th",
          "zh", "yo")  # fmt: skip
LANGUAGES = (*OTHERS, *AGGLUTINATIVE)
TARGETS = ("sort", "match", "judge")
LABELS = ("a", "b", "c", "d")
SEEDS, ITEMS = (0, 1, 2), 200
SPREAD = Spread(seed=0.015, shared_seed=0.01, item=0.8, item_in_language=0.4, item_in_row=0.15)
AT_CHANCE = ("judge", "yo")  # in every row
LAST_SCORED, LAST_LOSES = (
    "sort",
    0.05,
)  # the target whose last steps are scored too, and how many right answers they lose

# Row -> its tasks. What each does to the score in points is in `effect`.
ROWS: Mapping[str, tuple[str, ...]] = {
    "none": (), "logic": ("logic",), "tags": ("tags",), "qa": ("qa",), "noise": ("noise",), "shape": ("shape",),
    "leaky": ("leaky",), "logic + noise": ("logic", "noise"), "logic + qa": ("logic", "qa"),
    "three": ("logic", "qa", "tags"),
}  # fmt: skip


def effect(row: str, target: str, language: str) -> float:
    """Points that a row adds to the score of a target in a language."""
    if (target, language) == AT_CHANCE:
        return 0.0
    return {
        "logic": 6.0,
        "tags": -6.0,
        "qa": 7.0 if target == "match" else 0.0,
        "shape": 5.0 if language in AGGLUTINATIVE else -2.5,
        "leaky": 20.0 if language == "de" else 0.0,
        "logic + noise": 6.0,
        "logic + qa": 13.0 if target == "match" else 6.0,
        "three": 8.0,
    }.get(row, 0.0)


def score(row: str, target: str, language: str) -> float:
    """What is planted, in percent."""
    if (target, language) == AT_CHANCE:
        return 25.0
    base = 52.0 + 3.0 * TARGETS.index(target) + 12.0 * (LANGUAGES.index(language) % 5) / 4
    return base + effect(row, target, language)


@dataclass(frozen=True)
class Planted:
    """The study, opened, and its run directories."""

    job: Job
    path: Path

    def asked(self, *questions: Mapping[str, Any]) -> Job:
        """The same study with other questions."""
        written = write_study(self.path.parent / "asked.toml", study(questions, self.job.study.base))
        return open_study(written, data_root=self.job.data_root, out=self.job.out)


def study(questions: Sequence[Mapping[str, Any]], base: str) -> dict[str, Any]:
    """The study's mapping."""
    columns = {"text_a": "text", "label": "label", "id": "id"}
    splits = ("train", "dev", "test")
    one = {"format": "classification", "labels": list(LABELS)}
    task: dict[str, Any] = {
        target: {**one, "languages": list(LANGUAGES),
                 "sources": [{"files": {split: f"{target}/{split}-{{lang}}.jsonl" for split in splits},
                              "columns": columns}]}
        for target in TARGETS
    }  # fmt: skip
    for name in {name for names in ROWS.values() for name in names}:
        files = {split: f"inter/{split}-{{lang}}.jsonl" for split in ("train", "dev")}
        task[name] = {**one, "languages": ["en", "de"], "sources": [{"files": files, "columns": columns}]}
    rows: list[dict[str, Any]] = []
    for name, tasks in ROWS.items():
        kind = {"logic": "reasoning", "qa": "reasoning", "tags": "structure", "shape": "structure"}.get(name)
        row: dict[str, Any] = {"name": name, **({"tasks": list(tasks)} if tasks else {})}
        row |= {"factors": {"kind": kind}} if kind else {}
        row |= {"languages": {"leaky": ["en", "de"]}} if name == "leaky" else {}
        rows.append(row)
    return {
        "name": "planted", "base": base, "seeds": list(SEEDS), "intermediate": rows,
        "target": [{"task": target} for target in TARGETS], "task": task, "question": list(questions),
        "tracking": {"mode": "off"},
    }  # fmt: skip


def plant(root: Path, base: Path, questions: Sequence[Mapping[str, Any]], say: Callable[[str], None] = str) -> Planted:
    """Write data, study and finished runs below ``root``."""
    gold = {target: np.random.default_rng([1, t]).integers(0, 4, ITEMS) for t, target in enumerate(TARGETS)}
    few = [{"id": str(n), "text": f"w{n}", "label": LABELS[n % 4]} for n in range(4)]
    for split in ("train", "dev"):
        for folder in (*TARGETS, "inter"):
            for language in ("en", "de"):
                write_jsonl(root / f"data/{folder}/{split}-{language}.jsonl", few)
    for target in TARGETS:
        for language in LANGUAGES:
            rows = [{"id": str(n), "text": f"{language} {n}", "label": LABELS[k]} for n, k in enumerate(gold[target])]
            write_jsonl(root / f"data/{target}/test-{language}.jsonl", rows)
    path = write_study(root / "study.toml", study(questions, str(base)))
    job = open_study(path, data_root=root / "data", out=root / "out")
    right = {target: _right(target) for target in TARGETS}
    names = list(ROWS)
    cells = {cell.evaluation: cell for cell in job.graph.cells}
    for phase in job.graph.phases.values():
        run = phase.run_directory(job.out).create()
        if phase.kind == EVALUATE:
            cell = cells[phase.hash]
            part = right[cell.target][names.index(cell.row), SEEDS.index(cell.seed)]
            tasks, last = _evaluated(run.predictions, cell.target, gold[cell.target], part), None
            if cell.target == LAST_SCORED:
                rng = np.random.default_rng([3, names.index(cell.row), cell.seed])
                worse = part & (rng.random(part.shape) >= LAST_LOSES)
                last = _evaluated(run.predictions_last, cell.target, gold[cell.target], worse)
            _write_scores(run.scores, cell.target, tasks, last)
        run.mark_done({})
    return Planted(job, path)


def _write_scores(path: Path, target: str, tasks: Mapping[str, Any], last: Mapping[str, Any] | None) -> None:
    protocol = {"tasks": {target: {"metric": "accuracy", "tokens": {}}}}
    entry: dict[str, Any] = {"tasks": tasks, "protocol": protocol}
    if last is not None:
        entry["last"] = {"tasks": last, "protocol": protocol}
    path.write_text(json.dumps(entry))


def _right(target: str) -> np.ndarray:
    """(R, S, L, I); the cell at chance is guessed."""
    scores = np.array([[score(row, target, language) for language in LANGUAGES] for row in ROWS])
    rng = np.random.default_rng([2, TARGETS.index(target)])
    right = answers(mean_for(scores, SPREAD), SPREAD, seeds=len(SEEDS), items=ITEMS, rng=rng)
    if target == AT_CHANCE[0]:
        place = LANGUAGES.index(AT_CHANCE[1])
        right[:, :, place] = rng.random(right[:, :, place].shape) < 0.25
    return right


def _evaluated(predictions: Path, target: str, gold: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """Predictions of one run, right ones, and the next label where it is wrong; its part of scores.json."""
    languages = {}
    folder = predictions / target
    folder.mkdir(parents=True)
    for number, language in enumerate(LANGUAGES):
        found = np.where(right[number], gold, (gold + 1) % 4)
        lines = (
            f'{{"id": "{n}", "label": "{LABELS[g]}", "prediction": "{LABELS[p]}"}}\n'
            for n, (g, p) in enumerate(zip(gold, found, strict=True))
        )
        (folder / f"{language}.jsonl").write_text("".join(lines))
        languages[language] = {"accuracy": 100.0 * float(right[number].mean())}
    return {target: {"languages": languages, "average": {}, "score": None}}
