"""Nearest neighbours and mining against plain loops, and which block is pooled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrain.errors import UserError
from xtrain.evaluation.retrieval import Mined, embedding_layer, mine, nearest, neighbours, search, top_k


def vectors(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, size)))


def cosines(queries: torch.Tensor, index: torch.Tensor) -> np.ndarray:
    """Every cosine, one at a time, and as many of its digits as two ways of computing it agree in."""
    rows, others = queries.double().numpy(), index.double().numpy()
    found = [[float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) for b in others] for a in rows]
    return np.round(found, 10)


@given(
    st.integers(1, 12), st.integers(1, 60), st.integers(2, 5), st.integers(1, 6), st.sampled_from([3, 17, 10**6]),
    st.sampled_from([1, 5, 1000]), st.integers(0, 99), st.booleans(),
)  # fmt: skip
@settings(max_examples=25)
def test_neighbours_are_the_largest_cosines_of_equals_the_first(
    queries: int, rows: int, size: int, k: int, rows_at_once: int, queries_at_once: int, seed: int, coarse: bool
) -> None:
    """Coarse vectors have few values: most cosines are there many times, at every place."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> torch.Tensor:
        values = rng.integers(1, 3, size=(count, size)) if coarse else rng.normal(size=(count, size))
        return torch.from_numpy(values).float()

    q, index = draw(queries), draw(rows)
    found = neighbours(q, index, k, queries_at_once=queries_at_once, rows_at_once=rows_at_once)
    assert found.rows.shape == found.similarity.shape == (queries, min(k, rows))
    for query, every in enumerate(cosines(q, index)):
        expected = np.lexsort((np.arange(rows), -every))[:k]
        assert found.rows[query].tolist() == expected.tolist()
        np.testing.assert_allclose(found.similarity[query], every[expected], atol=1e-9)


def test_pieces_of_any_size_give_the_same_to_the_last_bit() -> None:
    q, index = vectors(70, 64, 0).float(), vectors(500, 64, 1).float()
    index[100:140] = index[40]  # more equal ones than are ever kept in reserve
    q[3] = 7 * index[40]
    whole = neighbours(q, index, 4)
    assert whole.rows[3].tolist() == [40, 100, 101, 102]
    for queries_at_once, rows_at_once in ((1, 10**6), (64, 7), (13, 128)):
        parts = neighbours(q, index, 4, queries_at_once=queries_at_once, rows_at_once=rows_at_once)
        assert np.array_equal(parts.rows, whole.rows)
        assert np.array_equal(parts.similarity, whole.similarity)
    scores, rows = top_k(q, index, 4)
    assert np.array_equal(rows.numpy(), whole.rows)
    assert np.array_equal(scores.numpy(), whole.similarity)


def test_the_length_of_a_vector_does_not_matter_and_the_first_of_equals_is_taken() -> None:
    index = torch.tensor([[0.0, 100.0], [1.0, 1.0], [0.1, 0.1], [1.0, 0.0]])
    assert nearest(torch.tensor([[3.0, 3.0], [0.0, 0.01], [5.0, 0.1]]), index).tolist() == [1, 0, 3]


def test_search_goes_both_ways() -> None:
    source = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.05], [1.0, 0.3], [1.0, 0.04]])
    hits = search(source, target)
    assert hits["to_english"].tolist() == [2, 0, 1]
    assert hits["from_english"].tolist() == [0, 1, 0]


def mined_by_loops(foreign: torch.Tensor, english: torch.Tensor, k: int, margin: str) -> list[tuple[int, int, float]]:
    """The definition, sentence by sentence."""
    cosine = cosines(foreign, english)

    def ranked(values: np.ndarray) -> list[int]:
        return sorted(range(len(values)), key=lambda n: (-values[n], n))[:k]

    near_f, near_e = [ranked(row) for row in cosine], [ranked(row) for row in cosine.T]
    mean_f = [float(np.mean(cosine[f, near])) for f, near in enumerate(near_f)]
    mean_e = [float(np.mean(cosine[near, e])) for e, near in enumerate(near_e)]

    def score(f: int, e: int) -> float:
        mean = (mean_f[f] + mean_e[e]) / 2
        return {"ratio": cosine[f, e] / mean, "distance": cosine[f, e] - mean, "absolute": cosine[f, e]}[margin]

    proposals = [max((score(f, e), -n, f, e) for n, e in enumerate(near)) for f, near in enumerate(near_f)]
    proposals += [max((score(f, e), -n, f, e) for n, f in enumerate(near)) for e, near in enumerate(near_e)]
    used_f: set[int] = set()
    used_e: set[int] = set()
    found = []
    for value, _, f, e in sorted(proposals, key=lambda one: (-one[0], one[2], one[3])):
        if f not in used_f and e not in used_e:
            used_f.add(f)
            used_e.add(e)
            if value > 0:
                found.append((f, e, value))
    return found


def triples(mined: Mined) -> list[tuple[int, int, float]]:
    return list(zip(mined.foreign.tolist(), mined.english.tolist(), mined.scores.tolist(), strict=True))


@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=25)
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_mining_is_its_definition(margin: str, foreign: int, english: int, k: int, seed: int) -> None:
    one, other = vectors(foreign, 6, seed).float() + 1, vectors(english, 6, seed + 1000).float() + 1
    found, expected = triples(mine(one, other, k, margin)), mined_by_loops(one, other, k, margin)
    assert [triple[:2] for triple in found] == [triple[:2] for triple in expected]
    np.testing.assert_allclose([t[2] for t in found], [t[2] for t in expected], rtol=1e-6)


def test_the_margin_finds_what_the_cosine_alone_does_not() -> None:
    """English 0 is near to everything, the others only to their own translation."""
    english = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.2, 0.2], [0.2, 1.0, 0.2]])
    foreign = torch.tensor([[1.0, 0.45, 0.45], [0.45, 1.0, 0.45], [0.6, 0.6, 1.0]])
    assert {(f, e) for f, e, _ in triples(mine(foreign, english, 2))} >= {(0, 1), (1, 2)}
    assert triples(mine(foreign, english, 2, "absolute"))[0][1] == 0


def test_equal_scores_are_taken_in_the_order_of_the_sentences() -> None:
    same = torch.ones(3, 4)
    assert triples(mine(same, same)) == [(0, 0, 1.0)], "every sentence proposes the first of the others"
    english = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert [triple[:2] for triple in triples(mine(english.flip(0), english, 1))] == [(0, 1), (1, 0)]


def test_translations_are_found() -> None:
    source = vectors(50, 16, 0)
    hits = search(source, 3 * source + 0.001 * vectors(50, 16, 1))
    assert hits["to_english"].tolist() == hits["from_english"].tolist() == list(range(50))


@pytest.mark.parametrize(("num_layers", "layer"), [(24, 14), (12, 7), (6, 4), (36, 21), (1, 1), (2, 1)])
def test_the_protocols_layer_is_the_nearest_to_14_of_24(num_layers: int, layer: int) -> None:
    assert embedding_layer("protocol", num_layers) == layer


def test_other_layers_can_be_named() -> None:
    assert embedding_layer("last", 12) == 12
    assert embedding_layer(3, 12) == 3


@pytest.mark.parametrize("setting", [0, 13, -1, "middle"])
def test_a_layer_that_is_not_there_is_the_users_mistake(setting: int | str) -> None:
    with pytest.raises(UserError, match=r'1 to 12, "last" or "protocol"'):
        embedding_layer(setting, 12)
