"""Pictures of tables that are there already: estimates with intervals, profiles, influence, bootstrap draws."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from polars_glmm.columns.named import column as own_column
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.varcorr import RESIDUAL
from polars_glmm.plot import chart
from polars_glmm.plot.chart import FIRST, HIGH, QUIET, SECOND, STEP, WIDE, Chart

LABELS = ("label", "contrast", "hypothesis", "variable", "term", "level", "parameter")
"""Columns that may say what an estimate is of, the first that a table has."""
MOST = 60
BINS = 40


def forest_frame(table: pl.DataFrame, label: str | None = None, color: str | None = None) -> pl.DataFrame:
    """Columns label, color (text, null without), estimate, low, high of a table with the estimate core.

    Raises ModelError for a table without estimates and intervals, or with more rows than can be read.
    """
    require(table, ("estimate", "conf_low", "conf_high"), "a forest")
    if label is None and "quantity" in table.columns:
        table = named(table)
    found = label or next((name for name in LABELS if name in table.columns), None)
    if found is None:
        there = enumerate_names(table.columns)
        msg = f"No column says what the estimates are of: name it by label=. There are {there}."
        raise ModelError(msg)
    require(table, [found, *([] if color is None else [color])], "a forest")
    if table.height > 4 * MOST:
        msg = f"A forest of {table.height} estimates cannot be read: filter the table to {4 * MOST} at most."
        raise ModelError(msg)
    coloured = pl.lit(None, pl.String) if color is None else own_column(color).cast(pl.String)
    made = table.select(
        own_column(found).cast(pl.String).alias("label"), coloured.alias("color"), "estimate",
        pl.col("conf_low").alias("low"), pl.col("conf_high").alias("high"),
    )  # fmt: skip
    return made.drop_nulls("estimate")


def forest_chart(frame: pl.DataFrame, zero: float = 0.0, color: str | None = None) -> Chart:
    """A row for each estimate, in the order of the table, with a line where nothing happens."""
    alt = chart.altair()
    frame = chart.shortened(frame, "label")
    order = chart.text_of(frame, "label")
    y = alt.Y(**chart.labels("label", order))
    shift, colour = {}, {}
    if color is not None:
        kinds = chart.text_of(frame, "color")
        shift = {"yOffset": alt.YOffset("color:N", sort=kinds)}
        colour = {"color": alt.Color("color:N", title=color, sort=kinds)}
    base = alt.Chart(frame).encode(y=y, **shift, **colour)
    rules = base.mark_rule(strokeWidth=2, color=QUIET).encode(x=alt.X(**chart.number("low", "estimate")), x2="high")
    tooltip = ["label", "estimate", "low", "high"]
    points = base.mark_circle(size=60, opacity=1, color=FIRST).encode(x="estimate:Q", tooltip=tooltip)
    step = alt.Step(STEP if color else STEP + 8)
    return alt.layer(chart.reference(zero, across=False), rules, points).properties(width=WIDE, height=step)


def named(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the names of parameters in one column, `label`: Days, sd(Subject: Days), phi: Days, sigma."""
    if "label" in frame.columns:
        return frame
    term, group, other, quantity, parameter = (
        pl.col(name).cast(pl.String) if name in frame.columns else pl.lit(None, pl.String)
        for name in ("term", "group", "other_term", "quantity", "parameter")
    )
    pair = pl.concat_str([term, other], separator=", ", ignore_nulls=True)
    word = quantity.replace({"correlation": "cor"})
    of_group = pl.concat_str([pl.coalesce(word, pl.lit("sd")), pl.lit("("), group, pl.lit(": "), pair, pl.lit(")")])
    of_other = pl.concat_str([parameter, pl.lit(": "), term])
    plain = pl.when(parameter.fill_null("mu") == "mu").then(term).otherwise(pl.coalesce(of_other, parameter))
    spread = pl.when(quantity == "dispersion").then(
        pl.when(group == RESIDUAL).then(pl.lit("sigma")).otherwise(pl.lit("phi"))
    )
    return frame.with_columns(pl.coalesce(spread, of_group, plain, quantity, parameter).alias("label"))


def profile_chart(frame: pl.DataFrame, conf_level: float = 0.95) -> Chart:
    """ζ against the value of each parameter: straight where Wald's interval holds; lines at its ends."""
    require(frame, ("value", "zeta"), "profiles")
    alt = chart.altair()
    z = normal_quantile(conf_level)
    shown = named(frame).select("label", "value", "zeta").drop_nulls()
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(labelOverlap=True, tickCount=5))
    base = alt.Chart().encode(x=x, y=alt.Y("zeta:Q", title="ζ"))
    lines = [chart.reference(level) for level in (-z, 0.0, z)]
    marks = base.mark_line(color=FIRST), base.mark_circle(color=FIRST, size=20, opacity=1)
    whole = alt.layer(*lines, *marks, data=shown)
    return _facets(whole, shown, "Profiles", f"lines: {100 * conf_level:g} % and the estimate")


def influence_chart(frame: pl.DataFrame, measure: str = "cooks_distance", most: int = 40) -> Chart:
    """The levels that matter most, by a measure of influence."""
    require(frame, ("level", measure), "influence")
    alt = chart.altair()
    top = frame.select(pl.col("level").cast(pl.String), measure).drop_nulls().sort(measure, descending=True).head(most)
    top = chart.shortened(top, "level")
    y = alt.Y(**chart.labels("level", top["level"].to_list()))
    base = alt.Chart(top).encode(y=y)
    title = measure.replace("_", " ").replace("cooks", "Cook's")
    rules = base.mark_rule(color=QUIET).encode(x=alt.X(f"{measure}:Q", title=title), x2=alt.datum(0.0))
    points = base.mark_circle(color=FIRST, size=50, opacity=1).encode(x=f"{measure}:Q", tooltip=["level", measure])
    note = chart.some_of(top.height, frame.height, "levels, the largest")
    title_above = chart.titled("Influence of levels", note)
    return alt.layer(rules, points).properties(title=title_above, width=WIDE, height=alt.Step(STEP))


def bootstrap_frame(frame: pl.DataFrame) -> pl.DataFrame:
    """How the draws of each parameter are spread.

    Columns label, start, stop and draws of each bin, low, middle, high (quantiles 0.025, 0.5, 0.975).
    """
    value = "value" if "value" in frame.columns else "estimate"
    require(frame, ("draw", value), "bootstrap draws")
    parts = []
    draws = named(frame).select("label", estimate=own_column(value)).filter(pl.col("estimate").is_finite())
    for part in draws.partition_by("label", maintain_order=True):
        values = part["estimate"]
        low, high = float(values.to_numpy().min()), float(values.to_numpy().max())
        width = (high - low) / BINS or 1.0
        place = ((values - low) / width).floor().clip(0, BINS - 1).cast(pl.Int64).rename("bin")
        bins = place.value_counts().sort("bin")
        ends = values.quantile(0.025), values.median(), values.quantile(0.975)
        parts.append(
            bins.select(
                pl.lit(part["label"][0]).alias("label"), (low + pl.col("bin") * width).alias("start"),
                (low + (pl.col("bin") + 1) * width).alias("stop"), pl.col("count").cast(pl.Int64).alias("draws"),
                *(pl.lit(end).alias(name) for end, name in zip(ends, ("low", "middle", "high"), strict=True)),
            )
        )  # fmt: skip
    return pl.concat(parts)


def bootstrap_chart(frame: pl.DataFrame) -> Chart:
    """A histogram for each parameter with the median and the ends of the percentile interval."""
    alt = chart.altair()
    base = alt.Chart()
    axis = alt.Axis(labelOverlap=True, tickCount=5)
    x = alt.X("start:Q", title=None, scale=alt.Scale(zero=False, nice=False), axis=axis)
    bars = base.mark_rect(color=FIRST, opacity=0.6).encode(x=x, x2="stop", y=alt.Y("draws:Q"), y2=alt.datum(0))
    dashes = {"low": [4, 3], "middle": [1, 0], "high": [4, 3]}
    rules = [base.mark_rule(color=SECOND, strokeDash=dash).encode(x=f"{name}:Q") for name, dash in dashes.items()]
    return _facets(alt.layer(bars, *rules, data=frame), frame, "Bootstrap", "median, 2.5 and 97.5 %")


def require(table: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    """Raise ModelError for a table that lacks what a picture is made of."""
    lacking = [name for name in columns if name not in table.columns]
    if lacking:
        wanted = enumerate_names(columns)
        msg = f"A picture of {what} takes a table with {wanted}; this one lacks {enumerate_names(lacking)}."
        raise ModelError(msg)


def _facets(picture: Chart, frame: pl.DataFrame, title: str, note: str) -> Chart:
    alt = chart.altair()
    order = chart.text_of(frame, "label")
    facet = alt.Facet("label:N", title=None, sort=order, header=alt.Header(labelLimit=chart.LABEL_LIMIT))
    small = picture.properties(width=WIDE * 0.6, height=HIGH * 0.6)
    whole = small.facet(facet=facet, columns=min(3, len(order))).resolve_scale(x="independent")
    return whole.properties(title=chart.titled(title, note))
