"""Languages in groups: English first, families, then what is alone, not known, or not zero-shot."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from made_up import result

from xtrain.report import language_groups as module
from xtrain.report.language_groups import LanguageGroup, language_groups
from xtrain.report.page_tables import task_tables
from xtrain.report.statistics import TaskGrid, assemble

FACTS = {
    "de": ("Indo-European", "Latn"),
    "ru": ("Indo-European", "Cyrl"),
    "bg": ("Indo-European", "Cyrl"),
    "fi": ("Uralic", "Latn"),
    "et": ("Uralic", "Latn"),
    "ja": ("Japanese", "Jpan"),
    "en": ("Indo-European", "Latn"),
}


@pytest.fixture(autouse=True)
def _facts(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {code: SimpleNamespace(family=family, script=script) for code, (family, script) in FACTS.items()}
    monkeypatch.setattr(module, "facts", known.get)


def grid(codes: str, marks: dict[tuple[str, str], tuple[str, ...]] | None = None) -> TaskGrid:
    scores = {code: 50.0 + n for n, code in enumerate(codes.split())}
    better = {code: score + 1 for code, score in scores.items()}
    return assemble([result("none", scores), result("a", better)], {"xnli": marks or {}}).tasks[0]


def test_families_by_name_in_them_scripts_then_codes() -> None:
    assert language_groups(grid("fi en ru et bg de ja xx")) == (
        LanguageGroup("", ("en",)),
        LanguageGroup("Indo-European", ("de", "bg", "ru"), subtotal=True),
        LanguageGroup("Uralic", ("et", "fi"), subtotal=True),
        LanguageGroup("Families of one language here", ("ja",)),
        LanguageGroup("Family not known", ("xx",)),
    )


def test_what_some_row_was_trained_on_stands_apart() -> None:
    groups = language_groups(grid("de ru bg", {("a", "de"): ("not zero-shot: de",), ("a", "ru"): ("at chance",)}))
    assert groups[0].languages == ("bg", "ru")
    assert groups[-1] == LanguageGroup("Not zero-shot", ("de",))


def test_without_facts_there_is_one_group_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "facts", lambda code: None)
    assert language_groups(grid("en sw de")) == (LanguageGroup("", ("en",)), LanguageGroup("", ("de", "sw")))


def test_the_table_has_subtotals_notes_and_three_orders() -> None:
    (table,) = task_tables(grid("fi en ru et de ja"))
    (english,) = table.english
    lines = [line for block in table.blocks for line in block]
    assert english.label == "en"
    assert [line.label for line in lines] == [
        "Indo-European (2)", "de", "ru", "Uralic (2)", "et", "fi", "Families of one language here (1)", "ja",
    ]  # fmt: skip
    family = lines[0]
    assert [cell.score for cell in family.cells] == ["53.0", "54.0"], "ru 52, de 54"
    assert family.cells[1].difference == "+1.0"
    assert not family.cells[1].side
    assert not lines[6].cells, "different families have no mean"
    assert {line.label: line.note for line in lines if line.note} == {"ru": "Cyrillic", "ja": "Japanese"}
    by_code = sorted((line for line in lines if not line.is_group), key=lambda line: line.by_code)
    assert [line.label for line in by_code] == ["de", "et", "fi", "ja", "ru"]
    assert table.mean.label == "zero-shot mean of 5"
    assert table.sortable
