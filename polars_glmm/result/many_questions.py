"""The verbs of a collection that ask every fit: tests, intervals, checks, influence, how much is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import polars as pl

from polars_glmm.foreign import answered
from polars_glmm.inference.arguments import PARTS
from polars_glmm.result.fitted import Fit
from polars_glmm.result.many_effects import ManyMeansAndEffects

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars_glmm.inference.adjust import Adjustment
    from polars_glmm.inference.arguments import Part
    from polars_glmm.inference.bootstrap import BootstrapInterval
    from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom
    from polars_glmm.inference.hypotheses import HypothesesLike
    from polars_glmm.inference.intervals import IntervalMethod
    from polars_glmm.inference.resampling import BootstrapKind
    from polars_glmm.inference.term_hypotheses import TermType
    from polars_glmm.inference.wald import Alternative
    from polars_glmm.prediction.given import Given

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)



@dataclass(frozen=True, eq=False, repr=False)
class ManyQuestions(ManyMeansAndEffects):
    """Answers that can be questioned."""

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
    ) -> pl.DataFrame:
        """Confidence intervals of the natural parameters of all fits. Arguments as `Fit.confint`."""
        asked: dict[str, Any] = {"criterion": criterion, "n": n, "rng": rng, "interval": interval}
        return self._of_each(lambda fit: fit.confint(method, which, conf_level, **asked))

    @answered
    def vcov(
        self,
        full: bool = False,  # noqa: FBT001, FBT002
        vcov: CovarianceChoice = None,
    ) -> pl.DataFrame:
        """Covariances of the estimates of each fit, long. Arguments as `Fit.vcov`."""
        return self._of_each(lambda fit: fit.vcov(full, vcov))

    @answered
    def coef(self, group: str | None = None, parameter: str = "mu") -> pl.DataFrame:
        """Coefficients of every level of a grouping factor in each fit. Arguments as `Fit.coef`."""
        return self._of_each(lambda fit: fit.coef(group, parameter))

    @answered
    def diagnose(self) -> pl.DataFrame:
        """What is known of the search of each fit."""
        return self._of_each(lambda fit: fit.diagnose())

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

    @answered
    def profile(
        self,
        which: str | Sequence[str] = "all",
        points: int = 16,
        cutoff: float | None = None,
        *,
        criterion: Literal["fit", "ml"] = "fit",
    ) -> pl.DataFrame:
        """The profiled deviances of all fits. Arguments as `Fit.profile`."""
        return self._of_each(lambda fit: fit.profile(which, points, cutoff, criterion=criterion))

    @answered
    def bootstrap(
        self,
        n: int = 1000,
        rng: np.random.Generator | int | None = None,
        *,
        kind: BootstrapKind = "parametric",
        group: str | None = None,
    ) -> pl.DataFrame:
        """Bootstrap draws of all fits. Arguments as `Fit.bootstrap`."""
        return self._of_each(lambda fit: fit.bootstrap(n, rng, kind=kind, group=group))

    @answered
    def posterior(
        self,
        n: int = 4000,
        rng: int | None = None,
        include: Part | Sequence[Part] = PARTS,
    ) -> pl.DataFrame:
        """Draws of the parameters and effects of every fit. Arguments as `Fit.posterior`."""
        from polars_glmm.inference.posterior import posterior

        return self._of_each(lambda fit: posterior(fit, n, rng, include))

    @answered
    def influence(
        self, group: str | None = None, method: Literal["exact", "one_step", "case"] = "exact"
    ) -> pl.DataFrame:
        """What leaving out each level of a group, or each row, does to each fit."""
        from polars_glmm.inference.influence import influence

        return self._of_each(lambda fit: influence(fit, group, method))

    @answered
    def influence_terms(
        self, group: str | None = None, method: Literal["exact", "one_step"] = "exact"
    ) -> pl.DataFrame:
        """Every estimate of each fit without each level of a group."""
        from polars_glmm.inference.influence import influence_terms

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
        from polars_glmm.inference.laplace_error import laplace_error

        return self._of_each(lambda fit: laplace_error(fit, method, per=per, n=n, nodes=nodes, rng=rng))

    @answered
    def check(
        self, tests: str | Sequence[str] = "all", *, n: int = 250, rng: int | None = None, given: Given = "modes"
    ) -> pl.DataFrame:
        """Tests of what the models assume, on the rows of each fit."""
        from polars_glmm.inference.check import check

        return self._of_each(lambda fit: check(fit, tests, n=n, rng=rng, given=given))

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
        """Tests of hypotheses in every fit, which is a family of its own; arguments as `Fit.test`."""
        from polars_glmm.inference.hypothesis_tests import HypothesisOptions, tested

        options = HypothesisOptions(conf_level, adjust, alternative, equivalence)
        return self._of_each(lambda fit: tested(fit, hypotheses, rhs, options, joint=joint, df=df, vcov=vcov))

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
        """Tests of the terms in every fit; arguments as `Fit.test_terms`."""
        from polars_glmm.inference.term_tests import TermBootstrap, terms_tested

        return self._of_each(lambda fit: terms_tested(fit, type, df, vcov, method, TermBootstrap(n, rng)))

    if TYPE_CHECKING:

        def _of_each(self, question: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame: ...

