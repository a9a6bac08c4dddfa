"""The report's tables as LaTeX with booktabs: a file a table, and ``preview.tex``, which has them all.

A paper needs ``\\usepackage{booktabs,longtable}`` and ``\\input{table}``. No cell spans columns, so that a table can be
cut and pasted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from xtrain.errors import counted
from xtrain.questions.answer import Answer, Comparison
from xtrain.report.export.content import Content, difference_of, file_names
from xtrain.report.languages import ascii_only, language_name
from xtrain.report.page_tables import footnotes
from xtrain.report.statistics import Cell, TaskGrid
from xtrain.report.tables import has_baseline_column
from xtrain.statistics.estimate import LEVEL, Estimate

TASKS_A_BLOCK = 5  # columns of the table of rows x tasks, as many as a page is wide
ROWS_A_BLOCK = 3  # compared rows of a table by language; the base row is in every block
NOTHING = "--"
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}",
    "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{EM DASH}": "---",
    "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}", "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$", "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$", "\N{NO-BREAK SPACE}": "~", "\n": " ", "\t": " ",
}  # fmt: skip
_LAST_LATIN = 0x17F  # what T1 fonts have; other letters become ASCII


def latex_files(content: Content) -> dict[str, str]:
    """The text of each file by its name; ``preview.tex`` is a document of its own."""
    study = content.study.name
    files = {"table.tex": _main_table(content)}
    names = file_names(task.task for task in content.grid.tasks)
    for task in content.grid.tasks:
        files[f"languages-{names[task.task]}.tex"] = _language_tables(study, task)
    if content.study.answers:
        files["answers.tex"] = "".join(_answer_tables(study, answer) for answer in content.study.answers)
    return {**files, "preview.tex": _preview(content, list(files))}


def escape(text: str) -> str:
    """``text`` as LaTeX prints it; letters beyond Latin without their accents, or as question marks.

    What may follow the end of a line of a table (``\\\\[2ex]``, ``\\\\*``) is in braces.
    """
    return "".join(
        _SPECIAL.get(letter) or (letter if ord(letter) <= _LAST_LATIN else ascii_only(letter)) for letter in text
    )


def _signed(points: float) -> str:
    """``$+1.3$``; without a sign where it rounds to nothing."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else f"${text}$"


def _number(value: float) -> str:
    """In an interval: with one digit, minus as a sign."""
    text = f"{value:.1f}"
    return f"${text}$" if text.startswith("-") else text


def _score(cell: Cell | None) -> str:
    return NOTHING if cell is None else f"{cell.mean:.1f}"


def _difference(task: TaskGrid, row: str, language: str | None) -> str:
    """``$+1.3$ [0.4, 2.2]``; empty in the base row."""
    points, estimate = difference_of(task, row, language)
    if points is None:
        return NOTHING if row in task.compared_rows else ""
    interval = f" [{_number(estimate.low)}, {_number(estimate.high)}]" if estimate is not None else ""
    return _signed(points) + interval


def _small(text: str) -> str:
    return rf"{{\scriptsize {text}}}" if text else ""


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _about(task: TaskGrid | None, tasks: Sequence[TaskGrid], *, beneath: bool) -> str:
    """What a caption says of the numbers: seeds, differences, intervals, marks."""
    tasks = [task] if task is not None else tasks
    seeds = max(one.num_seeds for one in tasks)
    parts = [f"Scores are means over {counted(seeds, 'seed')}" if seeds > 1 else "One seed"]
    base = next((one.base_row for one in tasks if one.compared_rows), None)
    if base is not None:
        known = any(estimate.known for one in tasks for estimate in one.estimates.values())
        what = f"points against the row {base}{f' with the {LEVEL:.0%} interval' if known else ''}"
        parts.append(f"{'beneath' if beneath else 'diff'}: {what}")
    marks = [f"{symbol}: {text}" for symbol, text, _ in footnotes(task)] if task is not None else []
    return f"{'; '.join([*parts, *marks])}."


def _main_table(content: Content) -> str:
    """Rows x tasks, in blocks of tasks one below the other."""
    grid = content.grid
    metrics = dict.fromkeys(task.metric for task in grid.tasks)
    what = f"Zero-shot means over the languages of each task, {', '.join(metrics)} in percent"
    caption = escape(f"{content.study.name}: {what}. {_about(None, grid.tasks, beneath=True)}")
    blocks = [grid.tasks[at : at + TASKS_A_BLOCK] for at in range(0, len(grid.tasks), TASKS_A_BLOCK)]
    tabulars = "\n\n\\medskip\n".join("\n".join(_block(tasks, grid.rows)) for tasks in blocks)
    label = _label(content.study.name, "table")
    head = f"\\begin{{table}}[t]\n\\centering\\small\n\\caption{{{caption}}}\n\\label{{{label}}}\n"
    return f"{head}{tabulars}\n\\end{{table}}\n"


def _block(tasks: Sequence[TaskGrid], rows: Sequence[str]) -> Iterator[str]:
    yield f"\\begin{{tabular}}{{l{'r' * len(tasks)}}}"
    yield r"\toprule"
    yield _line(["", *(escape(task.task) for task in tasks)])
    yield _line(["", *(_small(escape(f"{task.metric}, {task.mean_name}")) for task in tasks)])
    yield r"\midrule"
    for row in rows:
        yield _line([escape(row), *(_score(task.cell(row, None)) for task in tasks)])
        differences = [_small(_difference(task, row, None)) if row in task.compared_rows else "" for task in tasks]
        if any(differences):
            yield _line(["", *differences])
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _language_tables(study: str, task: TaskGrid) -> str:
    """A line a language; several tables where the rows are more than a page is wide."""
    fixed = (task.base_row,) if task.base_row is not None else ()
    free = [row for row in task.rows if row not in fixed]
    groups = [(*fixed, *free[at : at + ROWS_A_BLOCK]) for at in range(0, len(free), ROWS_A_BLOCK)] or [fixed]
    tables = []
    for number, rows in enumerate(groups, 1):
        part = f" ({number} of {len(groups)})" if len(groups) > 1 else ""
        caption = f"{study}, {task.task}: {task.metric} in percent by language{part}. {_about(task, (), beneath=False)}"
        label = _label(study, task.task + (f" {number}" if len(groups) > 1 else ""))
        tables.append("\n".join(_language_table(task, rows, escape(caption), label)))
    return "".join(f"{table}\n" for table in tables)


def _language_table(task: TaskGrid, rows: Sequence[str], caption: str, label: str) -> Iterator[str]:
    majority = has_baseline_column(task)
    heads = ["", "language"]
    for row in rows:
        heads += [escape(row), *(["diff"] if row in task.compared_rows else [])]
    heads += ["majority"] * majority
    lines = [
        _line([escape(language), escape(language_name(language)), *_language_cells(task, rows, language, majority)])
        for language in task.languages
    ]
    mean = _line(["", task.mean_name, *_language_cells(task, rows, None, majority)])
    yield from _long_table(f"ll{'r' * (len(heads) - 2)}", heads, [*lines, r"\midrule", mean], caption, label)


def _language_cells(task: TaskGrid, rows: Sequence[str], language: str | None, majority: bool) -> Iterator[str]:
    symbols = {text: symbol for symbol, text, _ in footnotes(task)}
    for row in rows:
        marks = [symbols[text] for text in task.marks.get((row, language), ())] if language is not None else []
        yield _score(task.cell(row, language)) + (rf"\textsuperscript{{{','.join(marks)}}}" if marks else "")
        if row in task.compared_rows:
            yield _small(_difference(task, row, language))
    if majority:
        value = task.baseline_mean if language is None else task.baseline.get(language)
        yield NOTHING if value is None else f"{value:.1f}"


def _answer_tables(study: str, answer: Answer) -> str:
    """A line for each comparison that the question asks for; then the points of its curve."""
    tables = [_answer_table(study, answer)] if answer.comparisons else []
    if answer.curve:
        heads = [escape(answer.x_name), "", "estimate", f"{LEVEL:.0%} interval".replace("%", r"\%")]
        lines = [_line([f"{one.x:g}", escape(one.label), *_estimate(one.estimate)]) for one in answer.curve]
        caption = escape(f"{answer.question} {answer.sentence} The points of the curve; in {answer.unit}.")
        label = _label(study, f"{answer.name} curve")
        tables.append("\n".join(_long_table("rlrc", heads, lines, caption, label)))
    return "".join(f"{table}\n" for table in tables)


def _answer_table(study: str, answer: Answer) -> str:
    grouped = any(one.group for one in answer.comparisons)
    heads = [*(["group"] if grouped else []), "comparison", "estimate", f"{LEVEL:.0%} interval".replace("%", r"\%"),
             "$p$", "$p$ (Holm)", "found", "sampled"]  # fmt: skip
    lines = [_line([*([escape(one.group)] if grouped else []), *_comparison(one)]) for one in answer.comparisons]
    against = f" Against {answer.against}." if answer.against else ""
    margin = f" Equivalent means within {answer.margin:g}." if answer.margin is not None else ""
    caption = f"{answer.question} {answer.sentence} In {answer.unit}.{against}{margin} {' '.join(answer.limits)}"
    columns = f"{'l' * grouped}lrcrrll"
    return "\n".join(_long_table(columns, heads, lines, escape(caption.strip()), _label(study, answer.name)))


def _comparison(one: Comparison) -> Iterator[str]:
    estimate = one.estimate
    yield escape(one.label)
    yield from _estimate(estimate)
    yield _p(estimate.p) if estimate.known else NOTHING
    yield NOTHING if one.p_corrected is None else _p(one.p_corrected)
    yield escape(str(one.verdict))
    yield escape(", ".join(f"{number:,} {name}" for name, number in one.counts.items()))


def _estimate(estimate: Estimate) -> Iterator[str]:
    """Value and interval."""
    yield NOTHING if math.isnan(estimate.value) else _signed(estimate.value)
    yield f"[{_number(estimate.low)}, {_number(estimate.high)}]" if estimate.known else NOTHING


def _p(value: float) -> str:
    return "$<$0.001" if value < 0.001 else f"{value:.3f}"


def _long_table(columns: str, heads: Sequence[str], lines: Sequence[str], caption: str, label: str) -> Iterator[str]:
    yield r"{\small"
    yield f"\\begin{{longtable}}{{{columns}}}"
    yield f"\\caption{{{caption}}}\\label{{{label}}}\\\\"
    yield from (r"\toprule", _line(heads), r"\midrule", r"\endfirsthead")
    yield from (r"\toprule", _line(heads), r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot")
    yield from lines
    yield r"\end{longtable}"
    yield "}"


def _label(study: str, name: str) -> str:
    plain = file_names([f"{study} {name}"])
    return f"tab:{next(iter(plain.values())).replace('_', '-')}"


def _preview(content: Content, names: Sequence[str]) -> str:
    lines = [
        r"\documentclass[10pt]{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[T1]{fontenc}",
        r"\usepackage[a4paper,margin=18mm]{geometry}",
        r"\usepackage{booktabs,longtable}",
        r"\begin{document}",
        rf"\section*{{{escape(content.study.name)}}}",
        f"Base model: {escape(content.study.base)}. {escape(content.study.disclaimer)}",
        *(f"\\input{{{name.removesuffix('.tex')}}}" for name in names),
        r"\end{document}",
    ]
    return "\n".join(lines) + "\n"
