"""The verbs of a collection that ask every fit for means, comparisons and slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.foreign import answered
from polars_glmm.prediction.by_key import rows_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from polars_glmm.inference.arguments import HowEffects, HowMeans
    from polars_glmm.inference.effects import HowCompared
    from polars_glmm.prediction.counterfactuals import CompareLike
    from polars_glmm.result.fitted import Fit

AnyFrame = pl.DataFrame | pl.LazyFrame


@dataclass(frozen=True, eq=False, repr=False)
class ManyMeansAndEffects(Answers):
    """Answers that can be asked for means and effects."""

    @answered
    def marginal_means(
        self,
        variables: str | Sequence[str],
        by: str | Sequence[str] | None = None,
        at: Mapping[str, Any] | None = None,
        **how: Unpack[HowMeans],
    ) -> pl.DataFrame:
        """Marginal means of all fits, or their contrasts. Arguments as `Fit.marginal_means`."""
        return self._of_each(lambda fit: fit.marginal_means(variables, by, at, **how))

    @answered
    def predictions(
        self,
        frame: AnyFrame | None = None,
        variables: CompareLike = None,
        by: str | Sequence[str] | None = None,
        **how: Unpack[HowEffects],
    ) -> pl.DataFrame:
        """Average predictions of each fit over the rows of its key, its own or those of `frame`."""
        return self._of_rows("predictions", frame, {"variables": variables, "by": by, **how})

    @answered
    def comparisons(
        self,
        frame: AnyFrame | None = None,
        variables: CompareLike = None,
        by: str | Sequence[str] | None = None,
        *,
        contrast: Any = None,
        comparison: HowCompared = "difference",
        **how: Unpack[HowEffects],
    ) -> pl.DataFrame:
        """Average comparisons of each fit over the rows of its key, its own or those of `frame`."""
        asked = {"variables": variables, "by": by, "contrast": contrast, "comparison": comparison, **how}
        return self._of_rows("comparisons", frame, asked)

    @answered
    def slopes(
        self,
        frame: AnyFrame | None = None,
        variables: str | Sequence[str] | None = None,
        by: str | Sequence[str] | None = None,
        **how: Unpack[HowEffects],
    ) -> pl.DataFrame:
        """Average slopes of each fit over the rows of its key, its own or those of `frame`."""
        return self._of_rows("slopes", frame, {"variables": variables, "by": by, **how})

    def _of_rows(self, verb: str, frame: AnyFrame | None, asked: Mapping[str, Any]) -> pl.DataFrame:
        """What each fit answers about the rows of its key."""
        numbers = iter(np.flatnonzero(self.outcomes.fitted).tolist())

        def question(fit: Fit) -> pl.DataFrame:
            k = next(numbers)
            own = None if frame is None else rows_of_key(frame, self.keys, k, verb)
            found: pl.DataFrame = getattr(fit, verb)(own, **asked)
            return found

        return self._of_each(question)

    if TYPE_CHECKING:  # the collection has it

        def _of_each(self, question: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame: ...
