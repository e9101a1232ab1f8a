"""The verbs of a fit that ask for means, comparisons and slopes; every one is a line into inference/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.foreign import answered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from polars_glmm.inference.adjust import Adjustment
    from polars_glmm.inference.contrasts import ContrastLike
    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.inference.effects import HowCompared
    from polars_glmm.prediction.counterfactuals import CompareLike
    from polars_glmm.typing import Kind


@dataclass(frozen=True, eq=False, repr=False)
class MeansAndEffects(Answer):
    """An answer that can be asked for means and effects."""

    @answered
    def marginal_means(
        self,
        variables: str | Sequence[str],
        by: str | Sequence[str] | None = None,
        at: Mapping[str, Any] | None = None,
        *,
        weights: str = "equal",
        random: Literal["none", "integrate"] = "none",
        scale: Literal["response", "link"] = "response",
        contrast: ContrastLike = None,
        adjust: Adjustment | None = None,
        offset: float | Literal["mean"] | None = None,
        df: DegreesOfFreedom = None,
        vcov: CovarianceChoice = None,
        average: Literal["link", "response"] = "link",
        kind: Kind = "response",
        conf_level: float = 0.95,
    ) -> pl.DataFrame:
        """Means over a grid for each combination of `variables` and `by`, or their contrasts within each of `by`.

        The grid has all levels of the factors of the formula, numbers at their means over the rows of the fit; `at`
        holds columns at other values (as in `polars_glmm.grid`). Estimates are Lβ, L the mean of the rows of a cell
        (Searle, Speed & Milliken 1980), averaged on the scale of the link unless average="response", and shown on
        `scale`; statistics and p-values of means are those of the scale of the link.

        weights    of the levels averaged over: "equal", "proportional", "outer", "cells", or a column whose sum counts
        random     "none": the unit whose random effects are zero; "integrate": the mean over the population
        contrast   "pairwise", "reference", "sequential", "polynomial", "mean"; {variable: one of them} for contrasts of
                   contrasts; {name: weights}. Ratios under log and logit links on the scale of the response
        adjust     of the tests and intervals of each family: "tukey", "holm", "mvt", … as in `test`
        offset     on the scale of the link; "mean": over the rows of the fit; None: 0, and the column `note` says so
        kind       "response", the mean of y; or as in `predict` "mu", "zi", "phi", "zero", "median". What no one link
                   makes of a predictor, as the mean of zero-inflated counts or of times, is averaged as it is

        Columns: variables and by (or contrast and by), the estimate core, `n_cells` (or `adjust`), `averaged_on` and
        `note`; null where the data do not determine an estimate. Raises ModelError for what is not in the model, or
        needs rows that the fit does not keep; UnknownLevelError for a level it does not have.
        """
        from polars_glmm.inference.means import marginal_means

        return marginal_means(
            self, variables, by=by, at=at, weights=weights, random=random, scale=scale, contrast=contrast,
            adjustment=adjust, offset=offset, df=df, vcov=vcov, average=average, kind=kind,
            conf_level=conf_level,
        )  # fmt: skip

    @answered
    def predictions(
        self,
        frame: pl.DataFrame | pl.LazyFrame | None = None,
        variables: CompareLike = None,
        by: str | Sequence[str] | None = None,
        *,
        average: bool = True,
        random: str | Sequence[str] = "none",
        scale: Literal["response", "link"] = "response",
        kind: Kind = "response",
        df: DegreesOfFreedom = None,
        vcov: CovarianceChoice = None,
        conf_level: float = 0.95,
    ) -> pl.DataFrame | pl.LazyFrame:
        """Predictions averaged over the rows of the fit, or of `frame`, in each group of `by`; or one for each row.

        variables   set in every row to each of their values, as in `grid`: averages over the rows as they would be
        random      "none"; "all" or some grouping factors at their modes, which count as known; "integrate"
        average     False: the frame with the estimate core of each row beside it; a LazyFrame stays lazy
        kind        "response", the mean of y; or as in `predict` "mu", "zi", "phi", "zero", "median"; on the scale of
                    the link the linear predictor of mu, or that of the kind

        Standard errors by the delta method; intervals on the scale of the link, transformed back. Columns: variables,
        by, the estimate core, `n` rows that count (equal rows by their frequency), `note`.
        """
        from polars_glmm.inference.effect_verbs import predictions

        return predictions(
            self, frame, variables, by, average=average, random=random, scale=scale, kind=kind, df=df,
            vcov=vcov, conf_level=conf_level,
        )  # fmt: skip

    @answered
    def comparisons(
        self,
        frame: pl.DataFrame | pl.LazyFrame | None = None,
        variables: CompareLike = None,
        by: str | Sequence[str] | None = None,
        *,
        contrast: Any = None,
        comparison: HowCompared = "difference",
        average: bool = True,
        random: str | Sequence[str] = "none",
        scale: Literal["response", "link"] = "response",
        kind: Kind = "response",
        df: DegreesOfFreedom = None,
        vcov: CovarianceChoice = None,
        conf_level: float = 0.95,
    ) -> pl.DataFrame | pl.LazyFrame:
        """Predictions of the same rows with a variable at two values, compared on average, or row by row.

        variables    names (None: all), or by name what is compared: for a factor "reference", "pairwise", "sequential"
                     or (low, high); for a number what is added, (low, high), "sd", "iqr" or "range"
        contrast     the same for all variables that are named without
        comparison   of two averages: "difference", "ratio", "lnratio", "lnor", or a function of (high, low)

        Columns: `variable`, `contrast`, by, the estimate core, `n`, `note`. Other arguments as in `predictions`.
        """
        from polars_glmm.inference.effect_verbs import comparisons

        return comparisons(
            self, frame, variables, by, contrast=contrast, comparison=comparison, average=average, random=random,
            scale=scale, kind=kind, df=df, vcov=vcov, conf_level=conf_level,
        )  # fmt: skip

    @answered
    def slopes(
        self,
        frame: pl.DataFrame | pl.LazyFrame | None = None,
        variables: str | Sequence[str] | None = None,
        by: str | Sequence[str] | None = None,
        *,
        average: bool = True,
        random: str | Sequence[str] = "none",
        scale: Literal["response", "link"] = "response",
        kind: Kind = "response",
        df: DegreesOfFreedom = None,
        vcov: CovarianceChoice = None,
        conf_level: float = 0.95,
    ) -> pl.DataFrame | pl.LazyFrame:
        """Derivatives of the prediction in numeric variables, averaged over rows, or row by row.

        By symmetric differences of 1e-5 standard deviations of the variable, random slopes included where `random` has
        them. Columns and other arguments as in `comparisons`.
        """
        from polars_glmm.inference.effect_verbs import slopes

        return slopes(
            self, frame, variables, by, average=average, random=random, scale=scale, kind=kind, df=df,
            vcov=vcov, conf_level=conf_level,
        )  # fmt: skip
