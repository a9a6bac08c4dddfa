"""A linear mixed model with crossed and nested random effects, fitted by REML.

y = X b + sum over k of Z_k u_k + e, with u_k ~ N(0, s_k I), e ~ N(0, s_e I) and, where the sampling errors of y are
known, their covariance beside it (a multilevel meta-analysis). Harville (1977); the average information of Gilmour,
Thompson & Cullis (1995) for the last steps.

Dimension letters: N observations, P fixed effects, Q levels of a random effect, K random effects.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize

from xtrain.statistics.measured import Floats

RESIDUAL = "residual"
MOST_OBSERVATIONS = 4000  # the covariance of all observations is held in memory, and inverted at each step


@dataclass(frozen=True)
class MixedModel:
    """A fitted model."""

    fixed: Floats
    """(P,)."""
    covariance: Floats
    """Of the fixed effects, (P, P)."""
    components: Mapping[str, float]
    """Variance of each random effect, and of the residual."""
    log_likelihood: float
    """Restricted, with all constants."""

    def share(self, name: str) -> float:
        """Of the sum of all components, between 0 and 1."""
        total = sum(self.components.values())
        return self.components[name] / total if total > 0 else 0.0


def fit(
    values: Floats,
    fixed: Floats,
    random: Mapping[str, Sequence[Hashable]],
    known: Floats | None = None,
) -> MixedModel:
    """Fit ``values`` (N,) on ``fixed`` (N, P) with random effects given by each observation's level.

    ``known`` (N, N) is the covariance of the observations' own sampling errors, where there is one. Variances are not
    negative; one that would be is 0.
    """
    assert len(values) <= MOST_OBSERVATIONS, len(values)
    names = [*random, RESIDUAL]
    structures = [_same_level(levels) for levels in random.values()] + [np.eye(len(values))]
    centre = values - fixed @ np.linalg.lstsq(fixed, values, rcond=None)[0]
    scale = float(np.mean(centre**2)) or 1.0
    known = np.zeros((len(values), len(values))) if known is None else known / scale
    problem = _Problem(values / np.sqrt(scale), fixed, structures, known)
    start = np.full(len(names), 1.0 / len(names))
    found = optimize.minimize(
        problem.negative,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * (len(names) - 1) + [(1e-10, None)],
        options={"maxiter": 200, "ftol": 1e-12, "gtol": 1e-7},
    )
    variances = _polished(problem, np.asarray(found.x))
    state = problem.state(variances)
    shift = -0.5 * (len(values) - fixed.shape[1]) * np.log(scale)
    return MixedModel(
        state.effects * np.sqrt(scale),
        state.inverse * scale,
        dict(zip(names, (variances * scale).tolist(), strict=True)),
        state.log_likelihood + float(shift),
    )


def _same_level(levels: Sequence[Hashable]) -> Floats:
    """(N, N): 1 where two observations have the same level."""
    numbers = np.unique(np.array([repr(level) for level in levels]), return_inverse=True)[1]
    same: Floats = (numbers[:, None] == numbers[None, :]).astype(float)
    return same


@dataclass(frozen=True)
class _State:
    log_likelihood: float
    projection: Floats  # P = V^-1 - V^-1 X (X' V^-1 X)^-1 X' V^-1
    projected: Floats  # P y
    effects: Floats
    inverse: Floats  # (X' V^-1 X)^-1


@dataclass(frozen=True)
class _Problem:
    values: Floats
    fixed: Floats
    structures: Sequence[Floats]
    known: Floats

    def state(self, variances: Floats) -> _State:
        covariance = self.known + sum(v * one for v, one in zip(variances, self.structures, strict=True))
        factor = linalg.cho_factor(covariance, lower=True)
        inverse = linalg.cho_solve(factor, np.eye(len(self.values)))
        weighted = inverse @ self.fixed
        information = self.fixed.T @ weighted
        effects_covariance = np.linalg.inv(information)
        projection = inverse - weighted @ effects_covariance @ weighted.T
        projected = projection @ self.values
        log_determinant = 2.0 * float(np.sum(np.log(np.diag(factor[0]))))
        _, log_information = np.linalg.slogdet(information)
        free = len(self.values) - self.fixed.shape[1]
        likelihood = -0.5 * (
            free * np.log(2 * np.pi) + log_determinant + float(log_information) + float(self.values @ projected)
        )
        effects = effects_covariance @ weighted.T @ self.values
        return _State(float(likelihood), projection, projected, effects, effects_covariance)

    def gradient(self, state: _State) -> Floats:
        return np.array(
            [
                -0.5 * (float(np.sum(state.projection * one)) - float(state.projected @ one @ state.projected))
                for one in self.structures
            ]
        )

    def negative(self, variances: Floats) -> tuple[float, Floats]:
        state = self.state(variances)
        return -state.log_likelihood, -self.gradient(state)

    def average_information(self, state: _State) -> Floats:
        moved = [one @ state.projected for one in self.structures]
        return 0.5 * np.array([[a @ state.projection @ b for b in moved] for a in moved])


def _polished(problem: _Problem, variances: Floats) -> Floats:
    """A few Newton steps on the variances that are not 0."""
    best = problem.state(variances)
    for _ in range(20):
        gradient = problem.gradient(best)
        free = (variances > 0) | (gradient > 0)
        step = np.zeros_like(variances)
        information = problem.average_information(best)[np.ix_(free, free)]
        step[free] = np.linalg.lstsq(information, gradient[free], rcond=None)[0]
        for shorter in (1.0, 0.5, 0.25, 0.125):
            tried = np.maximum(variances + shorter * step, 0.0)
            tried[-1] = max(tried[-1], 1e-10)
            state = problem.state(tried)
            if state.log_likelihood >= best.log_likelihood - 1e-12:
                break
        else:
            return variances
        change = float(np.max(np.abs(tried - variances)))
        variances, best = tried, state
        if change < 1e-10:
            break
    return variances
