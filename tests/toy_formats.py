"""Small generated data of every format, in the files of the benchmark's own layout, and tasks that read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny import sentences
from toy import write_jsonl

SCRIPTS = {"en": "latin", "ru": "cyrillic", "zh": "han"}
TAGS = ("X", "Y", "Z")


def make_formats(root: Path) -> Path:
    """Tagging, span QA, bitext mining, answer retrieval and running text, in three languages."""
    for seed, (language, script) in enumerate(SCRIPTS.items()):
        _write(root / f"tags/test-{language}.tsv", tagged(sentences(30, script, seed)))
        _write(root / f"qa/test-{language}.json", squad(sentences(24, script, 10 + seed), language))
        _write(root / f"text/{language}.txt", "\n".join(sentences(60 + 40 * seed, script, 20 + seed)) + "\n")
    _write(root / "tags/train-en.tsv", tagged(sentences(80, seed=5)))
    _write(root / "tags/dev-en.tsv", tagged(sentences(20, seed=6)))
    _write(root / "qa/train-en.json", squad(sentences(60, seed=7), "train"))
    _write(root / "qa/dev-en.json", squad(sentences(20, seed=8), "dev"))
    for split, seed in (("dev", 1), ("test", 2)):
        bitext(root / f"bitext/ru-en.{split}", sentences(40, "cyrillic", seed), sentences(40, seed=seed))
    for language in ("ru", "zh"):  # a leaderboard's test set: the labels are withheld
        rows = zip(sentences(12, SCRIPTS[language], 30), sentences(12, SCRIPTS[language], 31), strict=True)
        write_jsonl(root / f"hidden/test-{language}.jsonl", [{"text_a": a, "text_b": b} for a, b in rows])
    return root


def tagged(texts: Sequence[str]) -> str:
    """``word TAB tag``; the tag follows from the word's length."""
    return "\n\n".join("\n".join(f"{w}\t{TAGS[len(w) % 3]}" for w in text.split()) for text in texts) + "\n"


def squad(texts: Sequence[str], name: str) -> str:
    """SQuAD json: paragraphs of two sentences, a question each, a word of the first sentence as its answer."""
    paragraphs = []
    for number in range(0, len(texts) - 1, 2):
        first, second = texts[number : number + 2]
        context, words = f"{first} {second}", first.split()
        answer = words[number % len(words)].strip(".")
        begin = context.index(answer)
        question = {
            "id": f"{name}-{number}",
            "question": " ".join(words[:3]),
            "answers": [{"text": answer, "answer_start": begin}],
        }
        breaks = [[0, len(first)], [len(first) + 1, len(context)]]
        paragraphs.append({"context": context, "sentences": [first, second], "sentence_breaks": breaks,
                           "qas": [question]})  # fmt: skip
    return json.dumps({"version": "1.1", "data": [{"title": name, "paragraphs": paragraphs}]}, ensure_ascii=False)


def bitext(stem: Path, foreign: Sequence[str], english: Sequence[str]) -> None:
    """BUCC's three files: sentence n translates the one at another place, and a third have no translation."""
    order = np.random.default_rng(len(foreign)).permutation(len(english))
    _write(stem.with_name(f"{stem.name}.ru"), "".join(f"ru-{n}\t{text}\n" for n, text in enumerate(foreign)))
    _write(stem.with_name(f"{stem.name}.en"), "".join(f"en-{n}\t{english[n]}\n" for n in sorted(order)))
    pairs = [(n, order[n]) for n in range(2 * len(foreign) // 3)]
    _write(stem.with_name(f"{stem.name}.gold"), "".join(f"ru-{a}\ten-{b}\n" for a, b in pairs))


QA = {"id": "id", "question": "question", "context": "context", "answers": "answers.text",
      "answer_starts": "answers.answer_start"}  # fmt: skip
RETRIEVAL = {"id": "id", "query": "question", "context": "context", "answer": "answers.text",
             "answer_start": "answers.answer_start"}  # fmt: skip
BITEXT = ("foreign", "english", "foreign_ids", "english_ids", "gold")

TASKS: dict[str, Any] = {
    "tags": {
        "format": "tagging", "languages": list(SCRIPTS), "labels": list(TAGS), "metric": "f1",
        "sources": [{"files": {s: f"tags/{s}-{{lang}}.tsv" for s in ("train", "dev", "test")}, "reader": "conll",
                     "columns": {"tokens": 0, "tags": 1}}],
    },
    "qa": {
        "format": "span_qa", "languages": list(SCRIPTS), "metric": "f1",
        "sources": [{"files": {s: f"qa/{s}-{{lang}}.json" for s in ("train", "dev", "test")}, "reader": "squad",
                     "columns": QA}],
    },
    "pairs": {
        "format": "answer_retrieval", "languages": ["en"], "metric": "map@20",
        "sources": [{"files": {s: f"qa/{s}-en.json" for s in ("train", "dev")}, "reader": "squad",
                     "columns": RETRIEVAL}],
    },
    "pool": {
        "format": "answer_retrieval", "languages": list(SCRIPTS), "metric": "map@20", "train_on": "pairs",
        "options": {"pool": "sentences"},
        "sources": [{"files": {"test": "qa/test-{lang}.json"}, "reader": "squad",
                     "columns": {**RETRIEVAL, "breaks": "sentence_breaks"}}],
    },
    "bitext": {
        "format": "bitext_mining", "languages": ["ru"], "metric": "f1",
        "sources": [{"files": {s: [f"bitext/{{lang}}-en.{s}.{part}" for part in ("{lang}", "en", "gold")]
                               for s in ("dev", "test")}, "reader": "bitext",
                     "columns": {name: name for name in BITEXT}}],
    },
    "text": {
        "format": "mlm", "languages": list(SCRIPTS), "train_languages": list(SCRIPTS), "language_exponent": 0.3,
        "sources": [{"files": {"train": "text/{lang}.txt"}, "reader": "text", "columns": {"text": "text"},
                     "hash_split": {"dev": 0.1}}],
    },
    "hidden": {
        "format": "classification", "labels": ["class0", "class1", "class2"], "languages": ["ru", "zh"],
        "train_on": "toy",
        "sources": [{"files": {"test": "hidden/test-{lang}.jsonl"},
                     "columns": {"text_a": "text_a", "text_b": "text_b", "label": "label"}}],
    },
}  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def make_catalogue_files(root: Path) -> Path:
    """Small CCGbank, SQuAD v2 and Mewsli-X files, in the layouts that docs/tasks.md gives for them."""
    for split, count in (("train", 40), ("dev", 12)):
        lines = [
            " ".join(f"{word}|NN|{('N', 'NP/N')[len(word) % 2]}" for word in text.split())
            for text in sentences(count, seed=count)
        ]
        _write(root / f"ccg/ccg.{split}", "\n".join(lines) + "\n")
        document = json.loads(squad(sentences(count, seed=count + 1), split))
        for number, paragraph in enumerate(document["data"][0]["paragraphs"]):
            if number % 3 == 0:  # a question without an answer
                paragraph["qas"][0] |= {"answers": [], "is_impossible": True}
        _write(root / f"intermediate/squad_v2/{split}-v2.0.json", json.dumps(document))
        pairs = [_mention(text, n, "en") | {"entity": _entity(n)} for n, text in enumerate(sentences(count, seed=3))]
        rows = [{"contextual_mention": {"context": p["context"], "mention": p["mentions"][0]}, "entity": p["entity"]}
                for p in pairs]  # fmt: skip
        write_jsonl(root / f"mewslix/wikipedia_pairs-{split}.jsonl", rows)
    mentions = [
        _mention(text, n, language) for language in ("de", "en") for n, text in enumerate(sentences(10, seed=4))
    ]
    write_jsonl(root / "mewslix/wikinews_mentions-test.jsonl", mentions)
    write_jsonl(root / "mewslix/candidate_set_entities.jsonl", [_entity(n) for n in range(40)])
    return root


def _entity(number: int) -> dict[str, Any]:
    text = sentences(40, seed=9)[number]
    return {"entity_id": f"Q{number}", "description": text, "sentence_spans": [{"start": 0, "end": len(text)}]}


def _mention(text: str, number: int, language: str) -> dict[str, Any]:
    word = text.split()[0]
    spans = [{"start": 0, "end": len(text)}]
    span = {"start": 0, "end": len(word), "text": word}
    mention = {"example_id": f"{language}-{number}", "entity_id": f"Q{number}", "mention_span": span}
    return {"context": {"language": language, "text": text, "sentence_spans": spans}, "mentions": [mention]}
