"""The verbs of a collection that ask how well every fit does and what drives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.foreign import answered
from polars_glmm.inference.check import check
from polars_glmm.inference.influence import influence, influence_terms
from polars_glmm.inference.laplace_error import laplace_error
from polars_glmm.result.fitted import Fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars_glmm.prediction.given import Given

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True, eq=False, repr=False)
class ManyChecks(Answers):
    """Answers that can be checked."""

    @answered
    def influence(
        self, group: str | None = None, method: Literal["exact", "one_step", "case"] = "exact"
    ) -> pl.DataFrame:
        """What leaving out each level of a group, or each row, does to each fit."""
        return self._of_each(lambda fit: influence(fit, group, method))

    @answered
    def influence_terms(self, group: str | None = None, method: Literal["exact", "one_step"] = "exact") -> pl.DataFrame:
        """Every estimate of each fit without each level of a group."""
        return self._of_each(lambda fit: influence_terms(fit, group, method))

    @answered
    def laplace_error(
        self,
        method: Literal["quadrature", "importance"] = "quadrature",
        *,
        per: Literal["factor", "level"] = "factor",
        n: int = 1000,
        nodes: int = 101,
        rng: int | None = None,
    ) -> pl.DataFrame:
        """How far the Laplace approximation of each fit is from the integral."""
        return self._of_each(lambda fit: laplace_error(fit, method, per=per, n=n, nodes=nodes, rng=rng))

    @answered
    def check(
        self, tests: str | Sequence[str] = "all", *, n: int = 250, rng: int | None = None, given: Given = "modes"
    ) -> pl.DataFrame:
        """Tests of what the models assume, on the rows of each fit."""
        return self._of_each(lambda fit: check(fit, tests, n=n, rng=rng, given=given))

    @answered
    def r2(self) -> pl.DataFrame:
        """R² of all fits."""
        return self._of_each(lambda fit: fit.r2())

    @answered
    def icc(self) -> pl.DataFrame:
        """Intraclass correlations of all fits."""
        return self._of_each(lambda fit: fit.icc())

    @answered
    def cross_validate(
        self, folds: int | str = 10, group: str | None = None, rng: np.random.Generator | int | None = None
    ) -> pl.DataFrame:
        """Cross-validation of each fit on its own rows. Arguments as `Fit.cross_validate`."""
        return self._of_each(lambda fit: fit.cross_validate(folds, group, rng))

    @answered
    def repca(self) -> pl.DataFrame:
        """Principal components of the random effects of all fits."""
        return self._of_each(lambda fit: fit.repca())

    if TYPE_CHECKING:  # the collection has it

        def _of_each(self, question: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame: ...
