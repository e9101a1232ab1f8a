"""The same verbs of every fit of a collection, stacked with the keys in front."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from polars_glmm.foreign import answered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from polars_glmm.inference.bootstrap import BootstrapInterval
    from polars_glmm.inference.intervals import IntervalMethod
    from polars_glmm.inference.resampling import BootstrapKind
    from polars_glmm.result.fitted import Fit


class RefitVerbsOfEach:
    """The part of FitCollection that asks the likelihoods again."""

    @abstractmethod
    def _of_each(self, question: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame: ...

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
