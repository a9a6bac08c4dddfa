"""F1 of mined sentence pairs, and the threshold that maximises it on a development set: BUCC 2018."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby

from xtrain.evaluation.benchmark.chunks import set_f1

Pair = tuple[str, str]  # id of the foreign sentence, id of the English one


def pair_f1(predicted: Collection[Pair], gold: Collection[Pair]) -> dict[str, float]:
    """``f1``, ``precision`` and ``recall`` in percent of two sets of pairs; a pair given twice counts once.

    Precision and recall are 0 too where no pair is right. Source: google-research/xtreme's ``evaluate.py``.
    """
    found, right = set(predicted), set(gold)
    return set_f1(len(found & right), len(found), len(right))


def best_threshold(candidates: Iterable[tuple[Pair, float]], gold: Collection[Pair]) -> tuple[float, float]:
    """The threshold on the score that gives the best F1, and that F1 in percent.

    ``candidates`` are pairs with their scores; a pair is mined where its score is at least the threshold. The
    threshold lies midway between the worst score that is taken and the best that is not, as in LASER's BUCC
    script; where all are taken, it is the worst. Candidates of equal scores are taken together, for no
    threshold can part them. Without any right candidate the threshold is infinite: nothing is mined.
    """
    right = set(gold)
    assert right, "no gold pair to tune a threshold on"
    ordered = sorted(candidates, key=lambda candidate: -candidate[1])
    groups = [(score, [pair for pair, _ in run]) for score, run in groupby(ordered, key=lambda candidate: candidate[1])]
    best, best_f1 = float("inf"), 0.0
    taken: set[Pair] = set()
    correct = 0
    for number, (score, pairs) in enumerate(groups):
        new = set(pairs) - taken
        taken |= new
        correct += len(new & right)
        f1 = set_f1(correct, len(taken), len(right))["f1"]
        if f1 > best_f1:
            best_f1 = f1
            best = (score + groups[number + 1][0]) / 2 if number + 1 < len(groups) else score
    return best, best_f1
