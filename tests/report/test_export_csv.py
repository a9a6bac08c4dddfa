"""CSV: tidy, unrounded, and with every number of the page's tables."""

from __future__ import annotations

import bisect
import csv
import dataclasses
import io
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from made_up_study import NASTY, content

from xtrain.report import language_groups
from xtrain.report.export.content import Export, difference_of, file_names
from xtrain.report.export.csv_files import csv_files
from xtrain.report.html import render

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_SPANS = (("h", 3600), ("min", 60), ("s", 1))


class Cells(HTMLParser):
    """The texts of all data cells of a page's tables; what a small print or a line break sets apart is apart."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self._open = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "td":
            self._open = True
            self.cells.append("")
        elif self._open:
            self.cells[-1] += " "

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells[-1] += data


def numbers(text: str) -> Iterator[tuple[float, float]]:
    """Each number of a cell, and by how much its rounding may be off. A duration is one number, in seconds."""
    span = re.fullmatch(r"(?:(\d+) h )?(?:(\d+) min)?(?: ?(\d+) s)?", text.strip())
    if span and any(span.groups()):
        seconds = sum(int(value or 0) * size for value, (_, size) in zip(span.groups(), _SPANS, strict=True))
        yield (seconds + 30.0, 30.51) if span[1] else (float(seconds), 0.51)  # the page cuts off seconds after hours
        return
    text = text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", " ")
    text = re.sub(r"[<>] ?[\d.]+", "", text)  # a bound is no value
    for match in _NUMBER.finditer(re.sub(r"(?<=\w)-", " ", text)):
        value = match[0].replace(",", "")
        yield float(value), 0.5000001 * 10.0 ** -len(value.partition(".")[2].partition("e")[0])


def missing(html: str, files: Mapping[str, str]) -> list[str]:
    """The cells of the page with a number that no CSV cell has, as it is rounded there."""
    known = sorted(
        value
        for text in files.values()
        for line in csv.reader(io.StringIO(text))
        for cell in line
        for value in _values(cell)
    )
    absent = []
    for cell in Cells(html).cells:
        for value, off in numbers(cell):
            at = bisect.bisect_left(known, value - off)
            if at == len(known) or known[at] > value + off:
                absent.append(cell)
    return absent


def _values(cell: str) -> Iterator[float]:
    try:
        yield float(cell)
    except ValueError:
        yield from (value for value, _ in numbers(cell))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_number_of_the_page_is_in_the_csv_and_no_file_is_there_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    one_family = dict.fromkeys(("de", "sw"), SimpleNamespace(family="Made-up", script="Latn"))
    monkeypatch.setattr(language_groups, "facts", one_family.get)
    made = content(languages=("en", "de", "sw", "th"))
    html, files = render(made.grid, made.study), csv_files(made)
    assert len(Cells(html).cells) > 60
    assert missing(html, files) == []
    for name in ("table.csv", "languages.csv", "groups.csv", "answers.csv", "phases.csv", "compute.csv", "data.csv"):
        rest = {key: text for key, text in files.items() if key not in (name, "scores.csv")}
        assert missing(html, rest), f"{name} has nothing of its own"


def test_scores_have_a_line_each_unrounded() -> None:
    made = content()
    lines = read(csv_files(made)["scores.csv"])
    assert len(lines) == 3 * 3 * 2 * 2 * 3 * 3  # rows, seeds, tasks, checkpoints, languages, metrics
    first = made.results[0]
    assert lines[0] == {
        "row": first.row, "seed": "0", "task": "xnli", "language": "en", "metric": "accuracy", "checkpoint": "selected",
        "value": repr(first.scores["en"]["accuracy"]),
    }  # fmt: skip


def test_the_table_has_difference_interval_and_p_where_they_are_known() -> None:
    made = content()
    lines = {
        (one["task"], one["row"], one["metric"], one["checkpoint"]): one for one in read(csv_files(made)["table.csv"])
    }
    known = lines["xnli", "mnli", "accuracy", "selected"]
    estimate = made.grid.tasks[0].estimates["mnli", None]
    assert [float(known[key]) for key in ("difference", "low", "high", "p")] == [
        estimate.value, estimate.low, estimate.high, estimate.p,
    ]  # fmt: skip
    cell = made.grid.tasks[0].means["mnli"]
    assert [float(known[key]) for key in ("mean", "median", "lowest", "highest", "seeds")] == [
        cell.mean, cell.median, cell.low, cell.high, 3,
    ]  # fmt: skip
    unknown = lines["xnli", "qqp", "accuracy", "selected"]
    assert float(unknown["difference"]) == made.grid.tasks[0].difference("qqp", None)
    assert (unknown["low"], unknown["p"]) == ("", "")
    assert lines["xnli", "none", "accuracy", "selected"]["difference"] == ""
    assert lines["xnli", "mnli", "accuracy", "last"]["median"] == repr(made.grid.tasks[0].last_means["mnli"].median)
    assert ("xnli", "qqp", "f1", "selected") in lines
    assert difference_of(made.grid.tasks[0], "none", None) == (None, None)
    average = lines["average of tasks", "mnli", "", "selected"]
    assert float(average["mean"]) == made.grid.average("mnli")
    assert (average["seeds"], average["low"]) == ("", "")


def test_languages_have_n_and_what_the_tokenizer_made_of_them() -> None:
    lines = read(csv_files(content())["languages.csv"])
    assert len(lines) == 2 * 3 * 3
    german = next(one for one in lines if (one["task"], one["language"], one["row"]) == ("xnli", "de", "mnli"))
    assert (german["name"], german["n"], german["difference"]) == ("German", "1007", "-0.77")
    assert float(german["unknown_percent"]) == pytest.approx(100 * 102 / 9011)
    assert float(german["subwords_per_word"]) == pytest.approx(9011 / 5007)
    marked = [(one["task"], one["language"], one["row"]) for one in lines if one["marks"]]
    assert marked == [("xnli", "sw", "mnli")]
    other = next(one for one in lines if one["task"] == "message_retrieval")
    assert (other["n"], other["unknown_percent"]) == ("", "")


def test_answers_have_a_line_for_each_comparison_detail_and_point() -> None:
    lines = read(csv_files(content())["answers.csv"])
    assert [(one["question"], one["part"], one["label"]) for one in lines] == [
        ("helps", "comparison", "mnli"), ("helps", "comparison", NASTY), ("helps", "comparison", "qqp"),
        ("helps", "detail", "de"), ("size", "point", "1k"), ("size", "point", "10k"),
    ]  # fmt: skip
    first, second, third, detail, point, _ = lines
    assert (first["verdict"], first["p_corrected"], first["n_items"], first["n_rows"]) == (
        "higher",
        "0.0123",
        "5010",
        "",
    )
    assert (first["score"], first["score_against"], first["effect_size"]) == ("62.1", "59.8", "0.047")
    assert (second["remarks"], second["detectable"], second["margin"]) == ("sw at chance", "1.52", "1.0")
    assert (third["value"], third["low"], third["p"], third["verdict"]) == ("1.9", "", "", "unsupported")
    assert (detail["verdict"], detail["p_corrected"]) == ("", "")
    assert (point["x"], point["n_seeds"], point["value"]) == ("1000.0", "3", "0.7")
    assert float(first["low"]) < 2.31 < float(first["high"])


def test_phases_have_attempts_hours_and_nodes() -> None:
    lines = read(csv_files(content())["phases.csv"])
    assert [one["attempts"] for one in lines] == ["1", "2", "3", "4", ""]
    assert float(lines[1]["device_hours"]) == pytest.approx(2 * 1334.5 * 8 / 3600)
    assert float(lines[1]["lost_hours"]) == pytest.approx(33 * 8 / 3600)
    assert (lines[1]["nodes"], lines[1]["devices"], lines[1]["at_least"]) == ("n0 n1", "H200", "yes")
    assert (lines[4]["status"], lines[4]["device_hours"]) == ("collapsed", "")


def test_the_same_study_gives_the_same_files_without_answers_where_nothing_is_asked() -> None:
    assert csv_files(content()) == csv_files(content())
    made = content()
    unasked = dataclasses.replace(made, study=dataclasses.replace(made.study, answers=()))
    assert "answers.csv" not in csv_files(unasked)


def test_names_of_files_are_plain_and_apart() -> None:
    assert file_names(["mnli/xnli", "mnli xnli", "ünï", "..", "A", "a"]) == {
        "mnli/xnli": "mnli-xnli", "mnli xnli": "mnli-xnli-2", "ünï": "n", "..": "unnamed", "A": "A", "a": "a-2",
    }  # fmt: skip


def test_what_a_command_line_asks_for(tmp_path) -> None:  # type: ignore[no-untyped-def]
    none = {"csv": False, "latex": False, "figures": False}
    default = tmp_path / "export"
    assert Export.chosen(None, default, **none) is None
    assert Export.chosen(tmp_path, default, **none) == Export(tmp_path, True, True, True)
    assert Export.chosen(None, default, **{**none, "csv": True}) == Export(default, True, False, False)
    assert Export.chosen(tmp_path, default, **{**none, "latex": True}) == Export(tmp_path, False, True, False)
