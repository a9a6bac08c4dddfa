"""Mean average precision of ranked answers, cut at k: LAReQA and Mewsli-X of XTREME-R."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

CUT = 20


def average_precision(ranked: Sequence[str], right: Collection[str], k: int = CUT) -> float:
    """Average precision at ``k`` of one query, between 0 and 1.

    ``ranked`` are the answers found, the best first; only the first ``k`` count, and an answer that comes
    again counts once, though it takes its place. The sum of the precisions at the hits is divided by
    min(number of right answers, ``k``), so that finding all that can be found is 1. With one right answer
    it is its reciprocal rank. Source: XTREME-R (Ruder et al. 2021) and the ``utils_lareqa.py`` of
    google-research/xtreme; its ``utils_mewslix.py`` is the case of one right answer.
    """
    wanted = set(right)
    assert wanted, "a query without a right answer"
    hits, total = 0, 0.0
    for rank, answer in enumerate(ranked[:k], 1):
        if answer in wanted:
            wanted.remove(answer)
            hits += 1
            total += hits / rank
    return total / min(len(set(right)), k)


def map_at_k(ranked: Sequence[Sequence[str]], right: Sequence[Collection[str]], k: int = CUT) -> float:
    """Mean of :func:`average_precision` over all queries, in percent; ``ranked[i]`` belongs to ``right[i]``."""
    assert right, "mean over no query"
    return 100 * sum(average_precision(r, w, k) for r, w in zip(ranked, right, strict=True)) / len(right)


def map_by_id(ranked: Mapping[str, Sequence[str]], right: Mapping[str, Collection[str]], k: int = CUT) -> float:
    """:func:`map_at_k` over the queries of ``right`` by id; one that ``ranked`` lacks scores 0."""
    return map_at_k([ranked.get(query, ()) for query in right], list(right.values()), k)
