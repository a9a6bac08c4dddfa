"""Writes the leaderboard's folder from the predictions in a finished study's run directories, and checks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from xtrain.config import read_toml
from xtrain.errors import EXIT_USER, Problem, UserError, counted, listed, nearest, raise_if_any
from xtrain.evaluation.benchmark import layout
from xtrain.evaluation.benchmark.checking import check_submission
from xtrain.evaluation.benchmark.layout import Benchmark, BenchmarkTask, Kind
from xtrain.files import make_folder, read_text, write_text
from xtrain.run_directory import RunDirectory

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation phase of one of the benchmark's tasks."""

    run: RunDirectory
    study: str
    row: str
    """The intermediate row of the study's table."""
    task: str
    seed: int | None
    """None where no training, and so no seed, is in it: the base model, evaluated once for all seeds."""
    split: str
    sample: Mapping[str, Any] | None
    """How a part of the test set was drawn, where only a part was predicted."""


def find_evaluations(out: Path, benchmark: Benchmark) -> list[Evaluated]:
    """The finished evaluations below ``out`` of tasks of ``benchmark``, in the order of their folders."""
    found = []
    for path in sorted((out / "evaluate").glob("*/phase.toml")):
        run = RunDirectory(path.parent)
        phase = read_toml(path)
        task = phase["tasks"][0]
        if phase["kind"] != "evaluate" or task not in benchmark.tasks or not run.done:
            continue
        seed = int(phase["seed"])
        protocol = run.read_scores()["protocol"]["tasks"][task]
        found.append(
            Evaluated(
                run=run,
                study=phase["study"],
                row=phase["name"].removesuffix(f"/{task}-s{seed}"),
                task=task,
                seed=seed if phase.get("parent") else None,
                split=protocol["split"],
                sample=protocol.get("sample"),
            )
        )
    if not found:
        raise UserError(
            Problem(
                str(out),
                f"no finished evaluation of a task of {benchmark.name} lies here",
                allowed=f"an output folder of a study with targets among {listed(benchmark.tasks)}",
                remedy="name the folder that was given with --out; `python -m xtrain plan STUDY` says what is done",
            )
        )
    return found


def choose(found: Sequence[Evaluated], row: str | None, seed: int | None) -> list[Evaluated]:
    """The evaluations of one row and one seed, one a task.

    ``row`` and ``seed`` may be None where there is but one. An evaluation on the test set goes before one on
    the dev set of the same task. Raises a :class:`UserError` that lists the choices, or refuses what no
    leaderboard can score: predictions on dev, or of a part of the test set.
    """
    rows = list(dict.fromkeys(one.row for one in found))
    row = _one_of("--row", row, rows)
    found = [one for one in found if one.row == row]
    seeds = sorted({one.seed for one in found if one.seed is not None})
    if seeds:
        number = _one_of("--seed", None if seed is None else str(seed), [str(one) for one in seeds])
        found = [one for one in found if one.seed in (None, int(number))]
    problems: list[Problem] = []
    chosen = []
    for task in dict.fromkeys(one.task for one in found):
        ones = [one for one in found if one.task == task]
        best = [one for one in ones if one.split == "test" and one.sample is None] or ones
        if len(best) > 1:
            remedy = "keep one, and move the run directories of the others away"
            problems += [Problem(str(one.run.path), f"one of {len(best)} evaluations of {task}", "", remedy)
                         for one in best]  # fmt: skip
            continue
        problems += _refused(best[0])
        chosen += best
    raise_if_any(problems)
    return chosen


def _one_of(flag: str, value: str | None, choices: Sequence[str]) -> str:
    """``value`` if it is among ``choices``, or the only choice there is."""
    if value is None and len(choices) == 1:
        return choices[0]
    if value is None:
        what = f"must be chosen: there are {len(choices)}"
        raise UserError(Problem(flag, what, listed(choices), f"add {flag} {choices[0]!r}, for example"))
    if value not in choices:
        raise UserError(Problem(f"{flag} {value}", "is not there", listed(choices), nearest(value, choices)))
    return value


def _refused(one: Evaluated) -> list[Problem]:
    """Why the predictions of ``one`` cannot be submitted, if so."""
    problems = []
    if one.split != "test":
        what = f"these are predictions of {one.task}'s {one.split} set: a submission needs the test set's"
        remedy = 'say evaluation.split = "test" in the study and run it again; training is kept'
        problems.append(Problem(str(one.run.path), what, remedy=remedy))
    if one.sample is not None:
        examples, of = (sum(one.sample[count].values()) for count in ("examples", "of"))
        what = f"only a sample of {one.task} was predicted: {examples:,} of {of:,} examples"
        problems.append(
            Problem(str(one.run.path), what, remedy="leave evaluation.limit out of the study and run it again")
        )
    return problems


def write_submission(
    out: Path,
    benchmark: str,
    folder: Path,
    *,
    row: str | None = None,
    seed: int | None = None,
) -> list[Evaluated]:
    """Write ``folder/{task}/test-{language}.{extension}`` from the evaluations below ``out``.

    ``row`` (an intermediate row's name) and ``seed`` choose among several. ``folder`` must be new or empty.
    Returns what was written, one evaluation a task.
    """
    known = layout.get(benchmark)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            Problem(str(folder), "is not empty", remedy="name another folder, so that no old file is submitted")
        )
    chosen = choose(find_evaluations(out, known), row, seed)
    texts: dict[Path, str] = {}
    problems: list[Problem] = []
    for one in chosen:
        task = known.tasks[one.task]
        for language in task.languages:
            path = one.run.predictions / task.name / f"{language}.jsonl"
            if path.is_file():
                try:
                    texts[folder / task.name / task.file_name(language)] = _text(task, path)
                except UserError as error:
                    problems += error.problems
    raise_if_any(problems)
    for path, text in texts.items():
        make_folder(path.parent)
        write_text(path, text)
    return chosen


def _text(task: BenchmarkTask, path: Path) -> str:
    """The content of the leaderboard's file for the predictions in ``path``."""
    rows = _read_rows(path)
    try:
        if task.kind == "index":
            return _lines(_indices(rows, path))
        return _WRITERS[task.kind](rows)
    except KeyError as error:
        raise UserError(Problem(str(path), f"a row has no {error}", remedy="evaluate the task again")) from None


def _read_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(Problem(f"{path}:{number}", f"not JSON: {error.msg}", remedy="evaluate again")) from None
    return rows


def _lines(values: Sequence[object]) -> str:
    return "".join(f"{value}\n" for value in values)


def _object(rows: Sequence[Row]) -> str:
    return json.dumps({row["id"]: row["prediction"] for row in rows}, ensure_ascii=False, indent=1) + "\n"


_WRITERS: Mapping[Kind, Callable[[Sequence[Row]], str]] = {
    "label": lambda rows: _lines([row["prediction"] for row in rows]),
    "choice": lambda rows: _lines([json.dumps({"label": int(row["prediction"])}) for row in rows]),
    "tags": lambda rows: "\n".join(_lines(row["prediction"]) for row in rows),
    "pairs": lambda rows: _lines(
        [f"{row['id']}\t{row['prediction']}" for row in rows if row["prediction"] is not None]
    ),
    "answers": _object,
    "ranking": _object,
}


def _indices(rows: Sequence[Row], path: Path) -> list[int]:
    """The rows of the foreign hits, for the English queries as XTREME's download script sorts them."""
    places = {row["id"]: number for number, row in enumerate(rows)}
    try:
        return [places[row["prediction_from_english"]] for row in sorted(rows, key=lambda row: int(row["line"]))]
    except KeyError as error:
        raise UserError(Problem(str(path), f"{error} is no id of a row", remedy="evaluate the task again")) from None


def run_submission(
    out: Path,
    benchmark: str,
    folder: Path,
    *,
    row: str | None = None,
    seed: int | None = None,
    labels: Path | None = None,
    console: Console,
) -> int:
    """The command ``submission``: write, check, and say whether the folder is ready.

    Returns 0 if it is, 2 if languages or tasks are missing; raises a :class:`UserError` for mistakes.
    """
    chosen = write_submission(out, benchmark, folder, row=row, seed=seed)
    for one in chosen:
        seed_name = "no seed" if one.seed is None else f"seed {one.seed}"
        _say(console, f"{one.task}: {one.row}, {seed_name}, from {one.run.path}")
    checked = check_submission(folder, benchmark, labels)
    for note in checked.notes:
        _say(console, f"note: {note}")
    for entry in checked.missing:
        _say(console, f"missing: {entry.task}: {' '.join(entry.languages)}")
    against = "the labels" if labels is not None else "the benchmark's known row counts"
    if checked.ready:
        _say(console, f"ready: {folder}, {counted(checked.files, 'file')}, checked against {against}")
        return 0
    _say(console, f"written, but not ready: {folder}, {counted(checked.files, 'file')}")
    raise_if_any(checked.problems)
    return EXIT_USER


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)
