"""Chunks and their F1: against seqeval where it has the same rules, and against 0.0.12's rules written out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score

from xtrain.evaluation.benchmark.chunks import accuracy, micro_f1, seqeval012_chunks, set_f1, token_accuracy
from xtrain.evaluation.benchmark.layout import BENCHMARKS

NER = BENCHMARKS["xtreme"].tasks["panx"].labels
UPOS = BENCHMARKS["xtreme"].tasks["udpos"].labels


def tagged(labels: tuple[str, ...]) -> st.SearchStrategy[tuple[list[list[str]], list[list[str]]]]:
    """Gold and predicted tags of some sentences, equal in length; often equal in tags."""
    tag = st.sampled_from(labels)
    token = st.one_of(tag.map(lambda one: (one, one)), st.tuples(tag, tag))
    sentences = st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=6)
    return sentences.map(lambda s: ([[a for a, _ in one] for one in s], [[b for _, b in one] for one in s]))


def rules_of_0012(tags: list[str]) -> list[tuple[str, int, int]]:
    """seqeval 0.0.12's chunking as a table of what ends and what starts between two tags."""
    ending = {("B", "B"), ("B", "S"), ("B", "O"), ("I", "B"), ("I", "S"), ("I", "O")}
    starting = {("E", "E"), ("E", "I"), ("S", "E"), ("S", "I"), ("O", "E"), ("O", "I")}
    chunks, begin = [], 0
    seen = [("O", "")] + [(tag[0], tag.split("-")[-1]) for tag in tags] + [("O", "O")]
    for position, ((before, old), (after, new)) in enumerate(itertools.pairwise(seen)):
        changed = old != new
        if before in ("E", "S") or (before, after) in ending or (before not in ("O", ".") and changed):
            chunks.append((old, begin, position - 1))
        if after in ("B", "S") or (before, after) in starting or (after not in ("O", ".") and changed):
            begin = position
    return chunks


@given(tagged(NER))
@settings(max_examples=150)
def test_entities_agree_with_seqeval(case: tuple[list[list[str]], list[list[str]]]) -> None:
    gold, predicted = case
    found = micro_f1(gold, predicted)
    assert found["f1"] == pytest.approx(100 * f1_score(gold, predicted, zero_division=0), abs=1e-9)
    assert found["precision"] == pytest.approx(100 * precision_score(gold, predicted, zero_division=0), abs=1e-9)
    assert found["recall"] == pytest.approx(100 * recall_score(gold, predicted, zero_division=0), abs=1e-9)


@given(tagged((*UPOS, *NER, "E-PER", "S-LOC", "B-X-Y", ".", "SYM-X")))
@settings(max_examples=200)
def test_any_tags_agree_with_the_rules_of_0012(case: tuple[list[list[str]], list[list[str]]]) -> None:
    gold, predicted = ([tag for sentence in side for tag in (*sentence, "O")] for side in case)
    assert seqeval012_chunks(gold) == rules_of_0012(gold)
    right, found = set(rules_of_0012(gold)), set(rules_of_0012(predicted))
    assert micro_f1(*case) == set_f1(len(right & found), len(found), len(right))


@given(tagged(UPOS))
@settings(max_examples=50)
def test_token_accuracy_agrees_with_scikit_learn(case: tuple[list[list[str]], list[list[str]]]) -> None:
    gold, predicted = ([tag for sentence in side for tag in sentence] for side in case)
    expected = 100 * accuracy_score(gold, predicted)
    assert token_accuracy(*case) == pytest.approx(expected, abs=1e-9)
    assert accuracy(gold, predicted) == pytest.approx(expected, abs=1e-9)


def test_parts_of_speech_form_chunks_by_their_first_letters() -> None:
    # runs of one tag merge; S begins and ends a chunk; I goes on from nothing but its own type
    assert seqeval012_chunks(["NOUN", "NOUN", "VERB"]) == [("NOUN", 0, 1), ("VERB", 2, 2)]
    assert seqeval012_chunks(["SYM", "SYM"]) == [("SYM", 0, 0), ("SYM", 1, 1)]
    assert seqeval012_chunks(["INTJ", "INTJ", "O"]) == [("INTJ", 0, 1)]


def test_a_chunk_ends_with_its_sentence() -> None:
    gold, predicted = [["NOUN"], ["NOUN"]], [["NOUN"], ["VERB"]]
    assert micro_f1(gold, predicted) == {"f1": 50.0, "precision": 50.0, "recall": 50.0}


def test_no_chunk_at_all_is_zero_not_an_error() -> None:
    assert micro_f1([["O", "O"]], [["O", "O"]]) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}


def test_lost_tags_are_refused() -> None:
    with pytest.raises(AssertionError):
        micro_f1([["O", "O"]], [["O"]])
