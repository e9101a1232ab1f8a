"""Bootstrap draws as a frame, and intervals from them: percentile, basic, and bias-corrected and accelerated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from polars_glmm.errors import ModelError
from polars_glmm.inference.confint import keys, made, row
from polars_glmm.inference.natural import Natural, chosen, naturals
from polars_glmm.inference.schemas import BOOTSTRAP, table
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.refits.refit import Refitted

BootstrapInterval: TypeAlias = Literal["percentile", "basic", "bca"]
INTERVALS = ("percentile", "basic", "bca")
NATURAL = ("parameter", "group", "term", "other_term", "quantity")
_FEWEST = 20
"""Draws below which an interval would be made of its own extremes."""
_FAILED = 0.01
"""Share of draws without a value from which an interval says so."""


def draws_table(fit: Answer, refits: Refitted, seed: int) -> pl.DataFrame:
    """A row per draw and parameter; failed refits stay, with null values."""
    parameters = estimated(fit)
    n, k = len(refits.status), len(parameters)
    values = refits.values if refits.values.shape[1] == k else np.full((n, k), np.nan)
    columns: dict[str, Any] = {
        name: np.tile(np.array([keys(one)[name] for one in parameters], dtype=object), n).tolist() for name in NATURAL
    }
    columns["draw"] = np.repeat(np.arange(n), k)
    columns["value"] = values.reshape(-1)
    columns["status"] = np.repeat(np.array(refits.status), k).tolist()
    columns["seed"] = np.full(n * k, seed)
    return table(BOOTSTRAP, columns)


def estimated(fit: Answer) -> list[Natural]:
    """The parameters that a refit has values of: all but columns that were left out."""
    return [one for one in naturals(fit) if one.estimate is not None]


def bootstrap_intervals(
    fit: Answer,
    draws: pl.DataFrame,
    which: str | Sequence[str],
    conf_level: float,
    interval: BootstrapInterval,
    left_out: Mat | None,
) -> pl.DataFrame:
    """Intervals of the draws of `draws_table` (Davison & Hinkley 1997, ch. 5).

    left_out   (J, K) estimates with one group left out, from which "bca" takes the acceleration (Efron 1987, eq. 6.6)
    Raises ModelError for a frame that is none, or of too few draws.
    """
    if missing := [name for name in BOOTSTRAP if name not in draws.columns]:
        msg = f"draws= takes the frame of fit.bootstrap(); this one has no column {missing[0]!r}."
        raise ModelError(msg)
    n = draws["draw"].n_unique()
    if n < _FEWEST:
        msg = f"{n} draws are too few for an interval: ask for n=1000."
        raise ModelError(msg)
    places = {one.name: place for place, one in enumerate(estimated(fit))}
    rows = []
    for one in chosen(naturals(fit), which):
        if one.name not in places:
            rows.append(row(one, conf_level, method="bootstrap", status="dropped"))
            continue
        own = draws.filter(pl.col(name).eq_missing(pl.lit(value, pl.String)) for name, value in keys(one).items())
        values = own["value"].drop_nulls().to_numpy()
        jackknife = None if left_out is None else left_out[:, places[one.name]]
        ends = _ends(values, one.estimate or 0.0, conf_level, interval, jackknife)
        status = "ok" if len(values) >= (1.0 - _FAILED) * n else "failed_draws"
        if one.name in (fit.call.fixed or {}):
            ends, status = (None, None), "held"
        elif ends[0] is None:
            status = "not_identified"
        given = {"conf_low": ends[0], "conf_high": ends[1], "n_draws": len(values), "status": status}
        rows.append(row(one, conf_level, method="bootstrap", **given))
    return made(rows)


def _ends(
    values: Vec, estimate: float, conf_level: float, interval: BootstrapInterval, left_out: Vec | None
) -> tuple[float | None, float | None]:
    """Both ends of an interval; None where too few draws have a value."""
    if len(values) < _FEWEST:
        return None, None
    tails = np.array([0.5 * (1.0 - conf_level), 0.5 * (1.0 + conf_level)])
    if interval == "bca":
        tails = _corrected(values, estimate, tails, left_out)
    low, high = np.quantile(values, tails, method="weibull").tolist()
    return (2.0 * estimate - high, 2.0 * estimate - low) if interval == "basic" else (low, high)


def _corrected(values: Vec, estimate: float, tails: Vec, left_out: Vec | None) -> Vec:
    """Tails moved by the bias z₀ and the acceleration a: Φ(z₀ + (z₀ + z)/(1 − a(z₀ + z))) (Efron 1987, eq. 2.3)."""
    below = (float((values < estimate).sum()) + 0.5 * float((values == estimate).sum())) / len(values)
    z0 = float(ndtri(np.clip(below, 0.5 / len(values), 1.0 - 0.5 / len(values))))
    a = 0.0
    if left_out is not None:
        away = left_out[np.isfinite(left_out)]
        away = away.mean() - away if len(away) else away
        size = float((away**2).sum())
        a = float((away**3).sum()) / (6.0 * size**1.5) if size > 0.0 else 0.0
    z = z0 + ndtri(tails)
    return np.asarray(ndtr(z0 + z / (1.0 - a * z)))
