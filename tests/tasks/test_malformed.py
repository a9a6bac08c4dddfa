"""Malformed data of every format, through the catalogue's own entries: the message has file, line, what and allowed."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rows import write

from xtrain.data import prepare
from xtrain.errors import UserError
from xtrain.tasks import TaskSpec, catalog

Files = dict[str, str]
Case = tuple[str, str, str, str, Files, list[str]]


@pytest.fixture(scope="module")
def specs() -> Mapping[str, TaskSpec]:
    return catalog.load()


def jsonl(*rows: Mapping[str, Any]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


NLI = {"text_a": "It rains.", "text_b": "It is wet.", "label": "neutral"}
CHOICE = {"ctx": "A man", "endings": ["runs", "sits", "eats", "sings"], "label": 0}
QUESTION = {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
CONTEXT = "Ada wrote it."
BOB = {"text": "Bob", "answer_start": 0}
PANX = {"panx/train-en.tsv": "x\tO\n"}  # a source with a training set is known by its training file
UDPOS = {"udpos/train-en.tsv": "x\tNOUN\n"}


def squad(*questions: Mapping[str, Any], **paragraph: Any) -> str:
    paragraphs = [{"context": CONTEXT, "qas": list(questions), **paragraph}]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]})


def without(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: copy.deepcopy(item) for name, item in value.items() if name != key}


# name of the case; task, split, language; the files; what the message has to say, place first
CASES: Mapping[str, Case] = {
    # ------------------------------------------------------------ classification
    "a missing tab": (
        "xnli", "dev", "de", "xnli/dev-de.tsv",
        {"xnli/dev-de.tsv": "eins\tzwei\tneutral\neins zwei\tneutral\n"},
        [":2", "has 2 columns, the first line has 3", "missing or an additional separator"],
    ),
    "a label in another case": (
        "mnli", "train", "en", "intermediate/mnli/train.jsonl",
        {"intermediate/mnli/train.jsonl": jsonl(NLI, {**NLI, "label": "Neutral"})},
        [":2: label", "'Neutral' is not a label", "entailment, neutral, contradiction", "the case differs"],
    ),
    "an unknown label": (
        "mnli", "train", "en", "intermediate/mnli/train.jsonl",
        {"intermediate/mnli/train.jsonl": jsonl({**NLI, "label": "entails"})},
        [":1: label", "'entails' is not a label", "entailment, neutral, contradiction"],
    ),
    "a missing column": (
        "mnli", "train", "en", "intermediate/mnli/train.jsonl",
        {"intermediate/mnli/train.jsonl": jsonl(without(NLI, "text_b"))},
        [":1", "there is no column 'text_b'", "text_a, label"],
    ),
    "no JSON": (
        "mnli", "train", "en", "intermediate/mnli/train.jsonl",
        {"intermediate/mnli/train.jsonl": jsonl(NLI) + "{'text_a': 1}\n"},
        [":2", "not JSON"],
    ),
    "quotation marks that do not match": (
        "pawsx", "dev", "fr", "pawsx/dev-fr.tsv",
        {"pawsx/dev-fr.tsv": 'un\tdeux\t1\n"un\tdeux\t1\n'},
        [":2", "quotation marks do not match"],
    ),
    "a duplicate id": (
        "anli", "train", "en", "intermediate/anli/R2/train.jsonl",
        {
            f"intermediate/anli/R{n}/train.jsonl": jsonl({"uid": "u1", "context": "a", "hypothesis": "b", "label": "e"})
            for n in (1, 2, 3)
        },
        [":1: id", "'u1' was there already, at", "R1/train.jsonl:1"],
    ),
    "a file of another language that is not there": (
        "xnli", "dev", "sw", "xnli/dev-sw.tsv",
        {"xnli/dev-de.tsv": "eins\tzwei\tneutral\n"},
        ["no such file (xnli, dev, sw)"],
    ),
    # ------------------------------------------------------------ multiple choice
    "a wrong number of choices": (
        "hellaswag", "train", "en", "intermediate/hellaswag/train.jsonl",
        {"intermediate/hellaswag/train.jsonl": jsonl(CHOICE, {**CHOICE, "endings": ["runs", "sits", "eats"]})},
        [":2: choices", "there are 3", "4 (options.num_choices)"],
    ),
    "a label beyond the choices": (
        "hellaswag", "train", "en", "intermediate/hellaswag/train.jsonl",
        {"intermediate/hellaswag/train.jsonl": jsonl({**CHOICE, "label": 4})},
        [":1: label", "'4' is not a label", "0, 1, 2, 3"],
    ),
    "a choice in another case": (
        "socialiqa", "train", "en", "siqa/socialIQa_v1.4_trn.jsonl",
        {"siqa/socialIQa_v1.4_trn.jsonl": jsonl(
            {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "correct": "b"}
        )},
        [":1: label", "'b' is not a label", "the case differs: write 'B'"],
    ),
    "a question of COPA in another case": (
        "copa", "train", "en", "xcopa/train-en.jsonl",
        {"xcopa/train-en.jsonl": jsonl(
            {"premise": "p", "choice1": "x", "choice2": "y", "question": "Cause", "label": 0}
        )},
        [":1: question", "'Cause' is not known", "cause, effect"],
    ),
    # ------------------------------------------------------------ sentence retrieval
    "unequal line counts": (
        "tatoeba", "test", "de", "tatoeba/tatoeba.deu-eng.deu",
        {"tatoeba/tatoeba.deu-eng.deu": "eins\nzwei\n", "tatoeba/tatoeba.deu-eng.eng": "one\ntwo\nthree\n"},
        ["tatoeba.deu-eng.deu has 2, tatoeba.deu-eng.eng has 3", "equally many lines"],
    ),
    # ------------------------------------------------------------ tagging
    "a word without a tab": (
        "panx", "dev", "de", "panx/dev-de.tsv",
        {**PANX, "panx/dev-de.tsv": "Ada\tB-PER\nschreibt O\n\n"},
        [":2", "there is no tab in 'schreibt O'", "word TAB tag"],
    ),
    "a bad BIO sequence": (
        "panx", "dev", "de", "panx/dev-de.tsv",
        {**PANX, "panx/dev-de.tsv": "Ada\tB-PER\nBerlin\tI-LOC\n\n"},
        [":2: tags", "'I-LOC' follows 'B-PER'", "B-LOC or I-LOC before it"],
    ),
    "an entity that begins with I-": (
        "panx", "train", "en", "panx/train-en.tsv",
        {"panx/train-en.tsv": "x\tO\n\nAda\tI-PER\n\n"},
        [":3: tags", "'I-PER' begins a sentence"],
    ),
    "a tag in another case": (
        "udpos", "test", "tr", "udpos/test-tr.tsv",
        {**UDPOS, "udpos/test-tr.tsv": "ev\tNOUN\nvar\tverb\n\n"},
        [":2", "'verb' is not a label", "the case differs: write 'VERB'"],
    ),
    "a derivation that is cut off": (
        "ccg", "train", "en", "ccg/ccg.train",
        {"ccg/ccg.train": "the|DT|NP/N cat|NN|N\n(<T NP 0 2> (<L NP/N DT DT the NP/N>)\n", "ccg/ccg.dev": "a|DT|N\n"},
        [":2", "is not a whole derivation"],
    ),
    "a word of CCGbank without a category": (
        "ccg", "train", "en", "ccg/ccg.train",
        {"ccg/ccg.train": "the|DT|NP/N cat|NN\n", "ccg/ccg.dev": "a|DT|N\n"},
        [":1", "'cat|NN' is not word|pos|category"],
    ),
    # ------------------------------------------------------------ span QA
    "an answer that is not in its context": (
        "squad", "train", "en", "squad/train-v1.1.json",
        {"squad/train-v1.1.json": squad(QUESTION, {**QUESTION, "id": "q2", "answers": [BOB]})},
        ["data[0].paragraphs[0].qas[1] (id q2)", "answer not in context: 'Bob' is said to stand at 0", "'Ada'"],
    ),
    "an answer at another place": (
        "mlqa", "dev", "zh", "mlqa/MLQA_V1/dev/dev-context-zh-question-zh.json",
        {"mlqa/MLQA_V1/dev/dev-context-zh-question-zh.json": squad(
            {"id": "z", "question": "谁?", "answers": [{"text": "艾达", "answer_start": 1}]}, context="这是艾达写的。"
        )},
        ["data[0].paragraphs[0].qas[0] (id z)", "it stands at 2: correct answer_start"],
    ),
    "a duplicate id of a question": (
        "xquad", "test", "el", "xquad/xquad.el.json",
        {"xquad/xquad.el.json": squad(QUESTION, QUESTION)},
        ["data[0].paragraphs[0].qas[1] (id q1): id", "'q1' was there already", "qas[0]"],
    ),
    "a question without answer": (
        "squad", "train", "en", "squad/train-v1.1.json",
        {"squad/train-v1.1.json": squad({**QUESTION, "answers": []})},
        ["no example is left", "1 unlabelled"],
    ),
    "a file that is cut off": (
        "xquad", "test", "el", "xquad/xquad.el.json",
        {"xquad/xquad.el.json": '{"data": [\n{"title"'},
        [":2", "not JSON"],
    ),
    # ------------------------------------------------------------ bitext mining
    "a sentence without a tab": (
        "bucc2018", "dev", "zh", "bucc2018/zh-en.dev.zh",
        {
            "bucc2018/zh-en.dev.zh": "zh-1\t一\nzh-2 二\n",
            "bucc2018/zh-en.dev.en": "en-1\tone\n",
            "bucc2018/zh-en.dev.gold": "zh-1\ten-1\n",
        },
        [":2", "there is no tab in 'zh-2 二'", "id TAB sentence"],
    ),
    "a duplicate id of a sentence": (
        "bucc2018", "dev", "zh", "bucc2018/zh-en.dev.en",
        {
            "bucc2018/zh-en.dev.zh": "zh-1\t一\n",
            "bucc2018/zh-en.dev.en": "en-1\tone\nen-1\ttwo\n",
            "bucc2018/zh-en.dev.gold": "zh-1\ten-1\n",
        },
        [":2", "the id 'en-1' was there already"],
    ),
    "a pair of sentences that are not there": (
        "bucc2018", "dev", "zh", "bucc2018/zh-en.dev.gold",
        {
            "bucc2018/zh-en.dev.zh": "zh-1\t一\n",
            "bucc2018/zh-en.dev.en": "en-1\tone\n",
            "bucc2018/zh-en.dev.gold": "zh-1\ten-1\nen-1\tzh-1\n",
        },
        [":2", "'en-1' is not the id of a foreign sentence", "the foreign id stands first"],
    ),
    # ------------------------------------------------------------ answer retrieval
    "a sentence of the answer that is not there": (
        "lareqa", "test", "th", "lareqa/xquad-r/th.json",
        {"lareqa/xquad-r/th.json": squad(
            {**QUESTION, "answers": [{"text": "Ada", "answer_start": 99}]}, sentence_breaks=[[0, 13]]
        )},
        ["data[0].paragraphs[0].qas[0] (id q1)"],
    ),
    "a mention without its entity": (
        "mewslix", "test", "fa", "mewslix/wikinews_mentions-test.jsonl",
        {"mewslix/wikinews_mentions-test.jsonl": jsonl({
            "context": {"language": "fa", "text": "Ada came.", "sentence_spans": [{"start": 0, "end": 9}]},
            "mentions": [{"example_id": "m1", "mention_span": {"start": 0, "end": 3, "text": "Ada"}}],
        })},
        [":1", "entity_id"],
    ),
    # ------------------------------------------------------------ masked language modelling
    "text in another encoding": (
        "mlm", "train", "fr", "mlm/fr.txt",
        {"mlm/fr.txt": "une ligne\n\udce9t\udce9\n"},
        [":2", "is not UTF-8"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_message_names_file_and_line(
    tmp_path: Path, tiny_model: Path, specs: Mapping[str, TaskSpec], name: str
) -> None:
    task, split, language, file, files, said = CASES[name]
    for path, text in files.items():
        if "\udce9" in text:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(text.encode("utf-8", "surrogateescape"))
        else:
            write(tmp_path / path, text)
    with pytest.raises(UserError) as caught:
        prepare(specs[task], split, language, tiny_model, 64, tmp_path, tmp_path / "out")
    message = str(caught.value)
    assert str(tmp_path / file) in message or "no example is left" in message, message
    for part in said:
        assert part in message, f"{part!r} is not in: {message}"
    assert not list((tmp_path / "out").rglob("manifest.json")), "a shard was written"


def test_every_format_is_here(specs: Mapping[str, TaskSpec]) -> None:
    from xtrain.tasks import formats

    assert {specs[case[0]].format for case in CASES.values()} == set(formats.names())


def test_all_problems_of_a_file_are_told_at_once(
    tmp_path: Path, tiny_model: Path, specs: Mapping[str, TaskSpec]
) -> None:
    lines = ["eins\tzwei\tneutral\n"] * 3 + ["eins\tzwei\tNeutral\n", "\tzwei\tneutral\n", "eins\tneutral\n"]
    write(tmp_path / "xnli" / "dev-de.tsv", "".join(lines))
    with pytest.raises(UserError) as caught:
        prepare(specs["xnli"], "dev", "de", tiny_model, 64, tmp_path, tmp_path / "out")
    places = [problem.where.rpartition("dev-de.tsv")[2] for problem in caught.value.problems]
    assert sorted(places) == [":4: label", ":6"]
