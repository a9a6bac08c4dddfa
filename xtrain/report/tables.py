"""The terminal's tables: per task a line a language, a column a row, and the differences to the base row."""

from __future__ import annotations

import bisect
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from xtrain.errors import counted, listed
from xtrain.questions.answer import Answer
from xtrain.questions.sentences import format_difference as format_difference
from xtrain.report.languages import ENGLISH, ascii_only, language_name
from xtrain.report.statistics import Cell, Grid, TaskGrid

TWO_BLOCKS_FROM = 41  # languages
TWO_BLOCKS_WIDTH = 100  # columns of the terminal
HEADER_WIDTH = 12  # longer names of rows are wrapped
NOTHING = "-"


def print_answers(answers: Sequence[Answer], console: Console) -> None:
    """Print the study's questions, each with its answer, what that cannot say, and what would help."""
    plain = is_plain(console)
    for answer in answers:
        console.print()
        console.print(Text(_ascii_if(answer.question, plain), style="bold"), soft_wrap=plain)
        console.print(Text(_ascii_if(answer.sentence, plain)), soft_wrap=plain)
        for line in (*answer.limits, *answer.advice):
            console.print(Text(_ascii_if(f"- {line}", plain), style="dim"), soft_wrap=plain)


def print_tables(grid: Grid, console: Console, disclaimer: str = "") -> None:
    """Print every task's table; a ``disclaimer`` ends it where the numbers are no benchmark."""
    plain = is_plain(console)
    for task in grid.tasks:
        console.print()
        console.print(Text(_title(task), style="bold"))
        for number, table in enumerate(task_tables(task, console)):
            if number:
                console.print()
            console.print(table)
        for note in [*notes(task), *(mark_note(*entry) for entry in marked_cells(task).items())]:
            console.print(Text(_ascii_if(note, plain), style="dim"))
    if len(grid.tasks) > 1:
        console.print()
        console.print(Text("Mean over languages, by task", style="bold"))
        if any(task.intervals for task in grid.tasks):
            console.print(Text(f"diff {_plus_minus(plain)} half of its 95 % interval", style="dim"))
        console.print(overview_table(grid, plain))
    if disclaimer:
        console.print()
        console.print(Text(_ascii_if(disclaimer, plain), style="bold yellow"))


def task_tables(task: TaskGrid, console: Console) -> list[Table]:
    """The table of a task; several, with the base row in each, where the rows are too many for one width."""
    plain = is_plain(console)
    rows = list(task.rows)
    fixed, free = ([task.base_row], rows[1:]) if task.base_row else ([], rows)

    def of(size: int) -> list[list[str]]:
        return [[*fixed, *free[i : i + size]] for i in range(0, len(free), size)] or [fixed]

    def made(size: int) -> list[Table]:
        return [_table(task, group, plain, num_blocks=1) for group in of(size)]

    sizes = range(len(free), 1, -1)  # making and measuring all of them would take longer than the page
    best = bisect.bisect_left(sizes, True, key=lambda size: all(_fits(table, console) for table in made(size)))
    size = sizes[best] if best < len(sizes) else 1
    groups, tables = of(size), made(size)
    if len(task.languages) >= TWO_BLOCKS_FROM and console.width >= TWO_BLOCKS_WIDTH:
        wide = [_table(task, group, plain, num_blocks=2) for group in groups]
        if all(_fits(table, console) for table in wide):
            return wide
    return tables


def overview_table(grid: Grid, plain: bool) -> Table:
    """Rows x tasks: the mean over languages and its difference to the base row; the tasks' average last."""
    table = empty_table(plain)
    table.add_column("row")
    for task in grid.tasks:
        table.add_column(_ascii_if(task.task, plain), justify="right")
        if task.compared_rows:
            table.add_column("diff", justify="right")
    if len(grid.tasks) > 1:
        table.add_column("average", justify="right")
    for row in grid.rows:
        cells: list[Text] = [Text(_ascii_if(row, plain))]
        for task in grid.tasks:
            cells.append(_score(task.cell(row, None)))
            if task.compared_rows:
                cells.append(_difference(task, row, None, half_width=_plus_minus(plain)))
        if len(grid.tasks) > 1:
            cells.append(_number(grid.average(row)))
        table.add_row(*cells)
    return table


def notes(task: TaskGrid) -> Iterator[str]:
    """The lines under a task's table: what is needed to read it rightly."""
    yield f"{task.metric} in percent" + (", diff in points against the row none" if task.compared_rows else "")
    baselines = set(task.baseline.values())
    if len(baselines) == 1:
        yield f"answering one class always would score {baselines.pop():.1f}"
    elif task.baseline:
        yield "majority: what answering the most frequent class always would score"
    shared, missing = len(task.mean_languages), _not_averaged(task)
    if missing:
        yield f"the mean is over {counted(shared, 'language')} that every run has, zero-shot; {missing} not in it"
    counts = {row: cell.num_seeds for row, cell in task.means.items()}
    if task.num_seeds > 1:
        yield f"means of {counted(task.num_seeds, 'seed')}, with the lowest and the highest"
        short = [f"{row} {count}" for row, count in counts.items() if count < task.num_seeds]
        if short:
            yield f"fewer seeds: {', '.join(short)}"
    else:
        yield "one seed: two runs of one configuration can differ by as much as a difference shown here"
    if task.compared_rows:
        yield _colour_note(task)
    if task.last_means:
        yield "last step: the mean with the weights of the last step, not those that were best on English dev"


def marked_cells(task: TaskGrid) -> dict[str, dict[str, list[str]]]:
    """What the marks say: by text, then by row, the languages; in the order of the table."""
    said: dict[str, dict[str, list[str]]] = {}
    for language in task.languages:
        for row in task.rows:
            for text in task.marks.get((row, language), ()):
                said.setdefault(text, {}).setdefault(row, []).append(language)
    return said


def mark_note(text: str, places: Mapping[str, Sequence[str]]) -> str:
    """``at chance: mnli (sw, th), qqp (th)``."""
    return f"{text}: {', '.join(f'{row} ({listed(languages)})' for row, languages in places.items())}"


def _not_averaged(task: TaskGrid) -> int:
    """How many languages are not in the mean although they are not English."""
    return len(set(task.languages) - set(task.mean_languages) - {ENGLISH})


def _colour_note(task: TaskGrid) -> str:
    """When a difference has a colour, and when it is bold."""
    if not task.intervals:
        return "no intervals are known, so no difference has a colour"
    rows = len(task.compared_rows)
    corrected = f", bold: also corrected for {rows} rows (Holm)" if rows > 1 else ""
    return f"colour: the 95 % interval of the difference leaves 0 out{corrected}"


def signed(points: float, decimals: int = 1) -> str:
    """The same with a true minus sign, for the page and its figures."""
    return format_difference(points, decimals).replace("-", "\N{MINUS SIGN}")


def _title(task: TaskGrid) -> str:
    return f"{task.task}: {task.metric}, {counted(len(task.languages), 'language')}"


def is_plain(console: Console) -> bool:
    """Whether what is printed should be plain ASCII: in a log."""
    return not console.is_terminal or console.legacy_windows


def _ascii_if(text: str, plain: bool) -> str:
    return ascii_only(text) if plain else text


def _plus_minus(plain: bool) -> str:
    return "+/-" if plain else "\N{PLUS-MINUS SIGN}"


def _fits(table: Table, console: Console) -> bool:
    unlimited = console.options.update(max_width=10_000)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def empty_table(plain: bool) -> Table:
    """A table in the style of all others, in ASCII where it is ``plain``."""
    return Table(
        box=box.ASCII if plain else box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
    )


def _table(task: TaskGrid, rows: Sequence[str], plain: bool, num_blocks: int) -> Table:
    table = empty_table(plain)
    for block in range(num_blocks):
        if block:
            table.add_column("")
        _add_columns(table, task, rows, plain)
    height = -(-len(task.languages) // num_blocks)
    for n in range(height):
        line: list[Text] = []
        for block in range(num_blocks):
            if block:
                line.append(Text(""))
            at = n + block * height
            line.extend(_line(task, rows, task.languages[at], plain) if at < len(task.languages) else ())
        table.add_row(*line, end_section=n == height - 1)
    table.add_row(*_mean_line(task, rows))
    if task.num_seeds > 1:
        for title, side in (("lowest seed", "low"), ("highest seed", "high")):
            values = {row: f"{getattr(cell, side):.1f}" for row, cell in task.means.items()}
            table.add_row(*_foot_line(task, rows, title, values), style="dim")
    if task.last_means:
        last = {row: f"{cell.mean:.1f}" for row, cell in task.last_means.items()}
        table.add_row(*_foot_line(task, rows, "last step", last), style="dim")
    return table


def _add_columns(table: Table, task: TaskGrid, rows: Sequence[str], plain: bool) -> None:
    table.add_column("language", no_wrap=True)
    for row in rows:
        name = "\n".join(textwrap.wrap(_ascii_if(row, plain), HEADER_WIDTH))
        table.add_column(Text(name), justify="right", no_wrap=True)
        if row in task.compared_rows:
            table.add_column("diff", justify="right", no_wrap=True)
    if has_baseline_column(task):
        table.add_column("majority", justify="right", no_wrap=True, style="dim")


def has_baseline_column(task: TaskGrid) -> bool:
    """Whether the baseline differs between languages; if it does not, a note says it once."""
    return len(set(task.baseline.values())) > 1


def _line(task: TaskGrid, rows: Sequence[str], language: str, plain: bool) -> list[Text]:
    name = _ascii_if(language_name(language), plain)
    width = max(map(len, task.languages))
    line = [Text.assemble((language.ljust(width), "bold"), f"  {name}" if name else "")]
    for row in rows:
        line.append(_score(task.cell(row, language)))
        if row in task.compared_rows:
            line.append(_difference(task, row, language))
    if has_baseline_column(task):
        line.append(_number(task.baseline.get(language)))
    return line


def _mean_line(task: TaskGrid, rows: Sequence[str]) -> list[Text]:
    line = [Text(task.mean_name)]
    for row in rows:
        line.append(_score(task.cell(row, None)))
        if row in task.compared_rows:
            line.append(_difference(task, row, None))
    if has_baseline_column(task):
        line.append(_number(task.baseline_mean))
    return line


def _foot_line(task: TaskGrid, rows: Sequence[str], title: str, values: Mapping[str, str]) -> list[Text]:
    line = [Text(title)]
    for row in rows:
        line.append(Text(values.get(row, NOTHING)))
        if row in task.compared_rows:
            line.append(Text(""))
    return line


def _score(cell: Cell | None) -> Text:
    return _number(cell.mean if cell else None)


def _number(value: float | None) -> Text:
    return Text(NOTHING if value is None else f"{value:.1f}")


def _difference(task: TaskGrid, row: str, language: str | None, half_width: str = "") -> Text:
    """The points, with colour and bold where an interval allows; ``half_width`` stands before half the interval."""
    points = task.difference(row, language) if row in task.compared_rows else None
    if points is None:
        return Text("" if row == task.base_row else NOTHING)
    text = format_difference(points)
    style = {"+": "green", "-": "red"}.get(text[0], "") if task.found(row, language) else ""
    if language is None and task.found_among_rows(row):
        style = f"bold {style}".strip()
    interval = task.intervals.get((row, language))
    if half_width and interval:
        text += f" {half_width}{(interval[1] - interval[0]) / 2:.1f}"
    return Text(text, style=style)
