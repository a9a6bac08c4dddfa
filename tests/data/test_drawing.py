"""Samples: the same examples in every language, of each label its share, whatever the order of the file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import sentences

from xtrain.data import Shard, prepare
from xtrain.tasks import TaskSpec, catalog
from xtrain.tasks.sampling import Sample, largest_remainders

TOPICS = ("science", "travel", "politics", "sports", "health", "entertainment", "geography")
LANGUAGES = [f"l{n:02d}" for n in range(40)]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def spec_of(task_format: str, columns: Mapping[str, Any], languages: list[str] | None = None, **keys: Any) -> TaskSpec:
    source = {"files": {"test": "test-{lang}.jsonl"}, "columns": columns}
    entry = {"format": task_format, "languages": languages or ["en"], "sources": [source], **keys}
    return catalog.load({"t": entry})["t"]


def make(
    spec: TaskSpec,
    data: Path,
    model: Path,
    examples: int | None,
    language: str = "en",
    split: str = "test",
    seed: int = 0,
) -> Shard:
    sample = None if examples is None else Sample(examples, seed)
    return prepare(spec, split, language, model, 64, data, data / "out", sample)


def ids(shard: Shard) -> list[str]:
    return shard.ids(np.arange(len(shard)))


def topics(language: str, count: int = 204) -> list[dict[str, Any]]:
    """As SIB-200: parallel texts in the order of their labels, of uneven sizes."""
    rng = np.random.default_rng(0)
    labels = sorted(rng.choice(len(TOPICS), size=count, p=np.array([8, 6, 5, 4, 3, 2, 2]) / 30).tolist())
    texts = sentences(count, seed=LANGUAGES.index(language))
    return [
        {"nr": f"q{n:03d}", "text": text, "topic": TOPICS[label]}
        for n, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


TOPIC_SPEC = spec_of("classification", {"id": "nr", "text_a": "text", "label": "topic"}, LANGUAGES, labels=list(TOPICS))


def test_a_set_in_the_order_of_its_labels_scores_right_and_alike_in_every_language(
    tmp_path: Path, tiny_model: Path
) -> None:
    """The score of a model of this or that accuracy, from 20 examples of 204, in 40 languages."""
    drawn: set[tuple[str, ...]] = set()
    for language in LANGUAGES:
        rows = topics(language)
        if LANGUAGES.index(language) % 2:  # the order of a file is nobody's business
            rows = [rows[n] for n in np.random.default_rng(7).permutation(len(rows))]
        write(tmp_path / f"test-{language}.jsonl", rows)
        shard = make(TOPIC_SPEC, tmp_path, tiny_model, 20, language)
        drawn.add(tuple(sorted(ids(shard))))
        assert shard.manifest["drawn"]["examples"] == len(shard) == 20
        assert shard.manifest["drawn"]["of"] == shard.manifest["rows"] == 204
        order = {row["nr"]: n for n, row in enumerate(rows)}
        places = [order[id_] for id_ in ids(shard)]
        assert places == sorted(places)  # the file's order stays
        right = {row["nr"]: TOPICS.index(row["topic"]) for row in rows}
        assert shard.fields["label"].tolist() == [right[id_] for id_ in ids(shard)]
        rng = np.random.default_rng(LANGUAGES.index(language))
        knows = rng.random(len(TOPICS)) < 0.5  # it gets whole labels right, and others wrong
        answers = {id_: knows[label] for id_, label in right.items()}
        full, part = (np.mean([answers[id_] for id_ in some]) for some in (right, ids(shard)))
        assert abs(full - part) <= 2 * math.sqrt(full * (1 - full) / 20) + 1e-9
    assert len(drawn) == 1
    counts = Counter(topics("l00")[int(id_[1:])]["topic"] for id_ in next(iter(drawn)))
    for topic, count in Counter(row["topic"] for row in topics("l00")).items():
        assert abs(counts[topic] - 20 * count / 204) < 1


def test_the_seed_draws_another_sample(tmp_path: Path, tiny_model: Path) -> None:
    write(tmp_path / "test-l00.jsonl", topics("l00"))
    some = {seed: set(ids(make(TOPIC_SPEC, tmp_path, tiny_model, 20, "l00", seed=seed))) for seed in range(3)}
    assert some[0] != some[1] != some[2]
    more = set(ids(make(TOPIC_SPEC, tmp_path, tiny_model, 100, "l00")))
    assert len(some[0] & more) >= 18  # a larger sample holds the smaller, but for a rounded share


@pytest.mark.parametrize("examples", [204, 205, 10_000])
def test_as_many_as_there_are_or_more_is_the_whole_set(tmp_path: Path, tiny_model: Path, examples: int) -> None:
    write(tmp_path / "test-l00.jsonl", topics("l00"))
    whole, part = (make(TOPIC_SPEC, tmp_path, tiny_model, number, "l00") for number in (None, examples))
    assert part.fingerprint == whole.fingerprint
    assert part.manifest["drawn"] is None


def test_rows_without_an_id_are_drawn_by_their_number(tmp_path: Path, tiny_model: Path) -> None:
    spec = spec_of("classification", {"text_a": "text", "label": "topic"}, LANGUAGES, labels=list(TOPICS))
    for language in LANGUAGES[:3]:
        write(tmp_path / f"test-{language}.jsonl", topics(language))
    assert len({tuple(ids(make(spec, tmp_path, tiny_model, 20, language))) for language in LANGUAGES[:3]}) == 1


def test_a_row_that_is_dropped_is_never_drawn(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{**row, "topic": row["topic"] if n % 3 else None} for n, row in enumerate(topics("l00"))]
    write(tmp_path / "test-l00.jsonl", rows)
    shard = make(TOPIC_SPEC, tmp_path, tiny_model, 50, "l00")
    assert len(shard) == 50
    assert shard.labelled
    assert shard.manifest["dropped"] == {"unlabelled": 68}
    assert (shard.manifest["rows"], shard.manifest["drawn"]["of"]) == (204, 136)
    write(tmp_path / "test-l01.jsonl", [{**row, "topic": None} for row in rows])  # a leaderboard's: all of them
    hidden = make(TOPIC_SPEC, tmp_path, tiny_model, 50, "l01")
    assert (len(hidden), hidden.labelled, hidden.manifest["dropped"]) == (50, False, {})


def test_labels_that_come_after_many_without_count(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{**row, "topic": row["topic"] if n >= 150 else ""} for n, row in enumerate(topics("l00"))]
    write(tmp_path / "test-l00.jsonl", rows)
    assert make(TOPIC_SPEC, tmp_path, tiny_model, 20, "l00").labelled


def test_what_is_wrong_behind_the_sample_is_said(tmp_path: Path, tiny_model: Path) -> None:
    rows = topics("l00")
    rows[-1]["topic"] = "sience"
    write(tmp_path / "test-l00.jsonl", rows)
    with pytest.raises(Exception, match=r"test-l00.jsonl:204: label.*'sience' is not a label"):
        make(TOPIC_SPEC, tmp_path, tiny_model, 5, "l00")


def test_choices_keep_the_shares_of_their_labels_and_their_sequences(tmp_path: Path, tiny_model: Path) -> None:
    texts = sentences(90)
    write(tmp_path / "test-en.jsonl", [{"c": text, "x": texts[:3], "l": n // 30} for n, text in enumerate(texts)])
    spec = spec_of("multiple_choice", {"context": "c", "choices": "x", "label": "l"})
    shard = make(spec, tmp_path, tiny_model, 30)
    assert Counter(shard.fields["label"].tolist()) == {0: 10, 1: 10, 2: 10}
    assert shard.example_offsets.tolist() == list(range(0, 91, 3))


def test_pairs_stay_pairs_and_know_their_line(tmp_path: Path, tiny_model: Path) -> None:
    texts = sentences(60)
    write(tmp_path / "test-en.jsonl", [{"s": text[::-1], "t": text} for text in texts])
    spec = spec_of("sentence_retrieval", {"source": "s", "target": "t"})
    whole, part = make(spec, tmp_path, tiny_model, None), make(spec, tmp_path, tiny_model, 15)
    line = dict(zip(ids(whole), whole.notes(np.arange(60)), strict=True))
    assert part.notes(np.arange(15)) == [line[id_] for id_ in ids(part)]
    for place, id_ in enumerate(ids(part)):
        for side in (0, 1):
            there, here = whole.sequence_offsets[2 * int(id_) + side :], part.sequence_offsets[2 * place + side :]
            assert whole.tokens[there[0] : there[1]].tolist() == part.tokens[here[0] : here[1]].tolist()


@pytest.mark.parametrize("examples", [2, 8, 40, 200])
def test_mining_keeps_its_share_of_gold_pairs(tmp_path: Path, tiny_model: Path, examples: int) -> None:
    """200 foreign sentences and 400 English ones; the gold pairs are the last 20 of each."""
    gold = [(181 + n, 381 + n) for n in range(20)]
    write(tmp_path / "test-de.jsonl", [{"f": sentences(200), "e": sentences(400, seed=3), "g": gold}])
    spec = spec_of("bitext_mining", {"foreign": "f", "english": "e", "gold": "g"}, ["de"], metric="f1")
    shard = make(spec, tmp_path, tiny_model, examples, "de")
    assert len(shard) == examples
    there = set(ids(shard))
    found = [note["gold"] for note in shard.notes(np.arange(examples)) if note and note["gold"]]
    assert all(there.issuperset(one) for one in found)  # no half of a pair
    sides = Counter(shard.fields["side"].tolist())
    assert 0 < len(found) <= sides[0] / 10 + 1  # one foreign sentence in ten has a translation
    assert len(found) >= sides[0] // 10
    assert sides[1] >= sides[0] * (1.5 if examples > 20 else 0.5)


def contexts(language: str) -> list[dict[str, Any]]:
    """Five questions about each of 12 contexts of three sentences."""
    parts = sentences(36, script="latin" if language == "en" else "cyrillic", seed=4)
    rows = []
    for n in range(60):
        text = " ".join(part.capitalize() for part in parts[3 * (n // 5) : 3 * (n // 5) + 3])
        rows.append({"nr": f"q{n}", "q": f"{parts[n % 36]}", "c": text, "a": [0]})
    return rows


def test_a_pool_of_candidates_stays_whole(tmp_path: Path, tiny_model: Path) -> None:
    columns = {"id": "nr", "query": "q", "context": "c", "answer_start": "a"}
    spec = spec_of("answer_retrieval", columns, ["en", "ru"], metric="map@20", options={"pool": "sentences"})
    queries = []
    for language in ("en", "ru"):
        write(tmp_path / f"test-{language}.jsonl", contexts(language))
        whole, part = (make(spec, tmp_path, tiny_model, number, language) for number in (None, 7))
        candidates = [
            {id_ for id_, kind in zip(ids(one), one.fields["kind"], strict=True) if kind == 2} for one in (whole, part)
        ]
        assert candidates[0] == candidates[1]
        assert len(part) == len(candidates[0]) + 7
        assert part.manifest["drawn"]["examples"] == 7
        assert part.manifest["drawn"]["of"] == 60
        notes = dict(zip(ids(whole), whole.notes(np.arange(len(whole))), strict=True))
        assert part.notes(np.arange(len(part))) == [notes[id_] for id_ in ids(part)]
        queries.append([note["question"] for note in part.notes(np.arange(len(part))) if note])
    assert queries[0] == queries[1]  # the same questions in both languages


def test_questions_with_several_windows(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{**row, "c": row["c"] * 6, "answers": [row["c"][:4]], "starts": [0]} for row in contexts("en")]
    write(tmp_path / "test-en.jsonl", rows)
    columns = {"id": "nr", "question": "q", "context": "c", "answers": "answers", "answer_starts": "starts"}
    spec = spec_of("span_qa", columns, metric="f1")
    part = make(spec, tmp_path, tiny_model, 9)
    assert len(part) == 9
    assert part.manifest["sequences"] > 9
    assert part.manifest["split_examples"] == 9


def corpus(tmp_path: Path, lines: list[str], **options: Any) -> TaskSpec:
    (tmp_path / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    source = {"files": {"train": "corpus.txt"}, "reader": "text", "columns": {"text": "text"}}
    return catalog.load({"t": {"format": "mlm", "languages": ["en"], "sources": [source], "options": options}})["t"]


def test_running_text_short_and_long(tmp_path: Path, tiny_model: Path) -> None:
    """Of texts that make one example, and of texts that make many, so many examples as were wanted."""
    lines = [" ".join(sentences(1 if n % 4 else 30, seed=n)) for n in range(200)]
    spec = corpus(tmp_path, lines)
    part = make(spec, tmp_path, tiny_model, 40, split="train")
    assert len(part) == 40
    assert part.manifest["drawn"]["of"] == 200
    number = [int(id_.partition(".")[0]) for id_ in ids(part)]
    assert number == sorted(number)
    assert max(number) > 150 > 50 > min(number)
    few = make(corpus(tmp_path, lines[:4]), tmp_path, tiny_model, 12, split="train")  # the long one alone makes more
    assert len(few) == 12
    assert few.manifest["drawn"]["examples"] == 12 < few.manifest["drawn"]["of"]


def test_a_bound_on_what_is_read_goes_first(tmp_path: Path, tiny_model: Path) -> None:
    spec = corpus(tmp_path, sentences(100), max_examples=30)
    part = make(spec, tmp_path, tiny_model, 10, split="train")
    assert (len(part), part.manifest["drawn"]["of"]) == (10, 30)
    assert max(int(id_) for id_ in ids(part)) < 30


@settings(max_examples=200)
@given(st.dictionaries(st.integers(-1, 9), st.integers(1, 500), min_size=1), st.integers(1, 600))
def test_shares_are_proportional_and_add_up(counts: dict[int, int], wanted: int) -> None:
    shares = largest_remainders(counts, wanted)
    total = sum(counts.values())
    assert sum(shares.values()) == min(wanted, total)
    assert all(share <= counts[label] for label, share in shares.items())
    assert all(abs(share - min(wanted, total) * counts[label] / total) < 1 for label, share in shares.items())
