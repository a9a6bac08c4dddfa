"""Writes what was asked for into ``csv/``, ``latex/`` and ``figures/`` of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from xtrain.errors import counted
from xtrain.files import make_folder, write_bytes
from xtrain.report.export.content import Content, Export
from xtrain.report.export.csv_files import csv_files
from xtrain.report.export.figure_files import figure_files
from xtrain.report.export.latex import latex_files


def write_export(export: Export, content: Content) -> str:
    """Write the files; returns a line that says what was written. Raises a :class:`xtrain.errors.UserError` where the
    folder cannot be written into."""
    said = []
    if export.csv:
        number = _write(export.folder / "csv", _encoded(csv_files(content)))
        said.append(counted(number, "CSV file"))
    if export.latex:
        number = _write(export.folder / "latex", _encoded(latex_files(content)))
        said.append(f"{counted(number, 'LaTeX file')} (preview.tex has all)")
    if export.figures:
        number = _write(export.folder / "figures", figure_files(content))
        said.append(f"{counted(number // 2, 'figure')} as SVG and PDF")
    return f"exported into {export.folder}: {', '.join(said)}"


def _encoded(files: dict[str, str]) -> Iterable[tuple[str, bytes]]:
    return ((name, text.encode("utf-8")) for name, text in files.items())


def _write(folder: Path, files: Iterable[tuple[str, bytes]]) -> int:
    make_folder(folder)
    number = 0
    for number, (name, data) in enumerate(files, 1):  # noqa: B007 (counted)
        write_bytes(folder / name, data)
    return number
