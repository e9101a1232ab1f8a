"""`.glmm` on DataFrame and LazyFrame: the verbs, one line each.

Accessors hold `frame.clone()`, which shares the data: Polars caches an accessor on its frame, and holding the frame
itself would be a reference cycle that keeps the data alive. Numerics are imported by the first verb, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, Unpack, cast, overload

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from polars_glmm.control import Control
    from polars_glmm.likelihood.natural import NaturalObjective
    from polars_glmm.result import Fit, FitCollection
    from polars_glmm.result.call import FitArguments, ModelArguments, ProductArguments
    from polars_glmm.result.explanation import Explanation
    from polars_glmm.result.products import Products

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


class Glmm(Generic[Frame]):
    """Mixed models on a frame: `df.glmm.fit("y ~ x + (1 | g)")`."""

    def __init__(self, frame: Frame) -> None:
        self._frame: Frame = frame.clone()

    @overload
    def fit(self, *formulas: str, by: None = ..., **arguments: Unpack[FitArguments]) -> Fit: ...
    @overload
    def fit(self, *formulas: str, by: str | Sequence[str], **arguments: Unpack[FitArguments]) -> FitCollection: ...
    def fit(self, *formulas: str, **arguments: Any) -> Fit | FitCollection:
        """Fit a mixed model; a Fit, or with `by=` a FitCollection. Arguments as `polars_glmm.fit`."""
        return cast("Fit | FitCollection", _api().fit(self._frame, *formulas, **arguments))

    def explain(
        self, *formulas: str, control: Control | None = None, **arguments: Unpack[ModelArguments]
    ) -> Explanation:
        """What `fit` would do with these arguments, and what it would cost, without fitting."""
        return cast("Explanation", _api().explain(self._frame, *formulas, control=control, **arguments))

    def objective(
        self, *formulas: str, control: Control | None = None, **arguments: Unpack[ModelArguments]
    ) -> NaturalObjective:
        """The log-likelihood as a function of natural parameters."""
        return cast("NaturalObjective", _api().objective(self._frame, *formulas, control=control, **arguments))

    def products(
        self,
        *formulas: str,
        like: Products | None = None,
        levels: Mapping[str, Sequence[Any]] | None = None,
        **arguments: Unpack[ProductArguments],
    ) -> Products:
        """Cross-products of a gaussian model, to be added, stored and fitted. Arguments as `polars_glmm.products`."""
        return cast("Products", _api().products(self._frame, *formulas, like=like, levels=levels, **arguments))

    def predict(
        self,
        fit: Fit | FitCollection,
        *,
        kind: str = "response",
        random: str | Sequence[str] = "all",
        new_levels: Literal["error", "zero", "null"] = "error",
        interval: Literal["confidence"] | None = None,
        conf_level: float = 0.95,
        std_error: bool = False,
        name: str = "prediction",
    ) -> Frame:
        """The frame with the prediction as a further column; lazy stays lazy. Arguments as `polars_glmm.predict`."""
        return fit.predict(
            self._frame, kind=kind, random=random, new_levels=new_levels, interval=interval, conf_level=conf_level,
            std_error=std_error, name=name,
        )  # fmt: skip

    def augment(self, fit: Fit | FitCollection, prefix: str = "") -> Frame:
        """The frame with fitted, fixed, resid, resid_pearson and resid_deviance."""
        return fit.augment(self._frame, prefix=prefix)

    def with_ranef(self, fit: Fit | FitCollection, prefix: str = "") -> Frame:
        """The frame with the random effects of each row's levels."""
        return fit.with_ranef(self._frame, prefix=prefix)

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
