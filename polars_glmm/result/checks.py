"""The verbs of a fit that ask how well it does and what drives it; every one is a line into inference/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.foreign import answered
from polars_glmm.inference.check import check
from polars_glmm.inference.cross_validation import cross_validate
from polars_glmm.inference.explained import repca
from polars_glmm.inference.explaining import icc, r2
from polars_glmm.inference.influence import influence, influence_terms
from polars_glmm.inference.laplace_error import laplace_error
from polars_glmm.prediction.distribution import count_table, distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from polars_glmm.prediction.given import Given

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True, eq=False, repr=False)
class ModelChecks(Answer):
    """An answer that can be checked."""

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
        return distribution(frame, self, values, random=random, average=average, by=by)

    @answered
    def count_table(self, frame: pl.DataFrame | pl.LazyFrame, *, random: str = "integrate") -> pl.DataFrame:
        """Observed counts of every value of the response beside those expected."""
        return count_table(frame, self, random=random)

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
        return check(self, tests, frame, n=n, rng=rng, given=given, time=time)

    @answered
    def influence(
        self, group: str | None = None, method: Literal["exact", "one_step", "case"] = "exact"
    ) -> pl.DataFrame:
        """What leaving out each level of a group, or each row, does to the fit."""
        return influence(self, group, method)

    @answered
    def influence_terms(self, group: str | None = None, method: Literal["exact", "one_step"] = "exact") -> pl.DataFrame:
        """Every estimate without each level of a group."""
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
        return laplace_error(self, method, per=per, n=n, nodes=nodes, rng=rng)

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
