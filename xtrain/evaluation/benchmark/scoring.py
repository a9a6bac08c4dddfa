"""Scores a folder of predictions against a folder of labels, in the leaderboard's layout."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from xtrain.errors import Problem, UserError, listed, raise_if_any
from xtrain.evaluation.benchmark import layout, reading
from xtrain.evaluation.benchmark.answers import score_answers
from xtrain.evaluation.benchmark.bitext import pair_f1
from xtrain.evaluation.benchmark.chunks import accuracy, micro_f1, token_accuracy
from xtrain.evaluation.benchmark.layout import Benchmark, BenchmarkTask
from xtrain.evaluation.benchmark.ranking import map_by_id
from xtrain.evaluation.benchmark.reading import FileProblems
from xtrain.files import make_folder, write_json
from xtrain.languages import meant, name_of


@dataclass(frozen=True)
class Missing:
    """Languages of a task that could not be scored, and why."""

    task: str
    languages: tuple[str, ...]
    what: str
    """``no predictions``, ``no labels``, or both."""


@dataclass
class ScoredFolder:
    """What scoring found: the JSON of the command, and what it has no numbers for."""

    benchmark: Benchmark
    result: dict[str, Any] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What changed no score but ought to be known, a sentence each."""

    def complete(self, task: str) -> bool:
        """Whether every language of the task was scored."""
        return all(entry.task != task for entry in self.missing)


def score_folder(benchmark: str, predictions: Path, labels: Path) -> dict[str, Any]:
    """The scores of ``benchmark`` ("xtreme" or "xtreme-r"), in percent, unrounded.

    ``{"benchmark", "tasks": {task: {"languages": {lang: {metric: value}}, "average": {metric: value}, "score":
    value}}, "groups": {group: value or null}, "overall": value or null}``. A task is there if a language of it
    could be scored; its average and score are over those that could. A group's score and the overall one are
    null unless every language of every task they need was scored. Raises one :class:`UserError` with every
    mistake in any file.
    """
    return evaluate_folder(benchmark, predictions, labels).result


def evaluate_folder(benchmark: str, predictions: Path, labels: Path) -> ScoredFolder:
    """As :func:`score_folder`, with what is missing beside the scores."""
    scored = ScoredFolder(layout.get(benchmark))
    problems = [
        Problem(f"{flag} {folder}", "no such folder")
        for flag, folder in (("--predictions", predictions), ("--labels", labels))
        if not folder.is_dir()
    ]
    raise_if_any(problems)
    tasks: dict[str, Any] = {}
    for task in scored.benchmark.tasks.values():
        languages = _score_task(task, predictions, labels, scored, problems)
        if languages:
            tasks[task.name] = _summary(task, languages)
    raise_if_any(problems)
    if not tasks:
        raise UserError(_nothing_found(scored.benchmark, predictions, labels))
    scored.notes += _unread(scored.benchmark, predictions)
    groups = {group: _mean_of(members, tasks, scored) for group, members in scored.benchmark.groups.items()}
    overall = _mean_of(tuple(scored.benchmark.tasks), tasks, scored)
    scored.result = {"benchmark": scored.benchmark.name, "tasks": tasks, "groups": groups, "overall": overall}
    return scored


def _score_task(
    task: BenchmarkTask, predictions: Path, labels: Path, scored: ScoredFolder, problems: list[Problem]
) -> dict[str, dict[str, float]]:
    """The metrics of each language whose files are there; what is not goes to ``scored.missing``."""
    languages: dict[str, dict[str, float]] = {}
    missing: dict[str, list[str]] = {}
    for language in task.languages:
        found = find_file(predictions, task, language, problems)
        right = find_file(labels, task, language, problems)
        if found is not None and right is not None:
            languages[language] = score_language(task, language, found, right, scored.notes, problems)
            continue
        what = " and ".join(name for name, path in (("no predictions", found), ("no labels", right)) if path is None)
        missing.setdefault(what, []).append(language)
    scored.missing += [Missing(task.name, tuple(codes), what) for what, codes in missing.items()]
    return languages


def find_file(folder: Path, task: BenchmarkTask, language: str, problems: list[Problem]) -> Path | None:
    """The file of a language below ``folder``, under any of the names it may have; None if there is none."""
    there = [path for name in task.file_names(language) if (path := folder / task.name / name).is_file()]
    if len(there) > 1:
        problems.append(
            Problem(str(there[0]), f"{there[1].name} is the same language", remedy="keep one of the two files")
        )
    return there[0] if there else None


def _summary(task: BenchmarkTask, languages: dict[str, dict[str, float]]) -> dict[str, Any]:
    average = {
        metric: statistics.fmean(values.get(metric, 0.0) for values in languages.values()) for metric in task.metrics
    }
    return {
        "languages": languages,
        "average": average,
        "score": statistics.fmean(average[metric] for metric in task.counted),
    }


def _mean_of(members: tuple[str, ...], tasks: dict[str, Any], scored: ScoredFolder) -> float | None:
    """The mean of the scores of ``members``, or None unless all of them are complete."""
    if not all(scored.complete(task) for task in members):
        return None
    return statistics.fmean(tasks[task]["score"] for task in members)


def score_language(
    task: BenchmarkTask,
    language: str,
    found: Path,
    right: Path,
    notes: list[str],
    problems: list[Problem],
    *,
    strict: bool = False,
) -> dict[str, float]:
    """The metrics of one language from its predictions, ``found``, and its labels, ``right``.

    ``strict``: predicted labels have to be the benchmark's. Empty where the files are wrong, which goes to
    ``problems``; what only ought to be known goes to ``notes``.
    """
    pair = _Files(task, language, found, right, notes, FileProblems(found, strict=strict), FileProblems(right))
    metrics = _BY_KIND[task.kind](pair)
    wrong = pair.wrong_gold.found + pair.wrong.found
    problems += wrong
    notes += [unknown_note(one, task.labels) for one in (pair.wrong, pair.wrong_gold) if one.unknown]
    return {} if wrong else metrics


@dataclass(frozen=True)
class _Files:
    """The two files of one language, and where to note what is wrong with each."""

    task: BenchmarkTask
    language: str
    found: Path
    right: Path
    notes: list[str]
    wrong: FileProblems
    wrong_gold: FileProblems

    @property
    def bad(self) -> bool:
        return bool(self.wrong.found or self.wrong_gold.found)

    def same_count(self, predicted: int, gold: int, of: str = "rows") -> bool:
        """Whether there are as many predictions as labels; otherwise it is noted as a problem."""
        if predicted != gold:
            self.wrong.add(
                0,
                f"has {predicted:,} {of}, the labels ({self.right}) have {gold:,}",
                allowed="exactly as many, in the same order",
            )
        return predicted == gold


def _rows(files: _Files) -> dict[str, float]:
    """Accuracy of one label, choice or index a row."""
    allowed = files.task.labels
    if files.task.kind == "label":
        gold = reading.read_labels(files.right, allowed, files.wrong_gold)
        predicted = reading.read_labels(files.found, allowed, files.wrong)
    elif files.task.kind == "choice":
        gold = reading.read_choices(files.right, allowed, files.wrong_gold)
        predicted = reading.read_choices(files.found, allowed, files.wrong)
    else:
        gold = reading.read_indices(files.right, files.wrong_gold)
        predicted = reading.read_indices(files.found, files.wrong)
    if not predicted or not gold or not files.same_count(len(predicted), len(gold)):
        return {}
    return {"accuracy": accuracy(gold, predicted)}


def _tags(files: _Files) -> dict[str, float]:
    """Micro F1 of the chunks, and for UDPOS the accuracy of the tags."""
    gold = reading.read_tags(files.right, files.wrong_gold)
    predicted = reading.read_tags(files.found, files.wrong)
    check_tags(gold, files.task.labels, files.wrong_gold)
    check_tags(predicted, files.task.labels, files.wrong)
    if files.bad or not files.same_count(len(predicted.tags), len(gold.tags), "sentences"):
        return {}
    for number, (tags, right) in enumerate(zip(predicted.tags, gold.tags, strict=True)):
        if len(tags) != len(right):
            files.wrong.add(
                predicted.begins[number],
                f"sentence {number + 1} has {len(tags)} tags, the labels ({files.right}:{gold.begins[number]}) "
                f"have {len(right)}",
                allowed="a tag for every token, sentences that were cut joined again",
            )
    if files.bad:
        return {}
    metrics = micro_f1(gold.tags, predicted.tags)
    if files.task.with_accuracy:
        metrics["accuracy"] = token_accuracy(gold.tags, predicted.tags)
    return metrics


def unknown_note(problems: FileProblems, allowed: Collection[str]) -> str:
    """What to say of labels that the benchmark does not have: in predictions they are wrong answers."""
    line, label = problems.unknown[0]
    count = len(problems.unknown)
    return f"{problems.path}: {count:,} labels are none of {listed(allowed, 7)}: the first is {label!r} in line {line}"


def check_tags(sentences: reading.Sentences, allowed: Collection[str], problems: FileProblems) -> None:
    """Note the tags that are not among ``allowed``, each with its line."""
    for begin, tags in zip(sentences.begins, sentences.tags, strict=True):
        for place, tag in enumerate(tags):
            if tag not in allowed:
                reading.check_label(begin + place, tag, f"{tag[:60]!r} is no tag", allowed, problems)


def _pairs(files: _Files) -> dict[str, float]:
    """F1 of the set of mined pairs."""
    gold = set(reading.read_pairs(files.right, files.wrong_gold, may_be_empty=False))
    predicted = set(reading.read_pairs(files.found, files.wrong, may_be_empty=True))
    if not predicted & gold and {(second, first) for first, second in predicted} & gold:
        files.wrong.add(
            0, "the two columns are exchanged", f"as in {files.right}: the {files.language} id, a tab, the English id"
        )
    return pair_f1(predicted, gold)


def _answers(files: _Files) -> dict[str, float]:
    """F1 and exact match of extracted answers."""
    gold = reading.read_gold_answers(files.right, files.wrong_gold)
    predicted = reading.read_predicted_answers(files.found, files.wrong)
    if files.bad:
        return {}
    _note_ids(files, predicted, gold)
    return score_answers(predicted, gold, files.language, files.task.rules)


def _ranking(files: _Files) -> dict[str, float]:
    """Mean average precision at 20."""
    gold = reading.read_rankings(files.right, files.wrong_gold, gold=True)
    predicted = reading.read_rankings(files.found, files.wrong, gold=False)
    if files.bad:
        return {}
    if not gold:
        files.wrong_gold.add(0, "holds no query")
        return {}
    _note_ids(files, predicted, gold)
    return {"map@20": map_by_id(predicted, gold)}


def _note_ids(files: _Files, predicted: dict[str, Any], gold: dict[str, Any]) -> None:
    lost, extra = gold.keys() - predicted.keys(), predicted.keys() - gold.keys()
    if lost:
        files.notes.append(f"{files.found}: {len(lost):,} of {len(gold):,} ids are not predicted and score 0")
    if extra:
        files.notes.append(f"{files.found}: {len(extra):,} ids are not in the labels and do not count")


_BY_KIND: dict[layout.Kind, Callable[[_Files], dict[str, float]]] = {
    "label": _rows,
    "choice": _rows,
    "index": _rows,
    "tags": _tags,
    "pairs": _pairs,
    "answers": _answers,
    "ranking": _ranking,
}


def _unread(benchmark: Benchmark, predictions: Path) -> Iterator[str]:
    """What lies in the predictions' folder and was not read."""
    for folder in sorted(p for p in predictions.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if folder.name not in benchmark.tasks:
            yield f"{folder}: no task of {benchmark.name}, not read"
            continue
        task = benchmark.tasks[folder.name]
        known = {name for language in task.languages for name in task.file_names(language)}
        others = sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith("."))
        if others:
            yield f"{folder}: not read: {listed((name + _meant(name, task) for name in others), 6)}"


def _meant(name: str, task: BenchmarkTask) -> str:
    """Which file one of another language's code may be meant for: `` (did you mean test-he.tsv, Hebrew?)``."""
    code = name.removeprefix("test-").removesuffix(f".{task.extension}")
    language = meant(code, task.languages)
    return f" (did you mean {task.file_name(language)}, {name_of(language)}?)" if language else ""


def _nothing_found(benchmark: Benchmark, predictions: Path, labels: Path) -> Problem:
    example = next(iter(benchmark.tasks.values()))
    return Problem(
        f"--predictions {predictions}",
        f"nothing of {benchmark.name} can be scored: no file is both there and in --labels {labels}",
        allowed=f"TASK/test-LANGUAGE.EXTENSION, such as {example.name}/{example.file_name(example.languages[0])}; "
        f"tasks: {listed(benchmark.tasks)}",
        remedy="name the folder that holds the tasks' folders",
    )


def run_score(benchmark: str, predictions: Path, labels: Path, output: Path | None, console: Console) -> int:
    """The command ``score``: print every table, and write the JSON to ``output`` if one is named; returns 0."""
    from xtrain.evaluation.benchmark.printing import print_scores

    scored = evaluate_folder(benchmark, predictions, labels)
    print_scores(scored, console)
    if output is not None:
        make_folder(output.parent)
        write_json(output, scored.result)
        console.print(f"written: {output}", soft_wrap=True, markup=False, highlight=False)
    return 0
