"""Fit: a frozen answer. It does not compute; every method is one line into inference/ or prediction/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.control import Control
from polars_glmm.errors import ModelError
from polars_glmm.fitting.flow import data_of, fit_call
from polars_glmm.foreign import answered, refuse_attribute
from polars_glmm.inference.coefficients import fixef
from polars_glmm.inference.cross_validation import cross_validate
from polars_glmm.inference.dispersion import dispersion
from polars_glmm.inference.explained import repca
from polars_glmm.inference.explaining import icc, r2
from polars_glmm.inference.glance import diagnose, glance
from polars_glmm.inference.html import html
from polars_glmm.inference.hypothesis_tests import HypothesisOptions, tested
from polars_glmm.inference.intervals import Draws, confint, profile
from polars_glmm.inference.ranef import coef, ranef
from polars_glmm.inference.resampling import Asked, bootstrap
from polars_glmm.inference.summary import summary
from polars_glmm.inference.term_tests import TermBootstrap, terms_tested
from polars_glmm.inference.varcorr import varcorr
from polars_glmm.inference.vcov import vcov as covariances
from polars_glmm.likelihood.given import of_estimate
from polars_glmm.prediction.predictions import predict
from polars_glmm.prediction.ranef_join import with_ranef
from polars_glmm.prediction.residuals import augment
from polars_glmm.prediction.simulations import simulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from polars_glmm.inference.adjust import Adjustment
    from polars_glmm.inference.bootstrap import BootstrapInterval
    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.inference.hypotheses import HypothesesLike
    from polars_glmm.inference.intervals import IntervalMethod
    from polars_glmm.inference.resampling import BootstrapKind
    from polars_glmm.inference.term_hypotheses import TermType
    from polars_glmm.inference.wald import Alternative
    from polars_glmm.reports.writers import ReportFormat
    from polars_glmm.result.pictures import Pictures
    from polars_glmm.typing import Kind

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Answer):
    """A fitted model; print it for a summary, ask it for frames."""

    @classmethod
    def of(cls, answer: Answer) -> Fit:
        """An answer with verbs."""
        return cls(**{field.name: getattr(answer, field.name) for field in fields(answer)})

    # frames

    @answered
    def fixef(
        self,
        conf_level: float = 0.95,
        df: DegreesOfFreedom = None,
        exponentiate: bool = False,  # noqa: FBT001, FBT002
        vcov: CovarianceChoice = None,
    ) -> pl.DataFrame:
        """Fixed effects with standard errors, tests and intervals, one row per term in the order of the formula.

        df     None: Satterthwaite for gaussian REML, n − p without random effects, else normal; or "normal",
               "satterthwaite", "kenward_roger" (with its standard errors; needs the rows of the fit), or a number
        vcov   None: the fit's own covariance; "kenward_roger"; or a frame as `vcov()` gives it
        """
        return fixef(self, conf_level=conf_level, df=df, exponentiate=exponentiate, vcov=vcov)

    @answered
    def varcorr(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Variances, covariances, standard deviations and correlations of the random effects, with intervals."""
        return varcorr(self, conf_level=conf_level)

    @answered
    def dispersion(self, conf_level: float = 0.95) -> pl.DataFrame:
        """The constant dispersion phi on its natural scale (gaussian: sigma), with a log-scale interval."""
        return dispersion(self, conf_level=conf_level)

    @answered
    def ranef(self, group: str | None = None) -> pl.DataFrame:
        """Conditional modes: long for all factors, or for one `group` a table to join by its key columns."""
        return ranef(self, group)

    @answered
    def coef(self, group: str | None = None, parameter: str = "mu") -> pl.DataFrame:
        """Fixed plus random effects per level of `group`, which may be omitted when there is one factor only.

        parameter   "mu", or "phi" where that has a formula: coefficients of log phi
        """
        return coef(self, group, parameter)

    @answered
    def glance(self) -> pl.DataFrame:
        """The fit in one row."""
        return glance(self)

    @answered
    def vcov(self, full: bool = False, vcov: CovarianceChoice = None) -> pl.DataFrame:  # noqa: FBT001, FBT002
        """Covariances of the fixed effects, long; `full` adds log sd, atanh correlation and log dispersion.

        vcov   "kenward_roger": the covariance adjusted for small samples; as in `fixef`
        """
        return covariances(self, full=full, vcov=vcov)

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
        Columns: parameter, term, type, num_df, den_df, statistic, distribution, p_value, df_method, note; with
        "bootstrap" also n_draws, n_failed, seed. A term that dropped columns leave untestable is null with a note.
        """
        return terms_tested(self, type, df, vcov, method, TermBootstrap(n, rng))

    @answered
    def diagnose(self) -> pl.DataFrame:
        """Notes and certificate as a frame."""
        return diagnose(self)

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
        return confint(self, method, which, conf_level, criterion, Draws(interval, draws, Asked(n, rng)))

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
        return bootstrap(self, Asked(n, rng, kind, group))

    # on other frames

    @answered
    def predict(
        self,
        frame: Frame,
        *,
        kind: Kind = "response",
        random: str | Sequence[str] = "all",
        new_levels: Literal["error", "zero", "null"] = "error",
        interval: Literal["confidence"] | None = None,
        conf_level: float = 0.95,
        std_error: bool = False,
        name: str = "prediction",
    ) -> Frame:
        """The frame with the prediction as a further column; lazy stays lazy. Arguments as `polars_glmm.predict`."""
        return predict(
            frame, self, kind=kind, random=random, new_levels=new_levels, interval=interval, conf_level=conf_level,
            std_error=std_error, name=name,
        )  # fmt: skip

    @answered
    def augment(self, frame: Frame, prefix: str = "") -> Frame:
        """The frame with fitted, fixed, resid, resid_pearson and resid_deviance."""
        return augment(frame, self, prefix=prefix)

    @answered
    def with_ranef(self, frame: Frame, prefix: str = "") -> Frame:
        """The frame with the random effects of each row's levels."""
        return with_ranef(frame, self, prefix=prefix)

    @answered
    def simulate(
        self,
        frame: Frame,
        n: int = 1,
        rng: np.random.Generator | int | None = None,
        *,
        random: Literal["new", "conditional"] = "new",
    ) -> Frame:
        """The frame with responses drawn from the model, sim_1 … sim_n."""
        return simulate(frame, self, n, rng, random=random)

    def update(
        self, formula: str | None = None, frame: Frame | None = None, control: Control | None = None, **changes: Any
    ) -> Fit:
        """The model fitted again with a change: other arguments of `fit`, or another frame.

        A lone dot in `formula` stands for that side of the present one: `fit.update(". ~ . + x")`.
        """
        data = self.data() if frame is None else frame
        if "start" in changes:
            changes["start"] = starting_values(changes["start"])
        call = self.call.changed(formula, understood=self.spec.formulas, **changes)
        return Fit.of(fit_call(data, call, control or self.control))

    @answered
    def data(self) -> pl.DataFrame | pl.LazyFrame:
        """The frame of the fit: the kept rows, or the source after a check that it still holds the same data.

        Raises ModelError where neither was kept, DataChangedError where the source has changed.
        """
        return data_of(self)

    # in a file

    @answered
    def write(self, path: str | PathLike[str]) -> None:
        """Store all but the rows as one file, a zip of a manifest and Parquet; `polars_glmm.read_fit` reads it."""
        from polars_glmm.result.stored import write_model

        write_model(self, path)

    # on paper

    @property
    def plot(self) -> Pictures:
        """Pictures as Altair charts: `fit.plot.caterpillar()`, `.residuals()`, `.effects("x")` …; extra `plot`."""
        from polars_glmm.result.pictures import Pictures

        return Pictures(self)

    def report(self, format: ReportFormat = "frame", **style: Any) -> Any:  # noqa: A002
        """The fit as a table of text for a paper. Formats and arguments as `polars_glmm.report`."""
        from polars_glmm.result.reported import report

        return report(self, None, format, **style)

    @answered
    def summary(self) -> str:
        """The text that print shows."""
        return summary(self)

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        return html(self)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            refuse_attribute(self, name)


def starting_values(start: object) -> Mapping[str, float] | None:
    """start= as values by name; a fit gives its own. Raises ModelError for anything that has none."""
    if isinstance(start, Fit):
        mu = start.recipe.predictor("mu")
        names = [column.name for column, kept in zip(mu.columns, mu.kept, strict=True) if kept]
        return of_estimate(names, start.estimate)
    if start is None or isinstance(start, Mapping):
        return start
    msg = (
        f"start= takes a fit, or values by name such as {{'Intercept': 1.0}}, not a {type(start).__name__}. "
        "Of a collection choose one model, collection[key]."
    )
    raise ModelError(msg)
