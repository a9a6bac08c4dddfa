"""Shapley values of textbook games, exact and from some of the subsets."""

from __future__ import annotations

from itertools import combinations

import pytest

from xtrain.statistics.shapley import Subset, exact_weights, sampled_weights, values


def every(players: str) -> list[Subset]:
    return [Subset(some) for size in range(len(players) + 1) for some in combinations(players, size)]


def test_the_glove_game() -> None:
    """Two left gloves (a, b) and a right one (c): a pair is worth 1. Textbooks have 1/6, 1/6, 2/3."""
    game = {one: float("c" in one and len(one) > 1) for one in every("abc")}
    found = values(exact_weights("abc"), game)
    assert found == pytest.approx({"a": 1 / 6, "b": 1 / 6, "c": 2 / 3})


def test_the_airport_game() -> None:
    """Runways of cost 1, 2 and 3: Littlechild & Owen give 1/3, 5/6, 11/6."""
    cost = {"a": 1.0, "b": 2.0, "c": 3.0}
    game = {one: max((cost[player] for player in one), default=0.0) for one in every("abc")}
    assert values(exact_weights("abc"), game) == pytest.approx({"a": 1 / 3, "b": 5 / 6, "c": 11 / 6})


@pytest.mark.parametrize("players", ["abc", "abcd"])
def test_the_fit_over_all_subsets_is_exact(players: str) -> None:
    game = {one: float(hash_of(one)) for one in every(players)}
    exact, fitted = values(exact_weights(players), game), values(sampled_weights(players, game), game)
    assert fitted == pytest.approx(exact)
    assert sum(fitted.values()) == pytest.approx(game[Subset(players)] - game[Subset()])


def test_some_subsets_are_enough_for_an_additive_game() -> None:
    worth = {"a": 1.0, "b": -2.0, "c": 3.0, "d": 0.5}
    subsets = [Subset(), Subset("a"), Subset("bc"), Subset("ad"), Subset("bd"), Subset("abcd")]
    game = {one: 60.0 + sum(worth[player] for player in one) for one in subsets}
    assert values(sampled_weights("abcd", subsets), game) == pytest.approx(worth)


def test_subsets_that_do_not_tell_are_refused() -> None:
    with pytest.raises(ValueError, match="tell the tasks apart"):
        sampled_weights("abc", [Subset(), Subset("ab"), Subset("abc")])
    with pytest.raises(ValueError, match="no task and that of all"):
        sampled_weights("ab", [Subset("a"), Subset("b")])


def hash_of(one: Subset) -> int:
    return sum(3 ** (ord(player) - 97) * (7 + len(one)) for player in one) % 41
