"""Shapley values of textbook games, exact and from some of the subsets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import pytest

from xtrain.statistics.shapley import Subset, sampled_weights


def shapley(game: Mapping[Subset, float]) -> dict[str, float]:
    """By the definition: what a player adds to those before it, the mean over all orders."""
    players = sorted(max(game, key=len))
    found = {}
    for player in players:
        others = [other for other in players if other != player]
        found[player] = sum(
            math.factorial(size) * math.factorial(len(others) - size) / math.factorial(len(players))
            * (game[Subset({*chosen, player})] - game[Subset(chosen)])
            for size in range(len(players)) for chosen in combinations(others, size)
        )  # fmt: skip
    return found


def fitted(players: str, game: Mapping[Subset, float]) -> dict[str, float]:
    weights = sampled_weights(players, game)
    return {player: sum(weight * game[one] for one, weight in of.items()) for player, of in weights.items()}


def every(players: str) -> list[Subset]:
    return [Subset(some) for size in range(len(players) + 1) for some in combinations(players, size)]


def test_the_glove_game() -> None:
    """Two left gloves (a, b) and a right one (c): a pair is worth 1. Textbooks have 1/6, 1/6, 2/3."""
    game = {one: float("c" in one and len(one) > 1) for one in every("abc")}
    assert fitted("abc", game) == pytest.approx({"a": 1 / 6, "b": 1 / 6, "c": 2 / 3})


def test_the_airport_game() -> None:
    """Runways of cost 1, 2 and 3: Littlechild & Owen give 1/3, 5/6, 11/6."""
    cost = {"a": 1.0, "b": 2.0, "c": 3.0}
    game = {one: max((cost[player] for player in one), default=0.0) for one in every("abc")}
    assert fitted("abc", game) == pytest.approx({"a": 1 / 3, "b": 5 / 6, "c": 11 / 6})


@pytest.mark.parametrize("players", ["abc", "abcd"])
def test_the_fit_over_all_subsets_is_exact(players: str) -> None:
    game = {one: float(hash_of(one)) for one in every(players)}
    found = fitted(players, game)
    assert found == pytest.approx(shapley(game))
    assert sum(found.values()) == pytest.approx(game[Subset(players)] - game[Subset()])


def test_some_subsets_are_enough_for_an_additive_game() -> None:
    worth = {"a": 1.0, "b": -2.0, "c": 3.0, "d": 0.5}
    subsets = [Subset(), Subset("a"), Subset("bc"), Subset("ad"), Subset("bd"), Subset("abcd")]
    game = {one: 60.0 + sum(worth[player] for player in one) for one in subsets}
    assert fitted("abcd", game) == pytest.approx(worth)


def test_subsets_that_do_not_tell_are_refused() -> None:
    with pytest.raises(ValueError, match="tell the tasks apart"):
        sampled_weights("abc", [Subset(), Subset("ab"), Subset("abc")])
    with pytest.raises(ValueError, match="no task and that of all"):
        sampled_weights("ab", [Subset("a"), Subset("b")])


def hash_of(one: Subset) -> int:
    return sum(3 ** (ord(player) - 97) * (7 + len(one)) for player in one) % 41
