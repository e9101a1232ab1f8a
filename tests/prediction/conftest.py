"""Fits made by hand: a learned recipe with estimates drawn at random, so that plain algebra gives every answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm.design.learn import learn
from polars_glmm.inference.ranef import ranef
from polars_glmm.likelihood.estimate import Between, Certificate, Estimate, FactorEstimate
from polars_glmm.spec.model import ModelSpec


@dataclass(frozen=True, eq=False)
class Made:
    """A fit as the verbs see it, with the design its recipe was learned from."""

    recipe: Any
    estimate: Estimate
    design: Any
    call: Any = field(default_factory=lambda: SimpleNamespace(fixed=None))

    def ranef(self, group: str | None = None) -> pl.DataFrame:
        return ranef(self, group)

    @property
    def eta_fixed(self) -> np.ndarray:
        mu = self.design.mu
        return self.estimate.beta @ mu.x + (0.0 if mu.offset is None else mu.offset)

    @property
    def eta(self) -> np.ndarray:
        parts = zip(self.design.factors, self.estimate.factors, strict=True)
        return self.eta_fixed + sum((f.z * e.modes[:, f.codes]).sum(axis=0) for f, e in parts)


def covariance(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    root = rng.normal(size=(size, size)) * scale
    return root @ root.T / max(size, 1)


def factor_estimate(
    factor: Any, p: int, rng: np.random.Generator, scale: float, others: Sequence[Any] = ()
) -> FactorEstimate:
    r, n_levels = len(factor.z), factor.n_levels
    roots = rng.normal(size=(n_levels, r, r)) * scale
    return FactorEstimate(
        name=factor.name,
        term_names=tuple(name for term in factor.terms for name in term.names),
        covariances=tuple(covariance(rng, term.stop - term.start, scale) for term in factor.terms),
        structures=tuple(term.structure for term in factor.terms),
        modes=rng.normal(size=(r, n_levels)) * scale,
        mode_covariance=np.ascontiguousarray(np.moveaxis(roots @ roots.transpose(0, 2, 1), 0, 2)),
        mode_slope=rng.normal(size=(r, p, n_levels)),
        between=tuple(
            Between(one.name, np.zeros(0, int), np.zeros(0, int), np.zeros((r, len(one.z), 0)), every=True)
            for one in others  # independent
        ),
    )


@pytest.fixture(scope="session")
def made() -> Callable[..., Made]:
    """made(frame, formula, …) → Made; `scale` keeps linear predictors small, `shift` moves them (the intercept)."""

    def make(
        frame: pl.DataFrame, *formulas: str, seed: int = 1, scale: float = 0.2, shift: float = 0.0, **arguments: Any
    ) -> Made:
        rng = np.random.default_rng(seed)
        learned = learn(ModelSpec.parse(formulas, **arguments), frame)
        design, family = learned.design, learned.recipe.spec.family
        p, s = len(design.mu.x), 0 if design.phi is None else len(design.phi.x)
        beta = rng.normal(size=p) * scale
        beta[0] += shift
        estimate = Estimate(
            beta=beta,
            gamma=rng.normal(size=s) * scale,
            vcov_fixed=covariance(rng, p + s, scale),
            phi=0.7 if family.has_phi and s == 0 else None,
            factors=tuple(
                factor_estimate(factor, p, rng, scale, design.factors[k + 1 :])
                for k, factor in enumerate(design.factors)
            ),
            report=np.zeros(1),
            report_vcov=np.array([[0.04]]),
            loglik=0.0,
            loglik_saturated=None,
            n_obs=design.n_obs,
            df_model=1,
            df_resid=1,
            singular=False,
            converged=True,
            df_satterthwaite=None,
            vcov_derivative=None,
            covariance_vcov=None,
            null_loglik=None,
            null_df=1,
            certificate=Certificate(0.0, None, False, 0, 0.0, {}),
            notes=(),
        )
        return Made(learned.recipe, estimate, design)

    return make


@pytest.fixture(scope="session")
def trial() -> pl.DataFrame:
    """400 rows with everything a formula may use: numbers, labels of several dtypes, crossed and nested keys."""
    rng = np.random.default_rng(20)
    n = 400
    return pl.DataFrame(
        {
            "x": rng.normal(size=n),
            "t": rng.uniform(1.0, 9.0, size=n),
            "k": rng.integers(0, 6, size=n),
            "f": rng.choice(["lo", "mid", "up"], size=n),
            "flag": rng.random(n) < 0.5,
            "g": rng.choice([f"g{i}" for i in range(20)], size=n),
            "h": rng.integers(100, 112, size=n),
            "a": rng.choice(["p", "q", "r"], size=n),
            "b": rng.choice(["1", "2", "3", "4"], size=n),
            "y": rng.poisson(2.0, size=n).astype(float),
            "m": rng.integers(5, 12, size=n),
            "w": rng.uniform(0.5, 2.0, size=n),
        }
    ).with_columns(e=pl.col("f").cast(pl.Enum(["up", "mid", "lo"])), s=pl.min_horizontal("y", "m"), z=pl.col("y") + 0.5)
