"""Estimates of several imputations pooled: Rubin's rules with the degrees of freedom of Barnard and Rubin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, ModelError, enumerate_names
from polars_glmm.inference.distributions import quantile, two_sided_p
from polars_glmm.inference.natural import naturals
from polars_glmm.inference.schemas import POOL, table

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

KEYS = ("parameter", "group", "term", "other_term", "level", "contrast", "hypothesis", "variable")
"""Columns of our tables that say what a row is about."""
FREEDOM = ("barnard_rubin", "rubin", "normal")


def pool_tables(
    tables: Sequence[pl.DataFrame], df: str = "barnard_rubin", dfcom: float | None = None, conf_level: float = 0.95
) -> pl.DataFrame:
    """One row per row of the tables: Q̄, T = Ū + (1 + 1/m)B, t on ν degrees of freedom (Rubin 1987, §3.3).

    df      "barnard_rubin": ν of Barnard & Rubin (1999, eq. 3) with the degrees of freedom of complete data `dfcom`, or
            (None) the mean of those of the tables; "rubin": without end of complete data; "normal"
    fmi     fraction of missing information, (riv + 2/(ν + 3))/(1 + riv);  riv = (1 + 1/m)B/Ū
    Raises ModelError for fewer than two tables, or tables with other rows; ColumnError without estimates.
    """
    if df not in FREEDOM:
        msg = f"df={df!r} is not known: use 'barnard_rubin', 'rubin' or 'normal'."
        raise ModelError(msg)
    if len(tables) < 2:
        msg = f"pool() takes the fits of at least two imputations, not {len(tables)}."
        raise ModelError(msg)
    first = tables[0]
    for name in ("estimate", "std_error"):
        if name not in first.columns:
            msg = f"The tables to pool need a column {name!r}; there are {enumerate_names(first.columns)}."
            raise ColumnError(msg)
    keys = [name for name in KEYS if name in first.columns]
    for k, other in enumerate(tables[1:], start=2):
        if not other.select(keys).equals(first.select(keys)):
            msg = f"The table of imputation {k} has other rows than that of the first: fit the same model to each."
            raise ModelError(msg)
    m = len(tables)
    estimates = np.array([one["estimate"].to_numpy() for one in tables])
    within = np.array([one["std_error"].to_numpy() for one in tables]) ** 2
    u, b, q = within.mean(0), estimates.var(0, ddof=1), estimates.mean(0)
    total = u + (1.0 + 1.0 / m) * b
    with np.errstate(divide="ignore", invalid="ignore"):
        riv = (1.0 + 1.0 / m) * b / u
        share = (1.0 + 1.0 / m) * b / total
        old = (m - 1.0) / share**2
        freedom = _freedom(tables, df, dfcom, old, share)
        fmi = (riv + 2.0 / (freedom + 3.0)) / (1.0 + riv)
        error = np.sqrt(total)
        statistic = q / error
    width = quantile(conf_level, freedom) * error
    columns: dict[str, Any] = {
        "estimate": q, "std_error": error, "statistic": statistic,
        "df": np.where(np.isfinite(freedom), freedom, np.nan), "p_value": two_sided_p(statistic, freedom),
        "conf_low": q - width, "conf_high": q + width, "within": u, "between": b, "total": total, "riv": riv,
        "fmi": np.where(b == 0.0, 0.0, fmi), "n_imputations": np.full(len(q), m),
    }  # fmt: skip
    numbers = table({name: dtype for name, dtype in POOL.items() if name in columns}, columns)
    return first.select(keys).hstack(numbers)


def pool_variances(fits: Sequence[Answer], df: str = "rubin", conf_level: float = 0.95) -> pl.DataFrame:
    """Standard deviations, correlations and phi pooled on the scales log and atanh, and transformed back.

    within, between, total, riv and fmi are of those scales; std_error by the delta method; statistic and p_value null.
    An estimate at an end of its range in some imputation has no logarithm, and its row no numbers.
    """
    tables = []
    for fit in fits:
        own = [one for one in naturals(fit) if one.quantity != "coefficient"]
        value = np.array([np.nan if one.estimate is None else one.estimate for one in own], dtype=np.float64)
        error = np.array([np.nan if one.std_error is None else one.std_error for one in own], dtype=np.float64)
        rho = np.array([one.quantity == "correlation" for one in own], dtype=np.bool_)
        with np.errstate(all="ignore"):
            scaled = np.where(rho, np.arctanh(np.clip(value, -1.0, 1.0)), np.log(value))
            slope = np.where(rho, 1.0 - value**2, value)
            tables.append(
                pl.DataFrame(
                    {
                        **{k: [getattr(one, k) for one in own] for k in ("parameter", "group", "term", "other_term")},
                        "estimate": np.where(np.isfinite(scaled), scaled, np.nan),
                        "std_error": error / slope,
                    },
                    schema_overrides=dict.fromkeys(("parameter", "group", "term", "other_term"), pl.String()),
                )
            )
    found = pool_tables(tables, df, None, conf_level)
    quantities = [one.quantity for one in own]
    numbers = {
        name: np.where(rho, np.tanh(found[name].to_numpy()), np.exp(found[name].to_numpy()))
        for name in ("estimate", "conf_low", "conf_high")
    }
    slope = np.where(rho, 1.0 - numbers["estimate"] ** 2, numbers["estimate"])
    return found.with_columns(
        pl.Series("std_error", slope * found["std_error"].to_numpy(), nan_to_null=True),
        *(pl.Series(name, values, nan_to_null=True) for name, values in numbers.items()),
        pl.lit(None, pl.Float64).alias("statistic"), pl.lit(None, pl.Float64).alias("p_value"),
        pl.Series("quantity", [one if one in ("correlation", "range") else "sd" for one in quantities]),
    )  # fmt: skip


def _freedom(tables: Sequence[pl.DataFrame], df: str, dfcom: float | None, old: Any, share: Any) -> Any:
    """Degrees of freedom of the pooled rows, inf where the reference is normal."""
    if df == "normal":
        return np.full(len(old), np.inf)
    if df == "rubin":
        return old
    if dfcom is not None:
        complete = np.full(len(old), float(dfcom))
    elif "df" in tables[0].columns:
        own = np.array([one["df"].cast(pl.Float64).fill_null(np.inf).to_numpy() for one in tables])
        complete = own.mean(0)
    else:
        complete = np.full(len(old), np.inf)
    observed = np.where(np.isfinite(complete), (complete + 1.0) / (complete + 3.0) * complete, np.inf) * (1.0 - share)
    return 1.0 / (1.0 / old + 1.0 / observed)
