"""How often intervals hold the truth, and how often nothing is called something: simulations of the engine of answers.

    python benchmarks/coverage.py [--runs 1000] [--kinds contrast,...] [--out benchmarks/results/coverage.json]

Tables are made up with a known truth in the engine's own form (xtrain/statistics/planted.py): items that are right or
wrong, the same ones in all languages, runs that differ by seed, languages and rows that are samples of more where the
answer is about these. Each line is one setting: the share of runs whose 95 % interval holds the truth, the mean width,
and, where nothing is there, the share of families of tests in which Holm's correction leaves a claim.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from rich.console import Console

from xtrain.statistics.contrasts import Design, across_rows, contrast, mean_of
from xtrain.statistics.estimate import Estimate, holm
from xtrain.statistics.measured import Floats, Measured
from xtrain.statistics.planted import Spread, expected, mean_for, table
from xtrain.statistics.ranking import rank

SEEDS = (2, 3, 5)
LANGUAGES = {7: 300, 40: 150}  # number -> items: more would only make the simulation longer
SPREADS = {"small": 0.02, "middle": 0.05, "large": 0.12}  # of seeds: about half a point, one, and three
ROWS = 6  # of a family of tests, of a ranking and of a curve
MORE = 5  # times as many runs where 5 % is to be told from 6 %
Made = tuple[float, float, Estimate]
"""Truth, width, estimate."""


def means(rows: int, languages: int, gain: float, spread: Spread) -> Floats:
    """(R, L): languages between 45 and 75 %, and ``gain`` points a row more than the row before."""
    scores = np.linspace(45.0, 75.0, languages)[None, :] + gain * np.arange(rows)[:, None]
    return mean_for(scores, spread)


def fixed(seeds: int, languages: int, items: int, noise: float, rng: np.random.Generator) -> tuple[float, Estimate]:
    """A difference of two rows over these languages."""
    spread = Spread(seed=noise)
    made = means(2, languages, 2.0, spread)
    truth = expected(made, spread).mean(axis=1)
    found = contrast(
        table(made, spread, seeds=seeds, items=items, rng=rng), _minus(2), np.full(languages, 1 / languages)
    )
    return float(truth[1] - truth[0]), found


def nested_seeds(
    seeds: int, languages: int, items: int, noise: float, rng: np.random.Generator
) -> tuple[float, Estimate]:
    """A difference of two rows over these languages; half of the noise of seeds is from two target seeds in each."""
    spread = Spread(seed=noise, inner_seed=noise)
    made = means(2, languages, 2.0, spread)
    truth = expected(made, spread).mean(axis=1)
    study = table(made, spread, seeds=seeds, items=items, rng=rng, inner=2)
    return float(truth[1] - truth[0]), contrast(study, _minus(2), np.full(languages, 1 / languages))


def languages_at_random(
    seeds: int, languages: int, items: int, noise: float, rng: np.random.Generator
) -> tuple[float, Estimate]:
    """A difference of two rows over languages of their kind."""
    spread = Spread(seed=noise, language=0.08)
    made = means(2, languages, 2.0, spread)
    truth = expected(made, spread).mean(axis=1)
    study = table(made, spread, seeds=seeds, items=items, rng=rng)
    return float(truth[1] - truth[0]), contrast(study, _minus(2), np.eye(languages), mean_of(languages))


def slope_over_languages(
    seeds: int, languages: int, items: int, noise: float, rng: np.random.Generator
) -> tuple[float, Estimate]:
    """An interaction: how the difference of two rows changes with a covariate of languages."""
    spread = Spread(seed=noise, language=0.08)
    covariate = np.random.default_rng(0).permutation(np.linspace(-1, 1, languages))
    scores = np.linspace(45.0, 75.0, languages)[None, :] + np.array([[0.0], [1.0]]) * (2.0 + 2.0 * covariate)
    made = mean_for(scores, spread)
    design = Design(np.column_stack([covariate, np.ones(languages)]), 0)
    truth = float(design.weights @ (expected(made, spread)[1] - expected(made, spread)[0]))
    return truth, contrast(table(made, spread, seeds=seeds, items=items, rng=rng), _minus(2), np.eye(languages), design)


def curve_over_rows(
    seeds: int, languages: int, items: int, noise: float, rng: np.random.Generator
) -> tuple[float, Estimate]:
    """A trend over rows that differ around it: two rows for each of 1, 2 and 3 tasks."""
    spread = Spread(seed=noise, row=0.05)
    x = np.repeat([1.0, 2.0, 3.0], 2)
    scores = np.linspace(45.0, 75.0, languages)[None, :] + 1.5 * x[:, None]
    made = mean_for(scores, spread)
    design = Design(np.column_stack([x - x.mean(), np.ones(len(x))]), 0, "rows")
    truth = float(design.weights @ expected(made, spread).mean(axis=1))
    study = table(made, spread, seeds=seeds, items=items, rng=rng)
    return truth, across_rows(study, np.full(languages, 1 / languages), design)


def synergy(seeds: int, languages: int, items: int, noise: float, rng: np.random.Generator) -> tuple[float, Estimate]:
    """A matrix's cell: a pair less the better one of its two, which are a point apart."""
    spread = Spread(seed=noise)
    scores = np.linspace(45.0, 75.0, languages)[None, :] + np.array([[0.0], [1.0], [3.0]])
    made = mean_for(scores, spread)
    truth = expected(made, spread).mean(axis=1)
    study = table(made, spread, seeds=seeds, items=items, rng=rng)
    units = np.full(languages, 1 / languages)
    both = [contrast(study, np.array(weights), units) for weights in ([-1.0, 0.0, 1.0], [0.0, -1.0, 1.0])]
    return float(truth[2] - truth[1]), min(both, key=lambda one: one.value)


def _minus(rows: int) -> Floats:
    weights = np.zeros(rows)
    weights[0], weights[1] = -1.0, 1.0
    return weights


Case = Callable[[int, int, int, float, np.random.Generator], tuple[float, Estimate]]
KINDS: dict[str, Case] = {
    "contrast": fixed,
    "contrast, nested seeds": nested_seeds,
    "contrast, languages a sample": languages_at_random,
    "interaction": slope_over_languages,
    "curve": curve_over_rows,
    "matrix": synergy,
}


def coverage(case: Case, seeds: int, languages: int, noise: float, runs: int) -> dict[str, Any]:
    """Of one setting."""
    rng = np.random.default_rng([seeds, languages, round(1000 * noise)])
    found = [case(seeds, languages, LANGUAGES[languages], noise, rng) for _ in range(runs)]
    held = [one.low <= truth <= one.high for truth, one in found]
    above = [one.low > truth for truth, one in found]
    return {
        "coverage": float(np.mean(held)),
        "too_high": float(np.mean(above)),
        "width": float(np.mean([one.high - one.low for _, one in found])),
        "shares": _shares([one for _, one in found]),
    }


def _shares(estimates: list[Estimate]) -> dict[str, float]:
    names = dict.fromkeys(source.name for one in estimates for source in one.sources)
    return {
        name: float(np.mean([one.share(source) for one in estimates for source in one.sources if source.name == name]))
        for name in names
    }


def all_at_once(seeds: int, languages: int, noise: float, runs: int) -> dict[str, Any]:
    """A choice: whether the intervals of all differences hold together, and the best row is in the set."""
    rng = np.random.default_rng([seeds, languages, round(1000 * noise)])
    spread = Spread(seed=noise)
    made = means(ROWS, languages, 0.5, spread)
    truth = expected(made, spread).mean(axis=1)
    held = kept = 0
    for _ in range(runs):
        found = rank(
            table(made, spread, seeds=seeds, items=LANGUAGES[languages], rng=rng), np.full(languages, 1 / languages)
        )
        pairs = found.differences.items()
        held += all(one.low <= truth[int(a[-1])] - truth[int(b[-1])] <= one.high for (a, b), one in pairs)
        kept += f"row {int(np.argmax(truth))}" in found.best_ones
    return {"coverage": held / runs, "best_in_set": kept / runs}


def false_claims(seeds: int, languages: int, noise: float, runs: int) -> dict[str, Any]:
    """A family of tests of rows that do not differ: in how many is something claimed after Holm."""
    rng = np.random.default_rng([seeds, languages, round(1000 * noise), 1])
    spread = Spread(seed=noise)
    made = means(ROWS, languages, 0.0, spread)
    claims = single = 0
    runs *= MORE
    for _ in range(runs):
        study = table(made, spread, seeds=seeds, items=LANGUAGES[languages], rng=rng)
        p_values = [_against_first(study, row, languages).p for row in range(1, ROWS)]
        claims += min(holm(p_values)) < 0.05
        single += p_values[0] < 0.05
    return {"runs": runs, "families_with_a_claim": claims / runs, "single_tests": single / runs}


def power(seeds: int, languages: int, noise: float, runs: int) -> dict[str, Any]:
    """How often an effect is found that is as large as what a study says, in which it is there, it could find.

    Rows lie as far above as below 50 %: differences of dozens of points, which is what two seeds can find, would
    not fit elsewhere.
    """
    rng = np.random.default_rng([seeds, languages, round(1000 * noise), 2])
    effect, stated = 0.0, 0.0
    for _ in range(4):  # scores vary less towards the ends: until what is stated is what is there
        found = _made_with(effect, seeds, languages, noise, runs, rng)
        stated = _typical(found).detectable()
        effect = stated
    found = _made_with(effect, seeds, languages, noise, runs, rng)
    medians = float(np.median([one.detectable() for one in found[:200]]))
    return {"effect": effect, "stated_median": medians, "power": float(np.mean([one.p < 0.05 for one in found]))}


def _made_with(
    effect: float, seeds: int, languages: int, noise: float, runs: int, rng: np.random.Generator
) -> list[Estimate]:
    """Estimates of ``runs`` studies of two rows that differ by ``effect`` points."""
    spread = Spread(seed=noise)
    level = np.linspace(46.0, 54.0, languages)
    made = mean_for(np.stack([level - effect / 2, level + effect / 2]), spread)
    return [_against_first(table(made, spread, seeds=seeds, items=LANGUAGES[languages], rng=rng), 1, languages)
            for _ in range(runs)]  # fmt: skip


def _typical(pilot: list[Estimate]) -> Estimate:
    """With the mean of each source's variance: what the study is like, free of one sample's luck."""
    sources = tuple(
        replace(source, variance=float(np.mean([one.sources[n].variance for one in pilot])))
        for n, source in enumerate(pilot[0].sources)
    )
    return Estimate(0.0, sources)


def _against_first(study: Measured, row: int, languages: int) -> Estimate:
    weights = np.zeros(len(study.rows))
    weights[0], weights[row] = -1.0, 1.0
    return contrast(study, weights, np.full(languages, 1 / languages))


def settings() -> Iterator[tuple[int, int, str]]:
    """Seeds, languages and the name of a spread."""
    for seeds in SEEDS:
        for languages in LANGUAGES:
            for name in SPREADS:
                yield seeds, languages, name


def main() -> None:
    """Run the simulations that were asked for, and add them to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--kinds", default=",".join([*KINDS, "choice", "false claims", "power"]).replace(", ", "; "))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/coverage.json")
    given = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    lines: list[dict[str, Any]] = json.loads(given.out.read_bytes())["settings"] if given.out.exists() else []
    more: dict[str, Callable[[int, int, float, int], dict[str, Any]]] = {
        "choice": all_at_once, "false claims": false_claims, "power": power,
    }  # fmt: skip
    for kind in given.kinds.split(","):
        kind = kind.replace("; ", ", ")
        lines = [line for line in lines if line["kind"] != kind]
        for seeds, languages, name in settings():
            began = time.perf_counter()
            if kind in KINDS:
                found = coverage(KINDS[kind], seeds, languages, SPREADS[name], given.runs)
            else:
                found = more[kind](seeds, languages, SPREADS[name], given.runs)
            line = {"kind": kind, "seeds": seeds, "languages": languages, "noise": name, "runs": given.runs, **found}
            lines.append(line)
            numbers = ", ".join(f"{key} {value:.3f}" for key, value in found.items() if isinstance(value, float))
            console.print(f"{kind}, {seeds} seeds, {languages} languages, {name} noise of seeds: {numbers} "
                          f"({time.perf_counter() - began:.0f} s)")  # fmt: skip
        versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
        given.out.write_text(json.dumps({"versions": versions, "settings": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
