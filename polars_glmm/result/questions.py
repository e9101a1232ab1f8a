"""The verbs of a fit that ask about it: tests, intervals, checks, influence, how much is explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import polars as pl

from polars_glmm.foreign import answered
from polars_glmm.inference.arguments import PARTS
from polars_glmm.result.effects import MeansAndEffects

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from polars_glmm.inference.adjust import Adjustment
    from polars_glmm.inference.arguments import Part
    from polars_glmm.inference.bootstrap import BootstrapInterval
    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.inference.hypotheses import HypothesesLike
    from polars_glmm.inference.intervals import IntervalMethod
    from polars_glmm.inference.predictive import Drawn, Effects
    from polars_glmm.inference.resampling import BootstrapKind
    from polars_glmm.inference.term_hypotheses import TermType
    from polars_glmm.inference.wald import Alternative
    from polars_glmm.prediction.given import Given

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True, eq=False, repr=False)
class Questions(MeansAndEffects):
    """An answer that can be questioned."""

    @answered
    def test(
        self,
        hypotheses: HypothesesLike,
        rhs: float | Sequence[float] = 0.0,
        joint: bool = False,  # noqa: FBT001, FBT002
        df: DegreesOfFreedom = None,
        vcov: CovarianceChoice = None,
        *,
        conf_level: float = 0.95,
        adjust: Adjustment | None = None,
        alternative: Alternative = "two-sided",
        equivalence: tuple[float, float] | None = None,
    ) -> pl.DataFrame:
        """Tests of hypotheses about parameters, one row each, or one row for all with `joint`.

        hypotheses   "Days = 10", "a - 2*b = 0", "exp(a)/b = 1"; names of coefficients, or of terms of the formula (all
                     their columns); several of these; a mapping from labels to them; or a frame with a column
                     `hypothesis` and a column of weights for each term used. Standard deviations, correlations and phi
                     are called as in `objective`: "sd(Subject: Days) = 6"
        rhs          what hypotheses without "=" are compared with: a number, or one for each
        df, vcov     as in `fixef`
        adjust       "bonferroni", "holm", "hochberg", "bh", "by", "sidak", "tukey", "dunnett", "scheffe" or "mvt": the
                     rows are one family
        alternative  "two-sided", "greater" or "less", with one-sided intervals
        equivalence  bounds (low, high): adds p_equivalence, of two one-sided tests that the estimate lies outside
        Columns: hypothesis, estimate (less the null value), std_error, statistic, df, p_value, conf_low, conf_high,
        adjust, null_value, note; with `joint` hypothesis, num_df, den_df, statistic, distribution, p_value, df_method,
        note. Raises ModelError for names the fit does not have, FormulaError where a string cannot be read.
        """
        from polars_glmm.inference.hypothesis_tests import HypothesisOptions, tested

        options = HypothesisOptions(conf_level, adjust, alternative, equivalence)
        return tested(self, hypotheses, rhs, options, joint=joint, df=df, vcov=vcov)

    @answered
    def test_terms(
        self,
        type: TermType = 3,  # noqa: A002  the field's word
        df: DegreesOfFreedom = None,
        vcov: CovarianceChoice = None,
        method: Literal["wald", "lrt", "bootstrap"] = "wald",
        *,
        n: int = 1000,
        rng: np.random.Generator | int | None = None,
    ) -> pl.DataFrame:
        """A test of each term of the formula.

        type      1: adjusted for the terms before it; 2: for all that do not contain it; 3: for all others, in
                  sum-to-zero coding whatever the coding of the formula
        df, vcov  of Wald tests, as in `fixef`: F with `den_df` degrees of freedom where df is finite, else χ²
        method    "wald"; "lrt": likelihood ratios, every model fitted again by maximum likelihood; "bootstrap": the
                  same with p-values from `n` data sets simulated under the smaller model with the seed `rng`. Both need
                  the rows of the fit, and test the terms of mu.
        Columns: parameter, term, type, distribution, df_method, note, num_df, den_df, statistic, p_value; with
        "bootstrap" also n_draws, n_failed, seed. A term that dropped columns leave untestable is null with a note.
        """
        from polars_glmm.inference.term_tests import TermBootstrap, terms_tested

        return terms_tested(self, type, df, vcov, method, TermBootstrap(n, rng))

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
        from polars_glmm.inference.intervals import Draws, confint
        from polars_glmm.inference.resampling import Resampling

        return confint(self, method, which, conf_level, criterion, Draws(interval, draws, Resampling(n, rng)))

    @answered
    def r2(self) -> pl.DataFrame:
        """R² of Nakagawa, Johnson & Schielzeth (2017), a row per definition of the residual variance; needs the data.

        Columns: method, var_fixed, var_random, var_residual, r2_marginal (fixed effects), r2_conditional (with the
        random effects), icc, icc_unadjusted. The first row is the recommended one. Counts, amounts and probabilities
        refit the null model once. Of unordered categories a row for each but the baseline, named in `category`.
        """
        from polars_glmm.inference.explaining import r2

        return r2(self)

    @answered
    def icc(self) -> pl.DataFrame:
        """Intraclass correlation and design effect of every grouping factor; needs the data of the fit.

        Columns: group, n_levels, variance (mean z'Σz), icc (of two observations of one level, levels around it
        included), mean_size (Σn²/Σn), design_effect, method (of the residual variance, as in r2()). Of unordered
        categories a row for each but the baseline, named in `category`: on the scale of its log odds (Hedeker 2003).
        """
        from polars_glmm.inference.explaining import icc

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
        from polars_glmm.inference.cross_validation import cross_validate

        return cross_validate(self, folds, group, rng)

    @answered
    def repca(self) -> pl.DataFrame:
        """Principal components of the random effects of each group: group, component, std_dev, proportion, loading."""
        from polars_glmm.inference.explained import repca

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

        Columns: group, term, other_term, quantity, parameter, conditional (the others there), criterion, value, zeta
        (signed root of the deviance less its minimum), deviance. `points` values evenly spaced in zeta from −cutoff to
        cutoff (2.58 if not given: a 99 % interval) as far as it goes, and the estimate.
        """
        from polars_glmm.inference.intervals import profile

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
        Columns: draw, group, term, other_term, quantity, parameter, value, status ("ok", "singular", "not_converged",
        "failed": then value is null), seed.
        """
        from polars_glmm.inference.resampling import Resampling, bootstrap

        return bootstrap(self, Resampling(n, rng, kind, group))

    @answered
    def posterior(
        self,
        n: int = 4000,
        rng: np.random.Generator | int | None = None,
        include: Part | Sequence[Part] = PARTS,
    ) -> pl.DataFrame:
        """Draws of all parameters and random effects together, by the normal approximation at the estimates.

        Coefficients, log standard deviations, atanh of correlations and log phi are normal about their estimates with
        the inverse of the information; given them effects are normal about modes that move with them. Under a flat
        prior on these scales it is the first approximation of the posterior; variances near zero are beyond it.

        include   "beta": coefficients; "theta": standard deviations, correlations, phi; "u": effects, for which the
                  rows of the fit are needed
        rng       a seed, a numpy Generator, or None for a fresh seed; draw i depends on the seed and i alone
        Columns: draw, group, level (null but for effects), term, other_term, quantity ("coefficient", "sd",
        "correlation", "residual_correlation", "dispersion", "effect"), parameter, value, seed. Raises ResourceError
        where they would not fit.
        """
        from polars_glmm.inference.posterior import posterior

        return posterior(self, n, rng, include)

    @answered
    def predictive(
        self,
        frame: Frame,
        n: int = 100,
        rng: np.random.Generator | int | None = None,
        *,
        of: Drawn = "response",
        random: Effects = "all",
    ) -> Frame:
        """The frame with n draws sim_1 … of its responses, or means, each with a draw of `posterior` of its own."""
        from polars_glmm.inference.predictive import predictive

        return predictive(frame, self, n, rng, of=of, random=random)

    @answered
    def check(
        self,
        tests: str | Sequence[str] = "all",
        frame: pl.DataFrame | pl.LazyFrame | None = None,
        *,
        n: int = 250,
        rng: np.random.Generator | int | None = None,
        given: Given = "modes",
        time: str | None = None,
    ) -> pl.DataFrame:
        """Tests of what the model assumes, one row each, on the rows of the fit or of a frame."""
        from polars_glmm.inference.check import check

        return check(self, tests, frame, n=n, rng=rng, given=given, time=time)

    @answered
    def influence(
        self, group: str | None = None, method: Literal["exact", "one_step", "case"] = "exact"
    ) -> pl.DataFrame:
        """What leaving out each level of a group, or each row, does to the fit."""
        from polars_glmm.inference.influence import influence

        return influence(self, group, method)

    @answered
    def influence_terms(
        self, group: str | None = None, method: Literal["exact", "one_step"] = "exact"
    ) -> pl.DataFrame:
        """Every estimate without each level of a group."""
        from polars_glmm.inference.influence import influence_terms

        return influence_terms(self, group, method)

    @answered
    def laplace_error(
        self,
        method: Literal["quadrature", "importance"] = "quadrature",
        *,
        per: Literal["factor", "level"] = "factor",
        n: int = 1000,
        nodes: int = 101,
        rng: np.random.Generator | int | None = None,
    ) -> pl.DataFrame:
        """How far the Laplace approximation is from the integral at the estimates, with a Monte Carlo error."""
        from polars_glmm.inference.laplace_error import laplace_error

        return laplace_error(self, method, per=per, n=n, nodes=nodes, rng=rng)
