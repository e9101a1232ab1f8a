"""Verbs of a fit that go back to its likelihood or its data: intervals, profiles, bootstraps, R², cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.foreign import answered
from polars_glmm.inference.cross_validation import cross_validate
from polars_glmm.inference.explained import repca
from polars_glmm.inference.explaining import icc, r2
from polars_glmm.inference.intervals import Draws, confint, profile
from polars_glmm.inference.resampling import DrawsAsked, bootstrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from polars_glmm.inference.bootstrap import BootstrapInterval
    from polars_glmm.inference.intervals import IntervalMethod
    from polars_glmm.inference.resampling import BootstrapKind


@dataclass(frozen=True, eq=False, repr=False)
class RefitVerbs(Answer):
    """The part of Fit that asks the likelihood again."""

    @answered
    def confint(
        self,
        method: IntervalMethod = "wald",
        which: str | Sequence[str] = "all",
        conf_level: float = 0.95,
        *,
        criterion: Literal["fit", "ml"] = "fit",
        n: int = 1000,
        rng: np.random.Generator | int | None = None,
        interval: BootstrapInterval = "percentile",
        draws: pl.DataFrame | None = None,
    ) -> pl.DataFrame:
        """Confidence intervals of all natural parameters: coefficients, standard deviations, correlations, dispersion.

        method      "wald" (no rows needed), "profile" (roots of the profiled deviance) or "bootstrap"
        which       "all", "fixed", "random", "dispersion", or names such as "Days" and "sd(Subject: Days)"
        criterion   of a profile: "fit" takes the likelihood of the fit, but of a REML fit maximum likelihood for fixed
                    effects; "ml" maximum likelihood for all, as lme4 does
        n, rng      of a bootstrap: number of draws and seed, as `bootstrap`; or draws: the frame that it returned
        interval    of a bootstrap: "percentile", "basic", or "bca" (bias-corrected and accelerated)
        A bound of the parameter's range is an answer: `status` says "at_boundary".
        """
        return confint(self, method, which, conf_level, criterion, Draws(interval, draws, DrawsAsked(n, rng)))

    @answered
    def r2(self) -> pl.DataFrame:
        """R² of Nakagawa, Johnson & Schielzeth (2017), a row per definition of the residual variance; needs the data.

        Columns: method, var_fixed, var_random, var_residual, r2_marginal (fixed effects), r2_conditional (with the
        random effects), icc, icc_unadjusted. The first row is the recommended one. Counts and probabilities refit the
        null model once.
        """
        return r2(self)

    @answered
    def icc(self) -> pl.DataFrame:
        """Intraclass correlation and design effect of every grouping factor; needs the data of the fit.

        Columns: group, n_levels, variance (mean z'Σz), icc (of two observations of one level, levels around it
        included), mean_size (Σn²/Σn), design_effect, method (of the residual variance, as in r2()).
        """
        return icc(self)

    @answered
    def cross_validate(
        self, folds: int | str = 10, group: str | None = None, rng: np.random.Generator | int | None = None
    ) -> pl.DataFrame:
        """How well the model foretells what it was not fitted to, a row per fold; needs the data of the fit.

        folds   a number of parts of the rows or, with `group`, of the levels of that factor; or "group:Subject": each
                level left out alone. Rows of known groups and whole new groups are different questions.
        Columns: fold, n_obs, elpd (log density of the rows left out, given the others; of new groups the marginal one),
        rmse (at the modes of known levels), status, seed.
        """
        return cross_validate(self, folds, group, rng)

    @answered
    def repca(self) -> pl.DataFrame:
        """Principal components of the random effects of each group: group, component, std_dev, proportion, loading."""
        return repca(self)

    @answered
    def profile(
        self,
        which: str | Sequence[str] = "all",
        points: int = 16,
        cutoff: float | None = None,
        *,
        criterion: Literal["fit", "ml"] = "fit",
    ) -> pl.DataFrame:
        """The profiled deviance along each parameter, all others at their best; needs the data of the fit.

        Columns: parameter, group, term, other_term, quantity, value, zeta (signed root of the deviance less its
        minimum), deviance, criterion, conditional (the others there). `points` values evenly spaced in zeta from
        −cutoff to cutoff (2.58 if not given: a 99 % interval) as far as it goes, and the estimate.
        """
        return profile(self, which, points, cutoff, criterion)

    @answered
    def bootstrap(
        self,
        n: int = 1000,
        rng: np.random.Generator | int | None = None,
        *,
        kind: BootstrapKind = "parametric",
        group: str | None = None,
    ) -> pl.DataFrame:
        """The model fitted again to n data sets, a row per draw and parameter; needs the data of the fit.

        kind    "parametric": responses drawn from the model, new random effects included; "cluster": the levels of
                `group` drawn with replacement, a level drawn twice being two
        rng     a seed, a numpy Generator, or None for a fresh seed; draw i depends on the seed and i alone
        Columns: draw, parameter, group, term, other_term, quantity, value, status ("ok", "singular", "not_converged",
        "failed": then value is null), seed.
        """
        return bootstrap(self, DrawsAsked(n, rng, kind, group))
