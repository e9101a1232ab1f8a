"""Answer: what a fit found and what was asked, frozen and without verbs; tables and predictions read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from polars_glmm.answer import criteria
from polars_glmm.answer.copies import KeptWhole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polars_glmm.answer.tally import Fingerprint, GroupSize
    from polars_glmm.control import Control
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.likelihood.estimate import Certificate, Estimate
    from polars_glmm.notes import Note
    from polars_glmm.spec.call import Call
    from polars_glmm.spec.model import ModelSpec
    from polars_glmm.typing import BoolVec


@dataclass(frozen=True, eq=False, repr=False)
class Answer(KeptWhole):
    """The answer to one call of `fit`.

    recipe      how to make the model's columns from any frame, with the constants learned from the data
    estimate    the numbers
    notes       doubts and remarks, from the data and from the estimation
    n_dropped   rows left out for missing values
    seconds     the whole call took
    groups, fingerprint   sizes and sums that outlive the rows
    rows, source          the data, if kept: the whole frame, or where to read it again; pickles drop both, not copies
    kept                  (n,) which of the rows the model uses, None for all
    means                 of numeric covariates over the rows of a fit that was read from a file
    """

    recipe: Recipe
    estimate: Estimate
    notes: tuple[Note, ...]
    n_dropped: int
    seconds: float
    control: Control
    call: Call
    groups: tuple[GroupSize, ...]
    fingerprint: Fingerprint
    rows: pl.DataFrame | None = field(default=None)
    source: pl.LazyFrame | None = field(default=None)
    kept: BoolVec | None = field(default=None)
    means: Mapping[str, float] = field(default_factory=dict)

    # what was asked

    @property
    def spec(self) -> ModelSpec:
        """The model as understood: family, method and terms as objects."""
        return self.recipe.spec

    @property
    def formula(self) -> str:
        """The formula as understood, all random effects included."""
        return self.spec.formula

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.spec.family.name

    @property
    def link(self) -> str:
        """Name of the link of the mean."""
        return self.spec.family.link.name

    @property
    def method(self) -> str:
        """Name of the method: "reml", "ml", "laplace" or "agq"."""
        return self.spec.method.name

    # how well

    @property
    def loglik(self) -> float:
        """Log-likelihood with all constants; restricted under REML."""
        return self.estimate.loglik

    @property
    def deviance(self) -> float:
        """−2 log-likelihood."""
        return float(criteria.deviance(self.estimate.loglik))

    @property
    def aic(self) -> float:
        """−2 log-likelihood + 2 parameters (Akaike 1974)."""
        return float(criteria.aic(self.estimate.loglik, self.estimate.df_model))

    @property
    def bic(self) -> float:
        """−2 log-likelihood + log(n_obs) parameters (Schwarz 1978)."""
        return float(criteria.bic(self.estimate.loglik, self.estimate.df_model, self.estimate.n_obs))

    @property
    def n_obs(self) -> int:
        """Observations: rows used, or the sum of their frequencies."""
        return self.estimate.n_obs

    @property
    def converged(self) -> bool:
        """The search reached an optimum; the certificate says how sharply."""
        return self.estimate.converged

    @property
    def singular(self) -> bool:
        """Some covariance matrix of the random effects has lost rank; a note says which."""
        return self.estimate.singular

    @property
    def certificate(self) -> Certificate:
        """Evidence that this is an optimum."""
        return self.estimate.certificate

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"rows": None, "source": None, "kept": None}
