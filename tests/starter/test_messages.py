"""From catalogues to the two tasks: what is a message, its label and split, and which pairs are kept."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from xtrain.starter import messages
from xtrain.starter.messages import Translations


def sentence(number: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return f"{letters[number % 26]}{letters[number // 26]}x one two three"


def english(components: dict[str, list[str]]) -> Translations:
    return {(component, text): text for component, texts in components.items() for text in texts}


def test_split_hangs_on_the_english_text_alone() -> None:
    splits = [messages.split_of(sentence(number)) for number in range(600)]
    shares = [splits.count(name) / len(splits) for name in ("train", "dev", "test")]
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.05)
    assert messages.split_of("Log  in:") == messages.split_of("log in")
    # Fixed for good: a study run again must hold out the same messages.
    assert [messages.split_of(text) for text in ("Log in", "Filter", "January", "Cancel it")] == [
        "train",
        "train",
        "test",
        "test",
    ]


def test_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MIN_LABEL", 2)
    source = english(
        {
            "core": ["Yes", "Delete", "Save it", "save it:", "%(n)s…", "A"],
            "admin": ["Delete.", "Filter", "{name} by", "<b>%s</b>"],
            "sites": ["domain"],
        }
    )
    # Left out: Delete (two components), "save it:" (said already), what has no word, a component of one.
    assert messages.labelled(source) == {
        ("core", "Yes"): "core",
        ("core", "Save it"): "core",
        ("admin", "Filter"): "admin",
        ("admin", "{name} by"): "admin",
    }


def test_a_language_has_what_is_translated_and_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MIN_LABEL", 1)
    monkeypatch.setattr(messages, "MIN_LANGUAGE", 2)
    source = english({"core": ["Yes", "No way", "Status", "Never"]})
    german = {("core", "Yes"): "Ja", ("core", "No way"): "Nein", ("core", "Status"): "status"}
    few = {("core", "Yes"): "Si", ("core", "Gone from English"): "Vai"}
    found = messages.classification({"en": source, "de": german, "it": few})
    assert {language: [row.text for row in rows] for language, rows in found.items()} == {
        "en": ["Yes", "No way", "Status", "Never"],
        "de": ["Ja", "Nein"],
    }
    assert [(row.id, row.split) for row in found["de"]] == [(row.id, row.split) for row in found["en"][:2]]


def test_retrieval_has_sentences_once_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MIN_PAIRS", 2)
    texts = [
        "one two three four",
        "One two three four.",
        "%(a)s two three four",
        "a b c d",
        "e f g h",
        "i j k l",
    ]
    source = english({"core": texts})
    other = {("core", text): f"x {text}" for text in texts} | {
        ("core", "e f g h"): "x a b c d",  # the same translation again
        ("core", "i j k l"): "I j k l",  # not translated
    }
    found = messages.retrieval({"en": source, "xx": other, "yy": {("core", "a b c d"): "y"}})
    assert {language: [(pair.source, pair.target) for pair in pairs] for language, pairs in found.items()} == {
        "xx": [("x one two three four", "one two three four"), ("x a b c d", "a b c d")]
    }


def test_files_out_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MIN_LABEL", 2)
    monkeypatch.setattr(messages, "MIN_LANGUAGE", 3)
    monkeypatch.setattr(messages, "MIN_PAIRS", 2)
    core, admin = [sentence(1), sentence(2)], [sentence(3), sentence(4)]

    def catalogue(texts: list[str], before: str = "") -> str:
        return "".join(f'msgid "{text}"\nmsgstr "{before and before + text}"\n\n' for text in texts)

    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for language, before in (("en", ""), ("pt_BR", "um  ")):
            archive.writestr(f"django/conf/locale/{language}/LC_MESSAGES/django.po", catalogue(core, before))
            for number, name in enumerate(("django", "djangojs")):  # both are of the component admin
                member = f"django/contrib/admin/locale/{language}/LC_MESSAGES/{name}.po"
                archive.writestr(member, catalogue(admin[number : number + 1], before))
        archive.writestr("django/conf/locale/en/LC_MESSAGES/django.mo", b"\0")
        archive.writestr("django/other/locale/en/LC_MESSAGES/django.po", "not read")
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        assert messages.write(archive, tmp_path) == {"messages": 2, "message_retrieval": 1}
    written = (tmp_path / "messages" / "pt-BR.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in written]
    assert [(row["text"], row["label"]) for row in rows] == [
        (f"um {text}", label) for label, texts in (("core", core), ("admin", admin)) for text in texts
    ]
    assert {tuple(row) for row in rows} == {("id", "text", "label", "split")}
    pair = json.loads((tmp_path / "message_retrieval" / "pt-BR.jsonl").read_text().splitlines()[0])
    assert (pair["source"], pair["target"]) == (f"um {core[0]}", core[0])
