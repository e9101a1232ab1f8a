"""Residuals in four pictures: against the fitted values, their size, their quantiles, and by level."""

from __future__ import annotations

import numpy as np
import polars as pl
from scipy.special import ndtri

from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import column, columns
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.frames.thin import small, thinned
from polars_glmm.plot import chart
from polars_glmm.plot.chart import FIRST, HIGH, QUIET, SECOND, WIDE, Chart
from polars_glmm.prediction.residuals import augment

BINS, TREND_BINS, QUANTILES = 200, 20, 200
"""Bins of equal size in which many rows are shown, those of the line through them, and the quantiles that are drawn."""
_X, _R = "__plot_x", "__plot_r"
_PREFIX = "plot "
_KINDS = ("pearson", "deviance")


def residual_frame(fit: Answer, data: pl.DataFrame | pl.LazyFrame, residual: str = "pearson") -> pl.DataFrame:
    """Residuals of the rows of `data`, in bins of equal size where they are many.

    Columns panel ("fitted", "size", "quantiles", "levels"), kind ("points", "trend"), x, y, low, high (a tenth and nine
    tenths of a bin's residuals), n (rows of the point), n_rows (of all).
    """
    if residual not in _KINDS:
        msg = f"residual={residual!r} is not known: use {enumerate_names(_KINDS, 'or')}.{suggest(residual, _KINDS)}"
        raise ModelError(msg)
    if fit.recipe.spec.family.unordered and residual == "pearson":
        msg = "Categories without an order have residuals without a sign only: residual='deviance'."
        raise ModelError(msg)
    keys = fit.recipe.factors[0].level_columns if fit.recipe.factors else ()
    used = [name for name in fit.spec.columns() if name in data.lazy().collect_schema()]
    told = augment(data.lazy().select(columns(used)), fit, prefix=_PREFIX)
    x, r = column(f"{_PREFIX}fitted").alias(_X), column(f"{_PREFIX}resid_{residual}").alias(_R)
    rows = told.select(x, r, *columns(keys)).filter(pl.col(_X).is_finite(), pl.col(_R).is_finite())
    n = small(rows.select(pl.len())).item()
    if not n:
        others = enumerate_names([f"residual={one!r}" for one in _KINDS if one != residual], "or")
        msg = f"No row has a {residual} residual; those of a {fit.recipe.spec.family.name} model may be {others}."
        raise ModelError(msg)
    size = rows.with_columns(pl.col(_R).abs().sqrt())
    parts = [
        *(
            part.with_columns(panel=pl.lit(panel), kind=pl.lit(kind))
            for panel, query in (("fitted", rows), ("size", size))
            for kind, part in (("points", _points(query, n)), ("trend", _binned(query, n, TREND_BINS)))
        ),
        _quantiles(rows, n).with_columns(panel=pl.lit("quantiles"), kind=pl.lit("points")),
    ]
    if keys:
        by_level = _by_level(rows, list(keys)).with_columns(panel=pl.lit("levels"), kind=pl.lit("points"))
        parts.append(by_level)
    order = ["panel", "kind", "x", "y", "low", "high", "n"]
    return pl.concat([part.select(order) for part in parts]).with_columns(n_rows=pl.lit(n, pl.Int64))


def residual_chart(frame: pl.DataFrame) -> Chart:
    """The four pictures in two rows."""
    alt = chart.altair()
    n = frame["n_rows"][0]
    many = bool((frame.filter(panel="fitted", kind="points")["n"] > 1).any())
    note = (
        f"{n:,} rows; a point is about {n // BINS:,} of them, with a tenth and nine tenths" if many else f"{n:,} rows"
    )
    pictures = [
        _scatter(frame, "fitted", "fitted", "residual", "Residual and fitted value"),
        _scatter(frame, "size", "fitted", "√|residual|", "Size and fitted value"),
        _straight(frame),
        *([_levels(frame)] if frame.filter(panel="levels").height else []),
    ]
    rows = [alt.hconcat(*pictures[k : k + 2]) for k in range(0, len(pictures), 2)]
    return alt.vconcat(*rows).properties(title=chart.titled("Residuals", note))


def _scatter(frame: pl.DataFrame, panel: str, x: str, y: str, title: str) -> Chart:
    alt = chart.altair()
    own = frame.filter(panel=panel)
    points, trend = own.filter(kind="points"), own.filter(kind="trend")
    base = alt.Chart(points).encode(x=alt.X(**chart.number("x", x)))
    layers = [
        *([chart.reference(0.0)] if panel == "fitted" else []),
        base.mark_rule(color=QUIET, opacity=0.5).encode(y="low:Q", y2="high"),
        base.mark_circle(color=FIRST, size=18, opacity=0.7).encode(y=alt.Y("y:Q", title=y), tooltip=["x", "y", "n"]),
        alt.Chart(trend).mark_line(color=SECOND, strokeWidth=2).encode(x="x:Q", y="y:Q"),
    ]
    return alt.layer(*layers).properties(title=title, width=WIDE, height=HIGH * 0.8)


def _straight(frame: pl.DataFrame) -> Chart:
    """Quantiles of the residuals against those of a standard normal; on the line they are equal."""
    alt = chart.altair()
    own = frame.filter(panel="quantiles")
    ends = [own["x"].min(), own["x"].max()]
    line = alt.Chart(pl.DataFrame({"x": ends, "y": ends})).mark_line(color=SECOND).encode(x="x:Q", y="y:Q")
    points = alt.Chart(own).mark_circle(color=FIRST, size=18, opacity=0.8)
    points = points.encode(x=alt.X("x:Q", title="normal quantile"), y=alt.Y(**chart.number("y", "residual")))
    return alt.layer(line, points).properties(title="Quantiles", width=WIDE, height=HIGH * 0.8)


def _levels(frame: pl.DataFrame) -> Chart:
    alt = chart.altair()
    base = alt.Chart(frame.filter(panel="levels")).encode(x=alt.X("x:Q", title="level, by its mean residual"))
    bars = base.mark_rule(color=QUIET, opacity=0.6).encode(y=alt.Y("low:Q", title="residual"), y2="high")
    points = base.mark_circle(color=FIRST, size=18, opacity=1).encode(y="y:Q", tooltip=["n", "y", "low", "high"])
    title = "Mean by level, a tenth and nine tenths"
    return alt.layer(chart.reference(0.0), bars, points).properties(title=title, width=WIDE, height=HIGH * 0.8)


def _points(rows: pl.LazyFrame, n: int) -> pl.DataFrame:
    if n > chart.MOST_POINTS:
        return _binned(rows, n, BINS)
    made = small(rows.select(pl.col(_X).alias("x"), pl.col(_R).alias("y")))
    empty = pl.lit(None, pl.Float64)
    return made.with_columns(low=empty, high=empty, n=pl.lit(1, pl.Int64))


def _binned(rows: pl.LazyFrame, n: int, bins: int) -> pl.DataFrame:
    """Means in bins of about equal size by the fitted value."""
    place = ((pl.col(_X).rank("ordinal") - 1) * min(bins, max(n // 15, 1)) // max(n, 1)).alias("bin")
    r = pl.col(_R)
    summary = rows.with_columns(place).group_by("bin").agg(
        x=pl.col(_X).mean(), y=r.mean(), low=r.quantile(0.1), high=r.quantile(0.9), n=pl.len().cast(pl.Int64)
    )  # fmt: skip
    return small(summary.sort("bin").drop("bin"))


def _quantiles(rows: pl.LazyFrame, n: int) -> pl.DataFrame:
    k = min(n, QUANTILES)
    share = (np.arange(k) + 0.5) / max(k, 1)
    places = np.minimum((share * n).astype(np.int64), max(n - 1, 0))
    made = small(rows.select(pl.col(_R).sort().gather(pl.Series(places, dtype=pl.UInt32)).alias("y")))
    empty = pl.lit(None, pl.Float64)
    return made.with_columns(x=pl.Series(ndtri(share)), low=empty, high=empty, n=pl.lit(1, pl.Int64))


def _by_level(rows: pl.LazyFrame, keys: list[str]) -> pl.DataFrame:
    r = pl.col(_R)
    levels = rows.group_by(columns(keys)).agg(
        y=r.mean(), low=r.quantile(0.1), high=r.quantile(0.9), n=pl.len().cast(pl.Int64)
    )
    ranked = levels.select(pl.col("y").rank("ordinal").cast(pl.Float64).alias("x"), "y", "low", "high", "n").sort("x")
    return thinned(ranked, BINS)[0]
