"""Inverse links as Polars expressions: the mean from the linear predictor inside a query, accurate in both tails.

Twins of `Link.inverse` in families/links.py, which is the definition; a test holds them equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import polars as pl

from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.tweedie import LEAST


def _logit(eta: pl.Expr) -> pl.Expr:
    return 1.0 / (1.0 + (-eta).exp())


def _probit(eta: pl.Expr) -> pl.Expr:
    mu = eta.map_batches(_standard_normal, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when(eta.is_not_null()).then(mu)


def _standard_normal(eta: pl.Series) -> pl.Series:
    from scipy.special import ndtr  # noqa: PLC0415  only this link needs it; Polars has erf only from 2.x on

    return pl.Series(eta.name, ndtr(eta.to_numpy()), dtype=pl.Float64, nan_to_null=False)


def _cloglog(eta: pl.Expr) -> pl.Expr:
    # 1 − exp(−t) = 2T / (1 + T) with T = tanh(t/2): no cancellation for small t
    half = (eta.exp() / 2.0).tanh()
    return 2.0 * half / (1.0 + half)


def _cauchit(eta: pl.Expr) -> pl.Expr:
    # ½ + arctan(η)/π written as an angle, which keeps its digits far to the left
    return pl.arctan2(pl.lit(1.0), -eta) / math.pi


_MEANS: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "identity": lambda eta: eta,
    "log": lambda eta: eta.exp(),
    "logit": _logit,
    "probit": _probit,
    "cloglog": _cloglog,
    "loglog": lambda eta: (-(-eta).exp()).exp(),
    "cauchit": _cauchit,
    "inverse": lambda eta: 1.0 / eta,
    "sqrt": lambda eta: eta**2,
    "inverse_squared": lambda eta: 1.0 / eta.sqrt(),
    "tweedie_power": lambda eta: LEAST + (2.0 - LEAST) * _logit(eta),
}

_SLOPES: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "identity": lambda eta: eta * 0.0 + 1.0,
    "log": lambda eta: eta.exp(),
    "logit": lambda eta: 1.0 / (2.0 + eta.exp() + (-eta).exp()),
    "probit": lambda eta: (-0.5 * eta**2).exp() / math.sqrt(2.0 * math.pi),
    "cloglog": lambda eta: (eta - eta.exp()).exp(),
    "loglog": lambda eta: (-eta - (-eta).exp()).exp(),
    "cauchit": lambda eta: 1.0 / (math.pi * (1.0 + eta**2)),
    "inverse": lambda eta: -1.0 / eta**2,
    "sqrt": lambda eta: 2.0 * eta,
    "inverse_squared": lambda eta: -0.5 / (eta * eta.sqrt()),
    "tweedie_power": lambda eta: (2.0 - LEAST) / (2.0 + eta.exp() + (-eta).exp()),
}

_TWO_BRANCHES = frozenset({"inverse", "sqrt", "inverse_squared"})


def mean_of(link: str, eta: pl.Expr) -> pl.Expr:
    """μ = g⁻¹(η)."""
    return _look_up(_MEANS, link)(eta)


def slope_of(link: str, eta: pl.Expr) -> pl.Expr:
    """dμ/dη, for delta-method standard errors on the scale of the response."""
    return _look_up(_SLOPES, link)(eta)


def clip_to_domain(link: str, end: pl.Expr, eta: pl.Expr) -> pl.Expr:
    """The end of an interval around η, stopped at zero for links that have two branches there."""
    return pl.when(eta > 0.0).then(pl.max_horizontal(end, 0.0)).otherwise(end) if link in _TWO_BRANCHES else end


def _look_up(table: dict[str, Callable[[pl.Expr], pl.Expr]], link: str) -> Callable[[pl.Expr], pl.Expr]:
    try:
        return table[link]
    except KeyError:
        known = enumerate_names(list(table), limit=len(table))
        msg = f"link {link!r} has no inverse as an expression; predictions know {known}."
        raise ModelError(msg) from None
