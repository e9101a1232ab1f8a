"""Coefficients averaged over models by their Akaike weights, with standard errors that know of the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, suggest
from polars_glmm.inference.coefficients import fixef
from polars_glmm.inference.schemas import AVERAGE, table
from polars_glmm.inference.selection import compare_fits
from polars_glmm.inference.wald import core

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

Averaged: TypeAlias = Literal["full", "conditional"]


def average_fits(
    fits: Mapping[str, Answer], by: str = "aicc", kind: Averaged = "full", conf_level: float = 0.95
) -> pl.DataFrame:
    """One row per coefficient of any model.

    kind   "full": a model without the coefficient has it at zero, of variance zero; "conditional": over the models that
           have it, their weights made to sum to one
    std_error = √Σ w (v + (β̂ − β̄)²) (Buckland, Burnham & Augustin 1997; Burnham & Anderson 2002, eq. 6.12); normal
    """
    if kind not in ("full", "conditional"):
        msg = f"kind={kind!r} is not known.{suggest(str(kind), ['full', 'conditional'])} Use 'full' or 'conditional'."
        raise ModelError(msg)
    compared = compare_fits(fits, by)
    weights = dict(zip(compared["name"].to_list(), compared["weight"].to_list(), strict=True))
    links = {(fit.family, fit.link) for fit in fits.values()}
    if len(links) > 1:
        msg = "Coefficients are averaged over models of one family and link: of others they mean other things."
        raise ModelError(msg)
    names: dict[tuple[str, str], None] = {}
    found = {}
    for name, fit in fits.items():
        rows = fixef(fit, df="normal").drop_nulls("estimate")
        own = {(p, t): (b, e) for p, t, b, e in rows.select("parameter", "term", "estimate", "std_error").iter_rows()}
        names.update(dict.fromkeys(own))
        found[name] = own
    w = np.array([weights[name] for name in found])
    there = np.array([[term in own for term in names] for own in found.values()])
    none = (0.0, 0.0)
    values = np.array([[own.get(term, none) for term in names] for own in found.values()], dtype=np.float64)
    b, variance = values[..., 0], values[..., 1] ** 2
    own_w = np.where(there, w[:, None], 0.0)
    importance = own_w.sum(0)
    share = own_w / importance if kind == "conditional" else np.broadcast_to(w[:, None], b.shape)
    mean = (share * b).sum(0)
    spread = (share * (variance + (b - mean) ** 2)).sum(0)
    made = core(mean, spread, np.full(len(mean), np.inf), conf_level=conf_level)
    return table(
        AVERAGE,
        {
            "parameter": [parameter for parameter, _ in names],
            "term": [term for _, term in names],
            **made.columns(),
            "weight": importance,
            "n_models": there.sum(0),
            "kind": [kind] * len(mean),
        },
    )
