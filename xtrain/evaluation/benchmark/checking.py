"""Checks a folder in the leaderboard's layout before it is called ready: files, row counts, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xtrain.errors import Problem, UserError
from xtrain.evaluation.benchmark import layout, reading
from xtrain.evaluation.benchmark.layout import BenchmarkTask
from xtrain.evaluation.benchmark.ranking import CUT
from xtrain.evaluation.benchmark.reading import FileProblems
from xtrain.evaluation.benchmark.scoring import Missing, check_tags, find_file, score_language


@dataclass
class Checked:
    """What a check found."""

    problems: list[Problem] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def ready(self) -> bool:
        """Whether every file is there and none has a mistake."""
        return not self.problems and not self.missing


def check_submission(folder: Path, benchmark: str, labels: Path | None = None) -> Checked:
    """Check every file that ``benchmark`` asks for in ``folder``.

    With ``labels``, in the same layout, rows and ids must be those of the labels; without, row counts are
    compared with those of the benchmark's test sets where they are known.
    """
    known = layout.get(benchmark)
    if not folder.is_dir():
        raise UserError(Problem(str(folder), "no such folder"))
    if labels is not None and not labels.is_dir():
        raise UserError(Problem(f"--labels {labels}", "no such folder"))
    checked = Checked()
    for task in known.tasks.values():
        missing = []
        for language in task.languages:
            found = find_file(folder, task, language, checked.problems)
            if found is None:
                missing.append(language)
                continue
            checked.files += 1
            right = find_file(labels, task, language, checked.problems) if labels is not None else None
            if right is not None:
                score_language(task, language, found, right, checked.notes, checked.problems, strict=True)
            checked.problems += _without_labels(task, language, found, compare=right is None)
        if missing:
            checked.missing.append(Missing(task.name, tuple(missing), "no file"))
    return checked


def _without_labels(task: BenchmarkTask, language: str, path: Path, *, compare: bool) -> list[Problem]:
    """The mistakes of a file that show by themselves; ``compare`` says whether its rows are counted here."""
    wrong = FileProblems(path, strict=True)
    count = _count(task, language, path, wrong)
    expected = task.rows.get(language)
    what = "questions" if task.kind == "answers" else "rows"
    if compare and not wrong.found and expected is not None and count != expected:
        wrong.add(0, f"has {count:,} {what}", f"{expected:,}, as the benchmark's test set has", "predict all of it")
    # with labels, the comparison with them has already named the lines
    return wrong.found if compare or task.kind == "ranking" else []


def _count(task: BenchmarkTask, language: str, path: Path, wrong: FileProblems) -> int:
    """The rows of a file, which is read to the end."""
    if task.kind == "label":
        return len(reading.read_labels(path, task.labels, wrong))
    if task.kind == "choice":
        return len(reading.read_choices(path, task.labels, wrong))
    if task.kind == "index":
        return _count_indices(reading.read_indices(path, wrong), task.rows.get(language), wrong)
    if task.kind == "tags":
        sentences = reading.read_tags(path, wrong)
        check_tags(sentences, task.labels, wrong)
        return len(sentences.tags)
    if task.kind == "pairs":
        return len(reading.read_pairs(path, wrong, may_be_empty=True))
    if task.kind == "answers":
        return len(reading.read_predicted_answers(path, wrong))
    return _count_rankings(reading.read_rankings(path, wrong, gold=False), wrong)


def _count_indices(indices: list[str], rows: int | None, wrong: FileProblems) -> int:
    """An index names one of as many sentences as there are queries."""
    for number, index in enumerate(indices, 1):
        if not wrong.found and int(index) >= (rows or len(indices)):
            wrong.add(number, f"{index} is no index", f"0 to {(rows or len(indices)) - 1}")
    return len(indices)


def _count_rankings(rankings: Mapping[str, list[str]], wrong: FileProblems) -> int:
    for query, answers in rankings.items():
        if len(answers) > CUT or len(set(answers)) < len(answers):
            wrong.add(query, f"has {len(answers)} answers, {len(set(answers))} of them different", f"up to {CUT}")
    return len(rankings)
