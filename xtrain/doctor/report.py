"""How findings are shown: tables on a terminal, plain lines in a log, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from xtrain.doctor.findings import LEVELS, NOTE, OK, PROBLEM, WARNING, Section, Table, count, worst
from xtrain.errors import counted

_STYLES = {OK: "green", NOTE: "cyan", WARNING: "yellow", PROBLEM: "bold red"}
_WIDTH = max(map(len, LEVELS))


def show_section(section: Section, console: Console) -> None:
    """One line a check, what to do under it, and the section's tables."""
    if console.is_terminal:
        console.print(_rich_section(section))
        for table in section.tables:
            console.print(_rich_table(table))
        return
    lines = [section.title]
    for finding in section.findings:
        lines.append(f"  {finding.level:{_WIDTH}}  {finding.looked_at}: {finding.found}")
        if finding.to_do:
            lines.append(f"  {'':{_WIDTH}}    to do: {finding.to_do}")
    for table in section.tables:
        lines += _plain_table(table)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _rich_section(section: Section) -> RichTable:
    grid = RichTable(
        title=Text(section.title, "bold"),
        title_justify="left",
        box=None,
        show_header=False,
        padding=(0, 1),
        expand=False,
    )
    grid.add_column(no_wrap=True, min_width=_WIDTH)
    grid.add_column(no_wrap=True, min_width=20, max_width=26, overflow="fold")
    grid.add_column(overflow="fold")
    for finding in section.findings:
        found = Text(finding.found)
        if finding.to_do:
            style = "dim" if finding.level == NOTE else "italic"
            found.append(f"\nto do: {finding.to_do}", style)
        grid.add_row(Text(finding.level, _STYLES[finding.level]), Text(finding.looked_at), found)
    return grid


def _rich_table(table: Table) -> RichTable:
    shown = RichTable(*table.columns, title=table.title, title_justify="left")
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _plain_table(table: Table) -> list[str]:
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"  {table.title}", *(f"    {line}" for line in padded)]


def show_verdict(sections: Sequence[Section], console: Console) -> None:
    """The last line: how many of what."""
    findings = [finding for section in sections for finding in section.findings]
    counts = [
        f"{count(findings, level)} {_plural(level, count(findings, level))}" for level in (PROBLEM, WARNING, NOTE)
    ]
    level = worst(findings)
    text = f"{counted(len(findings), 'check')}: {', '.join(counts)}"
    console.print(text, style=_STYLES[level] if console.is_terminal else None, highlight=False)


def _plural(level: str, number: int) -> str:
    return level if number == 1 else f"{level}s"


def as_json(sections: Sequence[Section]) -> str:
    """Everything, for a program."""
    findings = [finding for section in sections for finding in section.findings]
    value: dict[str, Any] = {
        "level": worst(findings),
        "counts": {level: count(findings, level) for level in LEVELS},
        "sections": [section.to_mapping() for section in sections],
    }
    return json.dumps(value, indent=2, ensure_ascii=False)
