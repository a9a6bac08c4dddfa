"""REML against statsmodels, and against the analysis of variance of balanced tables."""

from __future__ import annotations

import importlib
import warnings

import numpy as np
import pytest

from xtrain.statistics.mixed_model import fit

ROWS, SEEDS, LANGUAGES = 3, 3, 6


def crossed(seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, list[object]]]:
    """Rows fixed; seeds of each row, languages in families, and languages of each row at random."""
    rng = np.random.default_rng(seed)
    family = np.array([0, 0, 0, 1, 1, 2])
    of_family, of_language = rng.normal(0, 1.5, 3), rng.normal(0, 2.0, LANGUAGES)
    of_run, of_pair = rng.normal(0, 1.0, (ROWS, SEEDS)), rng.normal(0, 0.8, (ROWS, LANGUAGES))
    places = [(r, s, n) for r in range(ROWS) for s in range(SEEDS) for n in range(LANGUAGES)]
    values = np.array(
        [
            60.0 + r + of_family[family[n]] + of_language[n] + of_run[r, s] + of_pair[r, n] + rng.normal(0, 0.5)
            for r, s, n in places
        ]
    )
    fixed = np.array([[1.0, float(r == 1), float(r == 2)] for r, _, _ in places])
    random: dict[str, list[object]] = {
        "family": [int(family[n]) for _, _, n in places],
        "language": [n for _, _, n in places],
        "run": [(r, s) for r, s, _ in places],
        "row by language": [(r, n) for r, _, n in places],
    }
    return values, fixed, random


@pytest.mark.parametrize("seed", [1, 3])
def test_it_is_that_of_statsmodels(seed: int) -> None:
    mixed = importlib.import_module("statsmodels.regression.mixed_linear_model")
    values, fixed, random = crossed(seed)
    structures = []
    for levels in random.values():
        names = sorted(set(map(repr, levels)))
        structures.append([np.array([[float(repr(level) == name) for name in names] for level in levels])])
    names = [[sorted(set(map(repr, levels)))] for levels in random.values()]
    model = mixed.MixedLM(
        values, fixed, groups=np.ones(len(values)), exog_re=None,
        exog_vc=mixed.VCSpec(list(random), names, structures),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = model.fit(reml=True, method=["lbfgs", "bfgs"], maxiter=2000, gtol=1e-9)
    ours = fit(values, fixed, random)
    assert ours.log_likelihood == pytest.approx(theirs.llf, abs=1e-4)
    found = np.array([*(ours.components[name] for name in random), ours.components["residual"]])
    wanted = np.array([*theirs.vcomp, theirs.scale])
    assert found == pytest.approx(wanted, abs=1e-4 * wanted.max())
    assert ours.fixed == pytest.approx(theirs.fe_params, abs=1e-4)
    # their standard errors are from a Hessian by differences, of all parameters: the plain formula, at their variances
    covariance = theirs.scale * np.eye(len(values))
    for variance, (structure,) in zip(theirs.vcomp, structures, strict=True):
        covariance += variance * structure @ structure.T
    errors = np.sqrt(np.diag(np.linalg.inv(fixed.T @ np.linalg.solve(covariance, fixed))))
    assert np.sqrt(np.diag(ours.covariance)) == pytest.approx(errors, rel=1e-4)


def test_a_balanced_table_has_the_mean_squares_of_its_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    table = 50 + rng.normal(0, 3, (5, 1)) + rng.normal(0, 2, (1, 8)) + rng.normal(0, 1, (5, 8))
    rows, columns = np.meshgrid(range(5), range(8), indexing="ij")
    found = fit(table.ravel(), np.ones((40, 1)), {"rows": rows.ravel().tolist(), "columns": columns.ravel().tolist()})
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    residual = np.sum(left**2) / (4 * 7)
    of_rows = (8 * table.mean(axis=1).var(ddof=1) - residual) / 8
    of_columns = (5 * table.mean(axis=0).var(ddof=1) - residual) / 5
    assert found.components["residual"] == pytest.approx(residual, rel=1e-5)
    assert found.components["rows"] == pytest.approx(of_rows, rel=1e-5)
    assert found.components["columns"] == pytest.approx(of_columns, rel=1e-5)
    assert found.fixed[0] == pytest.approx(table.mean())


def test_a_component_that_would_be_negative_is_zero() -> None:
    values = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])  # equal means: less between than chance would give
    found = fit(values, np.ones((6, 1)), {"pair": [0, 0, 1, 1, 2, 2]})
    assert found.components["pair"] == pytest.approx(0.0, abs=1e-9)
    assert found.components["residual"] == pytest.approx(values.var(ddof=1), rel=1e-5)


def test_known_errors_are_taken_out_of_the_residual() -> None:
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.5, 2.0, 200)
    values = rng.normal(0, 1.0, 200) + rng.normal(0, np.sqrt(errors))
    found = fit(values, np.ones((200, 1)), {}, known=np.diag(errors))
    assert found.components["residual"] == pytest.approx(1.0, abs=0.4)
    assert found.share("residual") == 1.0
