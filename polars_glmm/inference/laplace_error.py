"""How far the Laplace approximation is from the marginal likelihood itself, at the estimates: integrals of each level.

With one grouping factor log I_g − Laplace_g of its levels add up to the error of the whole log-likelihood. Quadrature
is adaptive Gauss–Hermite (Pinheiro & Bates 1995), exact to rounding with enough nodes; importance sampling draws from
N(û, H⁻¹) and states its own standard error and effective number of draws (Kong 1992). With crossed or nested factors
each factor's levels are integrated with the others at their modes: the first correction of the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from polars_glmm.design.known import effects_elsewhere
from polars_glmm.design.relation import refuse_known, refuse_shared
from polars_glmm.errors import ModelError
from polars_glmm.families.base import only_phi
from polars_glmm.fitting.again import design_of
from polars_glmm.inference.ranef import level_labels
from polars_glmm.inference.schemas import Schema, table
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.likelihood.known.joint_integral import joint_integral
from polars_glmm.likelihood.known.levels import LevelLikelihood, importance, quadrature
from polars_glmm.likelihood.marginal.level_integrals import integrated

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

FEW = 100.0
"""Effective draws below which an estimate by importance sampling is not to be trusted."""

_REAL, _TEXT = pl.Float64(), pl.String()
PER_LEVEL: Schema = {
    "group": _TEXT, "level": _TEXT, "loglik_laplace": _REAL, "loglik": _REAL, "error": _REAL, "mc_error": _REAL,
    "effective": _REAL, "note": _TEXT,
}  # fmt: skip
PER_FACTOR: Schema = {
    "group": _TEXT, "n_levels": pl.Int64(), "loglik_laplace": _REAL, "loglik": _REAL, "error": _REAL,
    "mc_error": _REAL, "effective": _REAL, "method": _TEXT, "note": _TEXT,
}  # fmt: skip


def laplace_error(
    fit: Answer,
    method: Literal["quadrature", "importance"] = "quadrature",
    *,
    per: Literal["factor", "level"] = "factor",
    n: int = 1000,
    nodes: int = 101,
    rng: np.random.Generator | int | None = None,
) -> pl.DataFrame:
    """One row for the grouping factor, or `per` level: loglik_laplace, loglik by integration, error = the difference.

    method   "quadrature": `nodes` per random effect (fewer where a product of them would be many); "importance": `n`
             draws a level from `rng`, with mc_error, the standard error of loglik, and effective, the smallest
             effective number of draws of a level (below 100 the note says so)

    A negative error means that Laplace is below the integral. With several factors the levels are integrated factor by
    factor, at even points; there is one row, of all together. Levels that known= relates, or rows share, are drawn
    together, by "importance". Gaussian models with identity link have no error.
    Raises ModelError where the rows of the fit are gone, for a model without random effects, for `per="level"` of
    several factors.
    """
    if method not in ("quadrature", "importance") or per not in ("factor", "level"):
        asked = f"method={method!r}, per={per!r}"
        msg = f"laplace_error({asked}): use method='quadrature' or 'importance', per='factor' or 'level'."
        raise ModelError(msg)
    if not fit.recipe.factors:
        msg = "laplace_error() is about random effects, and this model has none."
        raise ModelError(msg)
    known, family = design_of(fit, "laplace_error()"), fit.recipe.spec.family
    held = HeldParameters.of(fit.estimate, family)
    one = len(known.design.factors) == 1 and not known.design.further and only_phi(family)
    coupled = any(factor.coupled for factor in known.design.factors)
    if not one or coupled or fit.recipe.residual is not None:
        if per == "level":
            msg = "per='level' is of models with one grouping factor of independent levels and a constant dispersion: "
            msg += "use per='factor'."
            raise ModelError(msg)
        exact = family.linear and not effects_elsewhere(fit.recipe)  # Laplace is the integral
        if method == "quadrature" and not exact:
            instead = "Use method='importance', which draws all of them together."
            refuse_known(fit.recipe, "An integral level by level", instead)
            refuse_shared(fit.recipe, "An integral level by level", instead)
        model = known_model(known.design, family, fit.control, held)
        factors = known.design.factors
        group, size = " + ".join(factor.name for factor in factors), sum(factor.n_levels for factor in factors)
        if coupled and not exact:
            return _total(group, size, joint_integral(model, n, np.random.default_rng(rng)), "importance")
        if exact:
            value = model.loglik()
            return _total(group, size, (value, value, 0.0, np.nan), "even points")
        found, constant = integrated(model.engine.marginal, model.point), model.model.constant()
        values = (found.laplace + constant, found.value + constant, found.std_error, np.nan)
        return _total(group, size, values, "even points")
    levels = LevelLikelihood.of(known.design, family)
    rule = quadrature(nodes) if method == "quadrature" else importance(n, np.random.default_rng(rng))
    got = levels.integrals(levels.psi(held), rule)
    drawn = method == "importance"
    error, effective = (got.mc_error, got.effective) if drawn else (np.zeros_like(got.value), got.effective * np.nan)
    recipe = known.recipe.factors[0]
    if per == "factor":
        totals = got.laplace.sum(), got.value.sum(), np.sqrt(np.square(error).sum()), effective.min()
        return _total(recipe.name, len(got.value), tuple(map(float, totals)), method)
    return table(
        PER_LEVEL,
        {
            "group": [recipe.name] * len(got.value),
            "level": level_labels(recipe),
            "loglik_laplace": got.laplace,
            "loglik": got.value,
            "error": got.laplace - got.value,
            "mc_error": error,
            "effective": effective,
            "note": [_note(one) for one in effective],
        },
    )


def _total(group: str, n_levels: int, found: tuple[float, ...], method: str) -> pl.DataFrame:
    laplace, value, error, effective = found
    return table(
        PER_FACTOR,
        {
            "group": [group], "n_levels": [n_levels], "loglik_laplace": [laplace], "loglik": [value],
            "error": [laplace - value], "mc_error": [error], "effective": [effective], "method": [method],
            "note": [_note(effective)],
        },
    )  # fmt: skip


def _note(effective: float) -> str | None:
    """What is to be said of few effective draws."""
    return f"only {effective:.0f} effective draws: take more, or quadrature" if effective < FEW else None
