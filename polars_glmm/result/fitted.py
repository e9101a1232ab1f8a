"""Fit: a frozen answer. It does not compute; every method is one line into inference/ or prediction/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.control import Control, as_control
from polars_glmm.errors import ModelError
from polars_glmm.foreign import answered, refuse_attribute
from polars_glmm.result.questions import Questions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.prediction.given import Given
    from polars_glmm.prediction.half_widths import RowFreedom
    from polars_glmm.prediction.predictions import Interval, Uncertainty
    from polars_glmm.prediction.sql import Dialect, Scoring
    from polars_glmm.reports.writers import ReportFormat
    from polars_glmm.result.pictures import Pictures
    from polars_glmm.typing import Kind, Random, Times

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True, eq=False, repr=False)
class Fit(Questions):
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
        vcov   None: the fit's own covariance; "kenward_roger"; "CR0", "CR1", "CR1p", "CR1S", "CR2", "CR3" or
               CR(cluster, type): robust to any covariance within clusters, with degrees of freedom of its own; or a
               frame as `vcov()`
        """
        from polars_glmm.inference.coefficients import fixef

        return fixef(self, conf_level=conf_level, df=df, exponentiate=exponentiate, vcov=vcov)

    @answered
    def varcorr(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Variances, covariances, standard deviations and correlations of the random effects, with intervals."""
        from polars_glmm.inference.varcorr import varcorr

        return varcorr(self, conf_level=conf_level)

    @answered
    def dispersion(self, conf_level: float = 0.95) -> pl.DataFrame:
        """The constant dispersion phi on its natural scale (gaussian: sigma), with a log-scale interval."""
        from polars_glmm.inference.dispersion import dispersion

        return dispersion(self, conf_level=conf_level)

    @answered
    def ranef(self, group: str | None = None) -> pl.DataFrame:
        """Conditional modes: long for all factors, or for one `group` a table to join by its key columns."""
        from polars_glmm.inference.ranef import ranef

        return ranef(self, group)

    @answered
    def coef(self, group: str | None = None, parameter: str = "mu") -> pl.DataFrame:
        """Fixed plus random effects per level of `group`, which may be omitted when there is one factor only.

        parameter   "mu", or "phi" where that has a formula: coefficients of log phi
        """
        from polars_glmm.inference.ranef import coef

        return coef(self, group, parameter)

    @answered
    def glance(self, conditional: bool = False) -> pl.DataFrame:  # noqa: FBT001, FBT002
        """The fit in one row; `conditional` adds effective parameters, the likelihood at the modes, conditional AIC."""
        from polars_glmm.inference.conditional import conditional_glance
        from polars_glmm.inference.glance import glance

        return conditional_glance(self) if conditional else glance(self)

    @answered
    def vcov(self, full: bool = False, vcov: CovarianceChoice = None) -> pl.DataFrame:  # noqa: FBT001, FBT002
        """Covariances of the fixed effects, long; `full` adds log sd, atanh correlation and log dispersion.

        vcov   "kenward_roger": adjusted for small samples; "CR2": robust; as in `fixef`
        """
        from polars_glmm.inference.vcov import vcov as covariances

        return covariances(self, full=full, vcov=vcov)

    @answered
    def diagnose(self) -> pl.DataFrame:
        """Notes and certificate as a frame."""
        from polars_glmm.inference.glance import diagnose

        return diagnose(self)

    # on other frames

    @answered
    def predict(
        self,
        frame: Frame,
        *,
        kind: Kind = "response",
        random: Random = "all",
        new_levels: Literal["error", "zero", "null"] = "error",
        interval: Interval | None = None,
        conf_level: float = 0.95,
        std_error: bool = False,
        name: str = "prediction",
        uncertainty: Uncertainty = "conditional",
        df: RowFreedom = None,
        times: Times = None,
        ranef: pl.DataFrame | pl.LazyFrame | None = None,
    ) -> Frame:
        """The frame with the prediction as a further column; lazy stays lazy. Arguments as `polars_glmm.predict`."""
        from polars_glmm.prediction.predictions import predict

        return predict(
            frame, self, kind=kind, random=random, new_levels=new_levels, interval=interval, conf_level=conf_level,
            std_error=std_error, name=name, uncertainty=uncertainty, df=df, times=times, ranef=ranef,
        )  # fmt: skip

    @answered
    def augment(
        self,
        frame: Frame,
        prefix: str = "",
        *,
        quantile: bool = False,
        given: Given = "modes",
        rng: np.random.Generator | int | None = None,
        leverage: bool = False,
    ) -> Frame:
        """The frame with fitted, fixed, resid, resid_pearson and resid_deviance; quantile residuals, leverage."""
        from polars_glmm.prediction.residuals import augment

        return augment(frame, self, prefix, quantile=quantile, given=given, rng=rng, leverage=leverage)

    @answered
    def distribution(
        self,
        frame: pl.DataFrame | pl.LazyFrame,
        values: Sequence[float] | None = None,
        *,
        random: str = "integrate",
        average: bool = False,
        by: str | Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Probabilities of the response by value for the rows of a frame, or averaged over them."""
        from polars_glmm.prediction.distribution import distribution

        return distribution(frame, self, values, random=random, average=average, by=by)

    @answered
    def count_table(self, frame: pl.DataFrame | pl.LazyFrame, *, random: str = "integrate") -> pl.DataFrame:
        """Observed counts of every value of the response beside those expected."""
        from polars_glmm.prediction.distribution import count_table

        return count_table(frame, self, random=random)

    @answered
    def score(self, frame: Frame, group: str | None = None) -> Frame:
        """Effects of the groups of a frame, new or known, from its rows at the estimates; lazy stays lazy."""
        from polars_glmm.inference.score import score

        return score(frame, self, group)

    @answered
    def with_ranef(self, frame: Frame, prefix: str = "") -> Frame:
        """The frame with the random effects of each row's levels."""
        from polars_glmm.prediction.ranef_join import with_ranef

        return with_ranef(frame, self, prefix=prefix)

    @answered
    def unseen(self, frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
        """Levels of a frame that the fit has not seen: variable, part ("fixed", "random"), level and n_rows.

        Of a fixed factor they have no prediction, of a grouping factor what `new_levels` says. The frame may be one of
        any library; levels are counted where its rows are. Raises ColumnError for a column that it does not have.
        """
        from polars_glmm.prediction.unseen import unseen

        return unseen(frame, self)

    @answered
    def to_sql(
        self,
        name: str,
        *,
        dialect: Dialect = "duckdb",
        kind: Literal["response", "link"] = "response",
        random: str | Sequence[str] = "all",
        new_levels: Literal["zero", "null"] = "zero",
        column: str = "prediction",
    ) -> Scoring:
        """The SELECT that predicts the rows of table `name`, and the tables of modes that must stand beside it.

        Returns (sql, tables): `tables` are frames by the name under which the query reads them. Null, NaN and an unseen
        level of a fixed factor give null, as an unseen level of a group does with new_levels="null". Dialects are
        "duckdb", "postgres" (whose result keeps the linear predictor as eta_) and "spark". Raises ModelError for a link
        or a function without an expression.
        """
        from polars_glmm.prediction.sql import to_sql

        return to_sql(
            self, name, dialect=dialect, kind=kind, random=random, new_levels=new_levels, column=column
        )  # fmt: skip

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
        from polars_glmm.prediction.simulations import simulate

        return simulate(frame, self, n, rng, random=random)

    def update(
        self, formula: str | None = None, frame: Frame | None = None, control: Control | None = None, **changes: Any
    ) -> Fit:
        """The model fitted again with a change: other arguments of `fit`, or another frame.

        A lone dot in `formula` stands for that side of the present one: `fit.update(". ~ . + x")`.
        """
        from polars_glmm.fitting.elsewhere import fit_frame
        from polars_glmm.frames.elsewhere import there

        data = self.data() if frame is None else there(frame, "update()")
        if "start" in changes:
            changes["start"] = starting_values(changes["start"])
        call = self.call.changed(formula, understood=self.spec.formulas, **changes)
        return Fit.of(fit_frame(data, call, self.control if control is None else as_control(control)))

    @answered
    def data(self) -> pl.DataFrame | pl.LazyFrame:
        """The frame of the fit: the kept rows, or the source after a check that it still holds the same data.

        Raises ModelError where neither was kept, DataChangedError where the source has changed.
        """
        from polars_glmm.fitting.flow import data_of

        return data_of(self)

    # in a file

    @answered
    def write(self, path: str | PathLike[str]) -> None:
        """Store all but the rows as one file, a zip of a manifest and Parquet; `polars_glmm.read_fit` reads it."""
        from polars_glmm.result.stored import write_model

        write_model(self, path)

    # in other packages

    @answered
    def to_arviz(self, n: int = 4000, rng: np.random.Generator | int | None = None) -> Any:
        """n draws of `posterior` as ArviZ knows them (extra `bayes`): a DataTree, or InferenceData of ArviZ 0."""
        from polars_glmm.export.arviz import to_arviz

        return to_arviz(self, n, rng)

    @answered
    def to_bambi(self, frame: pl.DataFrame | None = None, **options: Any) -> Any:
        """The same model for bambi, to be sampled (extra `bayes`): formula, family, link and the rows of the fit."""
        from polars_glmm.export.bambi import to_bambi

        return to_bambi(self, frame, **options)

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
        from polars_glmm.inference.summary import summary

        return summary(self)

    def __repr__(self) -> str:
        from polars_glmm.inference.summary import summary

        return summary(self)

    def _repr_html_(self) -> str:
        from polars_glmm.inference.html import html

        return html(self)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            refuse_attribute(self, name)


def starting_values(start: object) -> Mapping[str, float] | None:
    """start= as values by name; a fit, or one in a file, gives its own. Raises ModelError for what has none."""
    from polars_glmm.likelihood.given import of_estimate

    if isinstance(start, Fit):
        return of_estimate(start.recipe.starting_names(), start.estimate)
    if start is None or isinstance(start, Mapping):
        return start
    if isinstance(start, str | PathLike):
        from polars_glmm.result.stored import read_model

        return starting_values(read_model(start))
    msg = (
        f"start= takes a fit, or values by name such as {{'Intercept': 1.0}}, not a {type(start).__name__}. "
        "Of a collection choose one model, collection[key]."
    )
    raise ModelError(msg)
