"""The cross-products of a gaussian fit from its rows once more, for what is asked of it after the fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from polars_glmm.covariance.factors import canonical_factor
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.fitting.again import frame_again, sums_again
from polars_glmm.fitting.choose import choose
from polars_glmm.fitting.flow import data_of
from polars_glmm.fitting.rows import learned_rows
from polars_glmm.likelihood.held import hold_fixed_effects
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.products.engine import ProductModel, product_engine
from polars_glmm.likelihood.products.kenward_roger import RESIDUAL, SmallSample, entries_of, small_sample
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.memory import memory_limit, readable

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.model import Model
    from polars_glmm.likelihood.products.cross import CrossProducts
    from polars_glmm.typing import Mat

_FOUND: WeakKeyDictionary[Answer, SmallSample] = WeakKeyDictionary()
_GRAMS: WeakKeyDictionary[Answer, Mat] = WeakKeyDictionary()
"""What was asked of a fit before: it costs the rows."""


def small_sample_of(fit: Answer) -> SmallSample:
    """What Kenward & Roger's method needs of a fit, its fixed effects as named, computed once.

    Raises ModelError where the fit keeps no rows, or holds fixed effects, ResourceError where crossed factors leave
    more than memory holds.
    """
    if fit not in _FOUND:
        held = fit.call.fixed or {}
        mu = fit.recipe.predictor("mu")
        names = [column.name for column, kept in zip(mu.columns, mu.kept, strict=True) if kept]
        if any(name in held for name in names):
            msg = "Kenward and Roger's method is for fixed effects that are estimated: use df='satterthwaite'."
            raise ModelError(msg)
        if fit.rows is None and fit.source is None:
            msg = (
                "Kenward and Roger's method needs the rows of the fit, and this one keeps none (keep='none', pickled, "
                "read from a file, or from products): use df='satterthwaite', or fit again, fit.update(frame=df)."
            )
            raise ModelError(msg)
        with products_again(fit) as (model, stats), one_blas_thread():
            effects, sigma = model.effects, float(fit.estimate.phi or 0.0)
            estimates = {factor.name: factor for factor in fit.estimate.factors}
            lambdas = []
            for f in effects.factors:
                own = np.zeros((f.r, f.r))
                for t, covariance in zip(f.terms, estimates[f.name].covariances, strict=True):
                    place = slice(t.start, t.stop)
                    own[place, place] = _relative(covariance / sigma**2, f.outward[place, place])
                lambdas.append(own)
            entries = entries_of(effects, lambda number, name: f"sd({effects.factors[number].name}: {name})" in held)
            parameters = entries if "phi" in held else [*entries, RESIDUAL]
            found = small_sample(stats, effects, lambdas, sigma, parameters, _room(fit))
        _FOUND[fit] = found._replace(outward=model.x.a.T)
    return _FOUND[fit]


def gram_of(fit: Answer) -> Mat:
    """X'DX (p, p) of the kept columns of mu as named, D the precisions; raises ModelError where there are no rows."""
    if fit not in _GRAMS:
        if fit.rows is None and fit.source is None:
            msg = (
                "Type 1 of a fit made together with others needs its rows, and it keeps none: use type=2 or type=3, or "
                "fit again, fit.update(frame=df)."
            )
            raise ModelError(msg)
        with products_again(fit) as (model, stats):
            inward = np.linalg.inv(model.x.a)
            _GRAMS[fit] = inward @ stats.ww[:-1, :-1] @ inward.T
    return _GRAMS[fit]


def _relative(covariance: Mat, outward: Mat) -> Mat:
    """A square factor Λ of a covariance matrix (r, r), of any rank, in the working columns."""
    half = np.linalg.solve(outward, covariance)
    factor, rank = canonical_factor(np.linalg.solve(outward, half.T), 0.0)
    out = np.zeros_like(covariance)
    out[:, :rank] = factor
    return out


def _room(fit: Answer) -> Callable[[int], None]:
    def room(entries: int) -> None:
        needed, limit = 8 * entries, memory_limit(fit.control.memory.limit)
        if needed > limit:
            msg = (
                f"Kenward and Roger's method would need about {readable(needed)} of memory for the crossed factors of "
                f"this model, more than the {readable(limit)} that may be used. Use df='satterthwaite', or allow more "
                "with Control(memory=Memory(limit=…))."
            )
            raise ResourceError(msg)

    return room


@contextmanager
def products_again(fit: Answer) -> Iterator[tuple[Model | ProductModel, CrossProducts]]:
    """The model of a fit, ready for computing, and its cross-products.

    Raises ModelError where residuals are correlated, of which these do not tell.
    """
    if fit.spec.residual is not None:
        msg = "This needs cross-products of independent rows, and residual= correlates them. "
        msg += "Tests of terms are there by type=2 and 3, degrees of freedom by df='satterthwaite'."
        raise ModelError(msg)
    with frame_again(fit, data_of(fit)) as frame:
        yield _products(fit, frame)


def _products(fit: Answer, frame: pl.DataFrame | pl.LazyFrame) -> tuple[Model | ProductModel, CrossProducts]:
    route, spec = choose(frame, fit.call, fit.control), fit.spec
    if route.kind == "sums":
        _, made = sums_again(fit, frame)
        return made, made.stats
    with learned_rows(frame, fit.call, fit.control, route) as learned:
        design = hold_fixed_effects(learned.design, fit.call.fixed or {})
        model = prepare(design, spec.family, spec.method, fit.control)
        return model, product_engine(model).stats
