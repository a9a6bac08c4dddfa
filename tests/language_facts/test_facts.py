"""The table of facts: it has every language of the tasks, agrees with the codes, and contradicts itself nowhere."""

from __future__ import annotations

import re

import pytest

from xtrain.language_facts import all_facts, by_family, facts, families
from xtrain.language_facts.facts import ABSENT, UNTOLD
from xtrain.languages import name_of, names
from xtrain.tasks import catalog

STARTER = """
af ar-DZ ar ast az be bg bn br bs ca ckb cs cy da de dsb el en eo es-AR es-CO es-MX es-VE es et eu fa fi fr ga gd gl he
hi hr hsb hu hy ia id ig io is it ja ka kk kn ko ky lt lv mk ml mn mr ms nb ne nl nn os pa pl pt-BR pt ro ru sk sl sq
sr-Latn sr sv sw te tg th tk tr tt ug uk ur uz vi zh-Hans zh-Hant
"""
"""The languages of the starter's messages and sentence pairs."""


def of_one_language(code: str) -> bool:
    """Whether it is a language, alone or in a script or of a region: zh-min-nan is not a kind of zh."""
    return bool(re.fullmatch(r"[a-z]{2,3}([-_]([A-Za-z]{4}|[A-Z]{2}))*", code))


def test_every_language_of_a_task_has_a_line() -> None:
    codes = {code for spec in catalog.load().values() for code in (*spec.languages, *spec.train_languages)}
    codes |= {code for spec in catalog.load().values() for one in spec.benchmarks.values() for code in one}
    wanted = {code for code in codes if name_of(code) and of_one_language(code)}
    assert len(wanted) > 100
    assert not sorted(code for code in wanted if facts(code) is None)


def test_every_language_of_the_starter_has_a_line() -> None:
    assert not [code for code in STARTER.split() if facts(code) is None]


def test_codes_and_names_are_those_of_the_codes_table() -> None:
    for line in all_facts():
        assert line.name == name_of(line.code), line
        assert names().get(line.iso639_3) == line.name, line
        assert re.fullmatch(r"[a-z]{3}", line.iso639_3)
        assert re.fullmatch(r"[A-Z][a-z]{3}", line.script)


def test_no_language_stands_there_twice() -> None:
    codes = [line.code.lower() for line in all_facts()]
    assert codes == sorted(set(codes))
    varieties = [(line.iso639_3, line.script) for line in all_facts() if line.code != "zh-Hans"]
    assert len(set(varieties)) == len(varieties)


def test_a_genus_is_of_one_family() -> None:
    families_of: dict[str, set[str]] = {}
    for line in all_facts():
        families_of.setdefault(line.genus, set()).add(line.family)
    assert {genus: found for genus, found in families_of.items() if len(found) > 1} == {}
    assert all(line.family and line.genus for line in all_facts())


def test_lines_of_one_language_are_of_one_family() -> None:
    kin: dict[str, set[tuple[str, str]]] = {}
    for line in all_facts():
        kin.setdefault(line.name, set()).add((line.family, line.genus))
    assert all(len(found) == 1 for found in kin.values())


def test_sizes_are_there_where_there_is_text() -> None:
    for line in all_facts():
        sizes = (line.cc100_gib, line.cc100_mtokens)
        if line.cc100_rows == UNTOLD:
            assert sizes == (None, None)
            assert line.pretrained is None
        elif line.cc100_rows == ABSENT:
            assert sizes == (0.0, 0.0)
            assert line.pretrained is False
        else:
            assert min(size or 0 for size in sizes) > 0, line
            assert line.pretrained is True
        assert set(line.checked) <= {"kin", "script", "cc100", "cc100-misprint"}


def test_a_token_has_a_likely_number_of_bytes() -> None:
    """What a slip of the pen in a size or a number of tokens would show in."""
    for line in all_facts():
        if line.cc100_gib and line.cc100_mtokens and line.cc100_gib > 0.2:
            bytes_per_token = line.cc100_gib * 2**30 / (line.cc100_mtokens * 1e6)
            spaced = line.script not in ("Hans", "Hant", "Jpan", "Thai", "Khmr", "Laoo", "Mymr")
            assert 4 < bytes_per_token < (32 if spaced else 250), (line, bytes_per_token)


def test_the_paper_s_table_is_whole() -> None:
    """Its 100 rows: romanised text, two kinds of Chinese, and Burmese twice."""
    rows = [row for line in all_facts() for row in line.cc100_rows.split(" + ") if row not in (ABSENT, UNTOLD)]
    assert len(set(rows)) == 99
    assert rows.count("Burmese") == 2
    sums = {line.code: (line.cc100_gib, line.cc100_mtokens) for line in all_facts()}
    parts = zip(sums["zh-Hans"], sums["zh-Hant"], strict=True)
    assert sums["zh"] == pytest.approx([(one or 0) + (two or 0) for one, two in parts])


@pytest.mark.parametrize(
    ("code", "line", "script"),
    [
        ("de", "de", "Latn"),
        ("deu", "de", "Latn"),
        ("iw", "he", "Hebr"),
        ("cmn", "zh", "Hans"),
        ("zh-Hant", "zh-Hant", "Hant"),
        ("zh_Hant", "zh-Hant", "Hant"),
        ("ZH-hant-TW", "zh-Hant", "Hant"),
        ("zho_Hans", "zh-Hans", "Hans"),
        ("pt_BR", "pt", "Latn"),
        ("pt_BR.UTF-8", "pt", "Latn"),
        ("es-419", "es", "Latn"),
        ("sr-Latn", "sr", "Latn"),
        ("hi-Latn", "hi-Latn", "Latn"),
        ("pnb", "pnb", "Arab"),
        ("yue", "yue", "Hant"),
        ("wuu", "wuu", "Hans"),
    ],
)
def test_a_variety_is_found(code: str, line: str, script: str) -> None:
    found = facts(code)
    assert found is not None
    assert (found.code, found.script) == (line, script)


@pytest.mark.parametrize("code", ["", "xx", "zh-classical", "zh-min-nan", "be-x-old", "simple", "map-bms", "toy-a"])
def test_what_is_another_language_is_not_found(code: str) -> None:
    assert facts(code) is None


def test_a_script_that_was_named_changes_nothing_else() -> None:
    own, latin = facts("sr"), facts("sr-Latn")
    assert own is not None
    assert latin is not None
    assert (latin.cc100_gib, latin.family) == (own.cc100_gib, own.family)


def test_groups_are_in_the_order_of_the_families() -> None:
    assert families()[0] == "Indo-European"
    assert set(families()) == {line.family for line in all_facts()}
    groups = by_family(["fi", "xx", "ru", "de", "en", "he", "hu", "pt_BR"])
    assert groups == {
        "Indo-European": ("de", "en", "pt_BR", "ru"),
        "Afro-Asiatic": ("he",),
        "Uralic": ("fi", "hu"),
        "": ("xx",),
    }
