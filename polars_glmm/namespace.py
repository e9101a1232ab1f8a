"""`.glmm` on DataFrame and LazyFrame: the verbs, one line each.

Accessors hold `frame.clone()`, which shares the data: Polars caches an accessor on its frame, and holding the frame
itself would be a reference cycle that keeps the data alive. Numerics are imported by the first verb, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, overload

import polars as pl

from polars_glmm.foreign import answered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    import numpy as np

    from polars_glmm.api import ExplainArguments, FitArguments
    from polars_glmm.control import Control
    from polars_glmm.families.base import Family
    from polars_glmm.likelihood.objective import NaturalObjective
    from polars_glmm.result import Fit, FitCollection
    from polars_glmm.result.explanation import Explanation
    from polars_glmm.result.explanation_by import KeyedExplanation
    from polars_glmm.result.products import Products
    from polars_glmm.spec.call import Groups, Missing
    from polars_glmm.spec.method import Method
    from polars_glmm.spec.relation import KnownLevels
    from polars_glmm.typing import FamilyName, Kind, LinkName, MethodName, Random, Times

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


class Glmm(Generic[Frame]):
    """Mixed models on a frame: `df.glmm.fit("y ~ x + (1 | g)")`."""

    def __init__(self, frame: Frame) -> None:
        self._frame: Frame = frame.clone()

    @overload
    def fit(self, *formulas: str, by: None = ..., **arguments: Unpack[FitArguments]) -> Fit: ...
    @overload
    def fit(self, *formulas: str, by: str | Sequence[str], **arguments: Unpack[FitArguments]) -> FitCollection: ...
    @answered
    def fit(
        self,
        *formulas: str,
        groups: Groups = None,
        family: FamilyName | Family = "gaussian",
        link: LinkName | None = None,
        method: MethodName | Method | None = None,
        trials: str | None = None,
        offset: str | None = None,
        frequency: str | None = None,
        precision: str | None = None,
        by: str | Sequence[str] | None = None,
        missing: Missing = "drop",
        residual: str | None = None,
        known: Mapping[str, KnownLevels | Any] | None = None,
        start: Mapping[str, float] | Fit | str | PathLike[str] | None = None,
        fixed: Mapping[str, float] | None = None,
        control: Control | None = None,
    ) -> Fit | FitCollection:
        """Fit a mixed model; a Fit, or with `by=` a FitCollection. Arguments as `polars_glmm.fit`."""
        found = _api().fit(
            self._frame, *formulas,
            groups=groups, family=family, link=link, method=method, trials=trials, offset=offset, frequency=frequency,
            precision=precision, by=by, missing=missing, residual=residual, known=known, start=start, fixed=fixed,
            control=control,
        )  # fmt: skip
        return cast("Fit | FitCollection", found)

    @overload
    def explain(self, *formulas: str, by: None = ..., **arguments: Unpack[ExplainArguments]) -> Explanation: ...
    @overload
    def explain(
        self, *formulas: str, by: str | Sequence[str], **arguments: Unpack[ExplainArguments]
    ) -> KeyedExplanation: ...
    @answered
    def explain(
        self,
        *formulas: str,
        groups: Groups = None,
        family: FamilyName | Family = "gaussian",
        link: LinkName | None = None,
        method: MethodName | Method | None = None,
        trials: str | None = None,
        offset: str | None = None,
        frequency: str | None = None,
        precision: str | None = None,
        by: str | Sequence[str] | None = None,
        missing: Missing = "drop",
        residual: str | None = None,
        known: Mapping[str, KnownLevels | Any] | None = None,
        control: Control | None = None,
    ) -> Explanation | KeyedExplanation:
        """What `fit` would do with these arguments, and what it would cost, without fitting."""
        found = _api().explain(
            self._frame, *formulas,
            groups=groups, family=family, link=link, method=method, trials=trials, offset=offset, frequency=frequency,
            precision=precision, by=by, missing=missing, residual=residual, known=known, control=control,
        )  # fmt: skip
        return cast("Explanation | KeyedExplanation", found)

    @answered
    def objective(
        self,
        *formulas: str,
        groups: Groups = None,
        family: FamilyName | Family = "gaussian",
        link: LinkName | None = None,
        method: MethodName | Method | None = None,
        trials: str | None = None,
        offset: str | None = None,
        frequency: str | None = None,
        precision: str | None = None,
        missing: Missing = "drop",
        residual: str | None = None,
        known: Mapping[str, KnownLevels | Any] | None = None,
        control: Control | None = None,
    ) -> NaturalObjective:
        """The log-likelihood as a function of natural parameters."""
        found = _api().objective(
            self._frame, *formulas,
            groups=groups, family=family, link=link, method=method, trials=trials, offset=offset, frequency=frequency,
            precision=precision, missing=missing, residual=residual, known=known, control=control,
        )  # fmt: skip
        return cast("NaturalObjective", found)

    @answered
    def products(
        self,
        *formulas: str,
        groups: Groups = None,
        method: MethodName | Method | None = None,
        offset: str | None = None,
        frequency: str | None = None,
        precision: str | None = None,
        missing: Missing = "drop",
        residual: str | None = None,
        like: Products | None = None,
        levels: Mapping[str, Sequence[Any]] | None = None,
    ) -> Products:
        """Cross-products of a gaussian model, to be added, stored and fitted. Arguments as `polars_glmm.products`."""
        found = _api().products(
            self._frame, *formulas, groups=groups, method=method, offset=offset, frequency=frequency,
            precision=precision, missing=missing, residual=residual, like=like, levels=levels,
        )  # fmt: skip
        return cast("Products", found)

    @answered
    def predict(
        self,
        fit: Fit | FitCollection,
        *,
        kind: Kind = "response",
        random: Random = "all",
        new_levels: Literal["error", "zero", "null"] = "error",
        interval: Literal["confidence", "prediction"] | None = None,
        conf_level: float = 0.95,
        std_error: bool = False,
        name: str = "prediction",
        uncertainty: Literal["conditional", "joint"] = "conditional",
        df: Literal["normal", "satterthwaite"] | float | None = None,
        times: Times = None,
    ) -> Frame:
        """The frame with the prediction as a further column; lazy stays lazy. Arguments as `polars_glmm.predict`."""
        return fit.predict(
            self._frame, kind=kind, random=random, new_levels=new_levels, interval=interval, conf_level=conf_level,
            std_error=std_error, name=name, uncertainty=uncertainty, df=df, times=times,
        )  # fmt: skip

    @answered
    def augment(
        self,
        fit: Fit | FitCollection,
        prefix: str = "",
        *,
        quantile: bool = False,
        given: Literal["modes", "zero", "integrate"] = "modes",
        rng: Any = None,
        leverage: bool = False,
    ) -> Frame:
        """The frame with fitted and residual columns. Arguments as `polars_glmm.augment`."""
        return fit.augment(self._frame, prefix, quantile=quantile, given=given, rng=rng, leverage=leverage)

    @answered
    def with_ranef(self, fit: Fit | FitCollection, prefix: str = "") -> Frame:
        """The frame with the random effects of each row's levels."""
        return fit.with_ranef(self._frame, prefix=prefix)

    @answered
    def simulate(
        self,
        fit: Fit,
        n: int = 1,
        rng: np.random.Generator | int | None = None,
        *,
        random: Literal["new", "conditional"] = "new",
    ) -> Frame:
        """The frame with responses drawn from the model, sim_1 … sim_n."""
        return fit.simulate(self._frame, n, rng, random=random)


def glmm(frame: Frame) -> Glmm[Frame]:
    """The accessor `frame.glmm` with its types, which type checkers cannot see on the frame."""
    return Glmm(frame)


def register() -> None:
    """Register `.glmm`, unless it is already there: registering twice warns."""
    if "glmm" not in pl.DataFrame.__dict__:
        pl.api.register_dataframe_namespace("glmm")(Glmm)
    if "glmm" not in pl.LazyFrame.__dict__:
        pl.api.register_lazyframe_namespace("glmm")(Glmm)


def _api() -> Any:
    from polars_glmm import api

    return api


register()
