"""Every task of the catalogue that reads files is read from small ones, in the layouts that its comments name."""

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
from xtrain.tasks.labels import with_labels
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
COSMOS_HEADER = "id,context,question,answer0,answer1,answer2,answer3,label"
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
        "qqp", "train", "en",
        {"intermediate/qqp/train.jsonl": jsonl({"text_a": "a", "text_b": "b", "label": "0"})},
        [("a", "not_duplicate")],
    ),
    (
        "cosmosqa", "train", "en",
        {"intermediate/cosmosqa/train.csv": f"{COSMOS_HEADER}\n" + 'c1,"a, b",q,w,x,y,z,2\n'},
        [("a, b", "2")],
    ),
    (
        "commonsense_qa", "dev", "en",
        {
            "intermediate/commonsense_qa/train.jsonl": "",
            "intermediate/commonsense_qa/validation.jsonl": jsonl(
                {"id": "s1", "question": "q", "choices": {"label": [*"ABCDE"], "text": [*"vwxyz"]}, "answerKey": "E"}
            ),
        },
        [("q", "E")],
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


# ---------------------------------------------------------------- the other formats

CONTEXT = "Ada wrote it. It ran."
ANSWER = {"text": "Ada", "answer_start": 0}
SQUAD = {"id": "q1", "question": "Who?", "answers": [ANSWER]}
UNANSWERED = {"id": "q2", "question": "When?", "answers": [], "is_impossible": True}
UD = "# text = zum Hund\n1-2\tzum\t_\t_\t_\t_\t_\t_\t_\t_\n1\tzu\tzu\tADP\tAPPR\t_\t3\tcase\t_\t_\n\n"
AUTO = "ID=wsj_0001.1 PARSER=GOLD NUMPARSE=1\n(<T NP 0 2> (<L NP/N DT DT the NP/N>) (<L N NN NN cat N>) )\n"
ENTITY = {"entity_id": "Q1", "description": "A city.\n", "sentence_spans": [{"start": 0, "end": 7}]}
PLACE = {"language": "ta", "text": "Bonn.", "sentence_spans": [{"start": 0, "end": 5}]}
MENTION = {"example_id": "m1", "entity_id": "Q1", "mention_span": {"start": 0, "end": 4, "text": "Bonn"}}
MEWSLI = {
    "mewslix/wikinews_mentions-test.jsonl": jsonl({"context": PLACE, "mentions": [MENTION]}),
    "mewslix/candidate_set_entities.jsonl": jsonl(ENTITY),
}


def squad(*questions: Mapping[str, Any], **paragraph: Any) -> str:
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": questions, **paragraph}]}]})


def bucc(split: str) -> dict[str, str]:
    texts = {"fr": "fr-1\tun\nfr-2\tdeux\n", "en": "en-1\ttwo\nen-2\tone\nen-3\tsix\n", "gold": "fr-1\ten-2\n"}
    return {f"bucc2018/fr-en.{split}.{part}": text for part, text in texts.items()}


# task, split, language, files, examples
OTHERS: list[tuple[str, str, str, dict[str, str], int]] = [
    ("panx", "test", "gu", {"panx/train-en.tsv": "x\tO\n", "panx/test-gu.tsv": "a\tB-LOC\nb\tI-LOC\n\nc\tO\n"}, 2),
    ("wikiann", "train", "als", {"wikiann/als/train": "als:a\tB-LOC\nals:b\tO\n\nals:c\tO\n"}, 2),
    ("udpos", "train", "en", {"udpos/train-en.tsv": "a\tNOUN\nb\tVERB\n\nc\tX\n"}, 2),
    ("ud", "train", "de", {"ud/train-de.conllu": UD}, 1),
    ("squad", "dev", "en", {"squad/train-v1.1.json": "{}", "squad/dev-v1.1.json": squad(SQUAD)}, 1),
    (
        "squad_v2", "dev", "en",
        {
            "intermediate/squad_v2/train-v2.0.json": "{}",
            "intermediate/squad_v2/dev-v2.0.json": squad(SQUAD, UNANSWERED),
        },
        2,
    ),
    ("xquad", "test", "ro", {"xquad/xquad.ro.json": squad(SQUAD)}, 1),
    ("mlqa", "test", "hi", {"mlqa/MLQA_V1/test/test-context-hi-question-hi.json": squad(SQUAD)}, 1),
    ("tydiqa", "test", "bn", {"tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.goldp.bn.dev.json": squad(SQUAD)}, 1),
    ("tydiqa_unseen", "test", "te", {"tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.te.train.json": squad(SQUAD)}, 1),
    (
        "mlqa_translated", "dev", "vi",
        {
            f"mlqa/mlqa-translate-train/vi_squad-translate-train-{split}-v1.1.json": squad(SQUAD)
            for split in ("train", "dev")
        },
        1,
    ),
    ("squad_retrieval", "train", "en", {"squad/train-v1.1.json": squad(SQUAD)}, 1),
    (
        "lareqa", "test", "el",
        {"lareqa/xquad-r/el.json": squad(SQUAD, sentence_breaks=[[0, 13], [14, 21]])},
        3,
    ),
    ("mewslix", "test", "ta", MEWSLI, 1),
    ("mewslix", "index", "all", MEWSLI, 1),
    (
        "mewslix_pairs", "train", "en",
        {"mewslix/wikipedia_pairs-train.jsonl": jsonl(
            {"contextual_mention": {"context": PLACE, "mention": MENTION}, "entity": ENTITY}
        )},
        1,
    ),
    (
        "tatoeba", "test", "az",
        {"tatoeba/tatoeba.aze-eng.aze": "bir\niki\n", "tatoeba/tatoeba.aze-eng.eng": "one\ntwo\n"},
        2,
    ),
    ("bucc2018", "dev", "fr", bucc("dev"), 5),
    ("bucc2018", "test", "fr", bucc("test"), 5),
]  # fmt: skip
CARVED = [  # their dev sets are carved out of these: task, language, file, content of one row
    ("tydiqa_goldp", "fi", "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.fi.train.json", squad(SQUAD)),
    ("squad_translated", "ar", "squad/translate-train/squad.translate.train.en-ar.json", squad(SQUAD)),
    ("mlm", "yo", "mlm/yo.txt", "Bawo ni.\n"),
]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_layout(tmp_path: Path, tiny_model: Path, specs: Mapping[str, TaskSpec], case: Any) -> None:
    name, split, language, files, examples = case
    for path, text in files.items():
        write(tmp_path / path, text)
    shard = prepare(specs[name], split, language, tiny_model, 64, tmp_path, tmp_path / "out")
    assert len(shard) == examples
    assert not shard.manifest["dropped"]


@pytest.mark.parametrize(("name", "language", "path", "text"), CARVED)
def test_a_layout_that_dev_is_carved_out_of(
    tmp_path: Path, specs: Mapping[str, TaskSpec], name: str, language: str, path: str, text: str
) -> None:
    write(tmp_path / path, text)
    assert sum(len(list(read(specs[name], split, language, tmp_path))) for split in ("train", "dev")) == 1


def test_ccgbank(tmp_path: Path, tiny_model: Path, specs: Mapping[str, TaskSpec]) -> None:
    write(tmp_path / "ccg/ccg.train", AUTO + "a|DT|NP/N\n")
    write(tmp_path / "ccg/ccg.dev", AUTO)
    ccg = with_labels(specs, ["ccg"], tmp_path)["ccg"]
    assert ccg.labels == ("N", "NP/N")
    assert len(prepare(ccg, "train", "en", tiny_model, 64, tmp_path, tmp_path / "out")) == 2


def test_every_task_that_reads_files_is_here(specs: Mapping[str, TaskSpec]) -> None:
    here = {case[0] for case in (*LAYOUTS, *OTHERS, *CARVED)} | set(TRANSLATED) | {"ccg"}
    files = {name for name, spec in specs.items() if any(s.files and s.root == "data" for s in spec.sources)}
    assert files == here
