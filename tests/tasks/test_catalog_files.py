"""Every file layout of the catalogue's pair and choice tasks is read: small files, written as published ones are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rows import write

from xtrain.data import prepare
from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.formats import ProblemList
from xtrain.tasks.sources import read


@pytest.fixture(scope="module")
def specs() -> Mapping[str, TaskSpec]:
    return catalog.load()


def jsonl(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


def tsv(*rows: tuple[str, ...]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


XNLI_HEADER = (
    "language", "gold_label", "sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse",
    "sentence1", "sentence2", "promptID", "pairID", "genre",
)  # fmt: skip
PAWSX_HEADER = ("id", "sentence1", "sentence2", "label")
SIQA = {"context": "Kim ran.", "question": "Why?", "answerA": "late", "answerB": "early", "answerC": "fun"}
COPA = {"premise": "It rained.", "choice1": "We got wet.", "choice2": "We sang.", "question": "effect", "idx": 0}
ANLI = {"context": "A text.", "hypothesis": "A guess.", "model_label": "n"}
HELLASWAG = {"ctx": "A man", "endings": ["runs", "sits", "eats", "sings"]}

# task, split, language, files, and of each row: its first text and its label, as the task has it
Case = tuple[str, str, str, dict[str, str], list[tuple[str, str]]]
LAYOUTS: list[Case] = [
    (  # Python's csv writer puts quotes around what has quotes in it, and XTREME's script writes with it
        "xnli", "test", "de",
        {"xnli/test-de.tsv": 'er sagte\t"er ""sprach"""\tneutral\n'},
        [("er sagte", "neutral")],
    ),
    (
        "xnli", "test", "sw",
        {"XNLI-1.0/xnli.test.tsv": tsv(
            XNLI_HEADER,
            ("ar", "neutral", "", "", "", "", "x", "y", "1", "1", "travel"),
            ("sw", "entailment", "", "", "", "", 'a "quoted', "b", "2", "2", "travel"),
        )},
        [('a "quoted', "entailment")],
    ),
    (
        "pawsx", "test", "ko",
        {"x-final/ko/test_2k.tsv": tsv(PAWSX_HEADER, ("1", 'one "side', "other", "1"))},
        [('one "side', "1")],
    ),
    (
        "paws", "train", "en",
        {"pawsx/train-en.tsv": '"a ""b"" c"\td\t0\n'},
        [('a "b" c', "0")],
    ),
    (
        "pawsx_translated", "train", "ja",
        {"x-final/ja/translated_train.tsv": tsv(PAWSX_HEADER, ("1", "one", "other", "0"))},
        [("one", "0")],
    ),
    (
        "mnli", "train", "en",
        {"intermediate/mnli/multinli_1.0_train.jsonl": jsonl(
            {"sentence1": "a", "sentence2": "b", "gold_label": "contradiction", "genre": "fiction"},
            {"sentence1": "c", "sentence2": "d", "gold_label": "-", "genre": "fiction"},
        )},
        [("a", "contradiction"), ("c", "-")],
    ),
    (
        "snli", "dev", "en",
        {
            "intermediate/snli/snli_1.0_train.jsonl": "",
            "intermediate/snli/snli_1.0_dev.jsonl": jsonl(
                {"sentence1": "a", "sentence2": "b", "gold_label": "neutral"}
            ),
        },
        [("a", "neutral")],
    ),
    (
        "anli", "train", "en",
        {
            f"intermediate/anli/R{n}/train.jsonl": jsonl({**ANLI, "uid": f"u{n}", "label": "enc"[n - 1]})
            for n in (1, 2, 3)
        },
        [("A text.", "entailment"), ("A text.", "neutral"), ("A text.", "contradiction")],
    ),
    (
        "qqp_translated", "dev", "ru",
        {
            "translated/qqp/train-ru.jsonl": "",
            "translated/qqp/dev-ru.jsonl": jsonl({"text_a": "a", "text_b": "b", "label": 1}),
        },
        [("a", "duplicate")],
    ),
    (
        "hellaswag", "train", "en",
        {"intermediate/hellaswag/hellaswag_train.jsonl": jsonl({**HELLASWAG, "label": 3})},
        [("A man", "3")],
    ),
    (
        "hellaswag_translated", "train", "sw",
        {"translated/hellaswag/train-sw.jsonl": jsonl({**HELLASWAG, "label": "0"})},
        [("A man", "0")],
    ),
    (
        "socialiqa", "train", "en",
        {"siqa/socialIQa_v1.4_trn.jsonl": jsonl({**SIQA, "correct": "B"})},
        [("Kim ran.", "B")],
    ),
    (
        "socialiqa_translated", "train", "tr",
        {"siqa_translate_train/socialIQa_v1.4_tr_translate_train.jsonl": jsonl({**SIQA, "correct": "C"})},
        [("Kim ran.", "C")],
    ),
    ("copa", "train", "en", {"xcopa/train.en.jsonl": jsonl({**COPA, "label": 0})}, [("It rained.", "0")]),
    ("xcopa", "test", "qu", {"xcopa/test.qu.jsonl": jsonl({**COPA, "label": 1})}, [("It rained.", "1")]),
    (
        "copa_translated", "dev", "th",
        {
            "xcopa_translate_train/xcopa_th_translate_train.jsonl": "",
            "xcopa_translate_train/xcopa_th_translate_val.jsonl": jsonl({**COPA, "label": 1}),
        },
        [("It rained.", "1")],
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: next(iter(case[3])))
def test_a_published_layout(tmp_path: Path, tiny_model: Path, specs: Mapping[str, TaskSpec], case: Case) -> None:
    name, split, language, files, expected = case
    for path, text in files.items():
        write(tmp_path / path, text)
    problems = ProblemList()
    rows = list(read(specs[name], split, language, tmp_path, problems))
    problems.raise_if_any()
    first = {"classification": "text_a", "multiple_choice": "context"}[specs[name].format]
    assert [(row.values[first], str(row.values["label"])) for row in rows] == expected
    shard = prepare(specs[name], split, language, tiny_model, 64, tmp_path, tmp_path / "out")
    assert len(shard) == sum(label != "-" for _, label in expected)


# XTREME's translate-train files: English and translated texts side by side, no header, no quoting
TRANSLATED = {
    "xnli_translated": ("xnli/translate-train/en-de-translated.tsv", ("neutral", "contradictory", "entailment")),
    "pawsx_translated": ("pawsx/translate-train/en-de-translated.tsv", ("0", "1", "0")),
}


@pytest.mark.parametrize("name", sorted(TRANSLATED))
def test_xtreme_s_translations(tmp_path: Path, specs: Mapping[str, TaskSpec], name: str) -> None:
    path, labels = TRANSLATED[name]
    rows = [(f"one {n}", f"two {n}", f'"eins {n}', f"zwei {n}", labels[n % 3]) for n in range(600)]
    write(tmp_path / path, tsv(*rows))
    found = {split: list(read(specs[name], split, "de", tmp_path)) for split in ("train", "dev")}
    assert sum(len(part) for part in found.values()) == 600
    assert 0 < len(found["dev"]) < 60
    assert {row.values["text_a"][:5] for row in found["train"]} == {'"eins'}
    assert {row.values["label"] for row in found["train"]} == set(specs[name].labels)


def test_xnli_s_own_translations(tmp_path: Path, specs: Mapping[str, TaskSpec]) -> None:
    rows = [(f"eins {n}", f"zwei {n}", "contradictory") for n in range(300)]
    write(tmp_path / "XNLI-MT-1.0/multinli/multinli.train.de.tsv", tsv(("premise", "hypo", "label"), *rows))
    found = [row for split in ("train", "dev") for row in read(specs["xnli_translated"], split, "de", tmp_path)]
    assert len(found) == 300
    assert {row.values["label"] for row in found} == {"contradiction"}
