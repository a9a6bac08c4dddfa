"""The amount of text and of unknown tokens in a shard: what a plain count by the tokenizer gives, in every format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_data import SLICE, on_real_data, real_model
from tiny import sentences
from tokenizers import Tokenizer

from xtrain.data import prepare
from xtrain.data.account import Account
from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.formats import TextCount
from xtrain.tasks.sampling import Sample
from xtrain.tasks.sources import existing_files

NKO = "ߒߞߏ ߦߋ߫ ߛߓߍߛߎ߲ ߟߋ߬ ߘߌ߫ ߞߊߙߊ߲ ߝߊ߬ߘߌ"  # words in a script that no tokenizer of the tests knows
LENGTH = 16


def plain(model: Path, texts: Iterable[str]) -> TextCount:
    """Without anything of ours."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    unknown, total = tokenizer.token_to_id("<unk>"), TextCount()
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        total += TextCount(len(text.split()), len(text), len(ids), sum(id_ == unknown for id_ in ids))
    return total


def task(task_format: str, columns: Mapping[str, Any], **keys: Any) -> TaskSpec:
    source = {"files": {"test": "test.jsonl"}, "columns": columns}
    return catalog.load({"t": {"format": task_format, "languages": ["xx"], "sources": [source], **keys}})["t"]


def made(spec: TaskSpec, rows: Sequence[Mapping[str, Any]], data: Path, model: Path) -> Account:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (data / "test.jsonl").write_text(text, encoding="utf-8")
    return Account.of(prepare(spec, "test", "xx", model, LENGTH, data, data / "out").manifest)


@pytest.fixture
def texts() -> list[str]:
    """Half of them in a script that is known, longer than the maximum length or not."""
    words = NKO.split()
    strange = [" ".join(words[(n + k) % len(words)] for k in range(3 + n % 9)) for n in range(40)]
    return [text for pair in zip(sentences(40), strange, strict=True) for text in pair]


def test_texts_and_pairs(texts: list[str], tmp_path: Path, tiny_model: Path) -> None:
    spec = task("classification", {"text_a": "a", "text_b": "b", "label": "y"}, labels=["p", "q"])
    rows = [{"a": text, "b": text[::-1], "y": "pq"[n % 2]} for n, text in enumerate(texts)]
    found = made(spec, rows, tmp_path, tiny_model)
    assert found.text == plain(tiny_model, [text for row in rows for text in (row["a"], row["b"])])
    assert 10 < found.unknown_percent < 20  # a run of unknown characters is one token
    assert found.truncated_percent > 50, "what is cut counts as well"


def test_choices_count_their_context_as_often_as_it_is_tokenised(
    texts: list[str], tmp_path: Path, tiny_model: Path
) -> None:
    spec = task("multiple_choice", {"context": "c", "choices": "x", "label": "y"})
    rows = [{"c": text, "x": texts[:3], "y": 0} for text in texts]
    assert made(spec, rows, tmp_path, tiny_model).text == plain(
        tiny_model, [one for text in texts for choice in texts[:3] for one in (text, choice)]
    )


def test_only_the_own_side_of_a_pair_of_translations_counts(texts: list[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"s": text, "t": other} for text, other in zip(texts[1::2], texts[::2], strict=True)]
    spec = task("sentence_retrieval", {"source": "s", "target": "t"})
    found = made(spec, rows, tmp_path, tiny_model)
    assert found.text == plain(tiny_model, texts[1::2])
    assert found.unknown_percent > 40
    spec = task("bitext_mining", {"foreign": "f", "english": "e", "gold": "g"}, metric="f1")
    row = {"f": texts[1::2], "e": texts[::2], "g": [[1, 1]]}
    assert made(spec, [row], tmp_path, tiny_model).text == found.text


def test_words_are_those_of_the_source(texts: list[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"w": text.split(), "y": ["p"] * len(text.split())} for text in texts]
    found = made(
        task("tagging", {"tokens": "w", "tags": "y"}, labels=["p", "q"], metric="f1"), rows, tmp_path, tiny_model
    )
    wanted = plain(tiny_model, [word for row in rows for word in row["w"]])
    assert found.text == wanted
    assert found.text.words == sum(len(row["w"]) for row in rows)


def test_windows_do_not_count_a_context_twice(texts: list[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"q": texts[n - 1], "c": text, "a": [text[:4]], "s": [0]} for n, text in enumerate(texts)]
    spec = task("span_qa", {"question": "q", "context": "c", "answers": "a", "answer_starts": "s"}, metric="f1")
    found = made(spec, rows, tmp_path, tiny_model)
    assert found.split_examples > 40
    assert found.text == plain(tiny_model, [*texts, *texts])


def test_the_parts_of_a_long_text_make_up_the_whole(texts: list[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"x": " ".join(texts[n : n + 5])} for n in range(40)]
    found = made(task("mlm", {"text": "x"}), rows, tmp_path, tiny_model)
    assert found.examples > 200
    assert found.text == plain(tiny_model, [row["x"] for row in rows])


def test_pairs_to_search_among(texts: list[str], tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"q": text, "c": text[::-1]} for text in texts]
    spec = task("answer_retrieval", {"query": "q", "candidate": "c"}, metric="map@20")
    found = made(spec, rows, tmp_path, tiny_model)
    assert found.text == plain(tiny_model, [text for row in rows for text in row.values()])


def test_only_examples_count(tmp_path: Path, tiny_model: Path, texts: list[str]) -> None:
    spec = task("classification", {"text_a": "a", "label": "y"}, labels=["p", "q"])
    rows = [{"a": text, "y": "p" if n < 10 else None} for n, text in enumerate(texts)]
    found = made(spec, rows, tmp_path, tiny_model)
    assert found.text == plain(tiny_model, texts[:10])
    assert found.dropped == {"unlabelled": len(texts) - 10}


REAL = ("ar", "bg", "de", "en", "hi", "ru", "sw", "th", "ur", "zh")


@on_real_data
@pytest.mark.parametrize(("name", "split"), [("xnli", "dev"), ("tatoeba", "test")])
def test_real_text_in_ten_languages(name: str, split: str, tmp_path: Path) -> None:
    """Against the files as they lie there, cut at their tabs and line ends."""
    model, spec = real_model(), catalog.load()[name]
    for language in REAL:
        language = "ta" if (name, language) == ("tatoeba", "en") else language
        shard = prepare(spec, split, language, model, 128, SLICE, tmp_path, Sample(200))
        path = existing_files(spec, split, language, SLICE)[0]
        lines = path.read_text(encoding="utf-8").split("\n")
        chosen = [lines[int(id_)] for id_ in shard.ids(np.arange(len(shard)))]
        texts = [part.strip() for line in chosen for part in line.split("\t")[: 2 if name == "xnli" else 1]]
        assert len(texts) == (400 if name == "xnli" else 200), language
        assert Account.of(shard.manifest).text == plain(model, texts), language


@on_real_data
def test_a_language_whose_script_the_real_tokenizer_lacks(tmp_path: Path) -> None:
    spec = task("classification", {"text_a": "a", "label": "y"}, labels=["p", "q"])
    rows = [{"a": f"{NKO} {n}", "y": "pq"[n % 2]} for n in range(20)]
    model = real_model()
    found = made(spec, rows, tmp_path, model)
    assert found.text == plain(model, [row["a"] for row in rows])
    assert found.unknown_percent > 30
