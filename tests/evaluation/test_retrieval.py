"""Nearest neighbours against a plain loop, and which block is pooled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xtrain.errors import UserError
from xtrain.evaluation.retrieval import embedding_layer, nearest, search


def vectors(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, size)))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(2, 8), st.integers(1, 40), st.integers(0, 99))
def test_nearest_is_the_largest_cosine(queries: int, rows: int, size: int, chunk: int, seed: int) -> None:
    q, index = vectors(queries, size, seed), vectors(rows, size, seed + 1000)
    found = nearest(q, index, chunk)
    assert found.shape == (queries,)
    for vector, hit in zip(q, found.tolist(), strict=True):
        cosines = [float(vector @ other / vector.norm() / other.norm()) for other in index]
        assert cosines[hit] == pytest.approx(max(cosines), abs=1e-6)


def test_the_length_of_a_vector_does_not_matter_and_the_first_of_equals_is_taken() -> None:
    index = torch.tensor([[0.0, 100.0], [1.0, 1.0], [0.1, 0.1], [1.0, 0.0]])
    assert nearest(torch.tensor([[3.0, 3.0], [0.0, 0.01], [5.0, 0.1]]), index).tolist() == [1, 0, 3]


def test_search_goes_both_ways() -> None:
    source = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    target = torch.tensor([[1.0, 0.05], [1.0, 0.3], [1.0, 0.04]])
    hits = search(source, target)
    assert hits["to_english"].tolist() == [2, 0, 1]
    assert hits["from_english"].tolist() == [0, 1, 0]


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
