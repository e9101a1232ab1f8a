"""Random effects by level: sorted with their intervals, against normal quantiles, and shrunken from their own fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from scipy.special import ndtri

from polars_glmm.answer.record import Answer
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.ranef import ranef
from polars_glmm.likelihood.parameters.parts import label as effect_label
from polars_glmm.plot import chart
from polars_glmm.plot.chart import FIRST, HIGH, MOST_LABELS, QUIET, SECOND, STEP, WIDE, Chart

MOST = 400
"""Levels of one term that are drawn: those of more are chosen evenly by rank."""


def caterpillar_frame(
    fit: Answer, group: str | None = None, term: str | None = None, conf_level: float = 0.95
) -> pl.DataFrame:
    """Modes of each group and term from the smallest to the largest.

    Columns parameter, group, term, level, rank, n_levels, quantile (of a standard normal), estimate, std_error, low,
    high. Of more than MOST levels every so many are kept, the ends always.
    Raises ModelError where the model has no such group or term.
    """
    table = ranef(fit)
    for name, value in (("group", group), ("term", term)):
        known = table[name].unique(maintain_order=True).to_list()
        if value is not None and value not in known:
            msg = f"There is no {name} {value!r} among the random effects, which are of {enumerate_names(known)}."
            raise ModelError(msg)
        table = table if value is None else table.filter(pl.col(name) == value)
    if not table.height:
        msg = "The model has no random effects to draw."
        raise ModelError(msg)
    z = normal_quantile(conf_level)
    parts = []
    for part in table.partition_by("parameter", "group", "term", maintain_order=True):
        n = part.height
        places = np.unique(np.linspace(0, n - 1, min(n, MOST)).round().astype(np.int64))
        ranked = part.sort("estimate", maintain_order=True).with_row_index("rank", offset=1)[places]
        share = (ranked["rank"].to_numpy() - 0.5) / n
        parts.append(
            ranked.select(
                "parameter", "group", "term", "level", pl.col("rank").cast(pl.Int64), pl.lit(n).alias("n_levels"),
                pl.Series("quantile", ndtri(share)), "estimate", "std_error",
                (pl.col("estimate") - z * pl.col("std_error")).alias("low"),
                (pl.col("estimate") + z * pl.col("std_error")).alias("high"),
            )
        )  # fmt: skip
    return pl.concat(parts)


def caterpillar_chart(frame: pl.DataFrame) -> Chart:
    """A row for each level with its interval, a picture for each group and term side by side."""
    return _side_by_side(frame, _caterpillar)


def qq_chart(frame: pl.DataFrame) -> Chart:
    """Modes against normal quantiles with their intervals, and the line through the quartiles."""
    return _side_by_side(frame, _quantiles)


def _side_by_side(frame: pl.DataFrame, one: Callable[[pl.DataFrame], Chart]) -> Chart:
    alt = chart.altair()
    pictures = [one(part) for part in frame.partition_by("parameter", "group", "term", maintain_order=True)]
    return pictures[0] if len(pictures) == 1 else alt.hconcat(*pictures)


def _title(part: pl.DataFrame) -> Any:
    row = part.row(0, named=True)
    note = chart.some_of(part.height, row["n_levels"], "levels, evenly by rank")
    return chart.titled(f"{row['group']}: {effect_label(row['term'], row['parameter'])}", note)


def _caterpillar(part: pl.DataFrame) -> Chart:
    alt = chart.altair()
    part = chart.shortened(part, "level")
    if part.height <= MOST_LABELS:
        across = alt.Y(**chart.labels("level", part["level"].to_list()[::-1]))
        height: Any = alt.Step(STEP)
    else:
        ends = [0, part["n_levels"][0] + 1]
        across = alt.Y("rank:Q", title="rank", axis=alt.Axis(grid=False), scale=alt.Scale(domain=ends, nice=False))
        height = HIGH + 80
    base = alt.Chart().encode(y=across)
    tooltip = ["level", "estimate", "low", "high"]
    intervals = base.mark_rule(color=QUIET).encode(x=alt.X(**chart.number("low", "conditional mode")), x2="high")
    points = base.mark_circle(color=FIRST, size=36, opacity=1).encode(x="estimate:Q", tooltip=tooltip)
    whole = alt.layer(chart.reference(0.0, across=False), intervals, points, data=part)
    return whole.properties(title=_title(part), width=WIDE * 0.75, height=height)


def _quantiles(part: pl.DataFrame) -> Chart:
    alt = chart.altair()
    x, y = part["quantile"].to_numpy(), part["estimate"].to_numpy()
    quartiles = np.quantile(y, [0.25, 0.75])
    slope = (quartiles[1] - quartiles[0]) / (2.0 * float(ndtri(0.75)))
    ends = np.array([x.min(), x.max()])
    line = pl.DataFrame({"quantile": ends, "estimate": quartiles.mean() + slope * ends})
    base = alt.Chart(part).encode(x=alt.X("quantile:Q", title="normal quantile"))
    points = base.mark_circle(color=FIRST, size=30, opacity=1).encode(y="estimate:Q", tooltip=["level", "estimate"])
    y_axis = alt.Y(**chart.number("low", "conditional mode"))
    intervals = base.mark_rule(color=QUIET, opacity=0.6).encode(y=y_axis, y2="high")
    straight = alt.Chart(line).mark_line(color=SECOND).encode(x="quantile:Q", y="estimate:Q")
    return alt.layer(intervals, straight, points).properties(title=_title(part), width=WIDE * 0.75, height=HIGH)


def shrinkage_chart(frame: pl.DataFrame) -> Chart:
    """Arrows from each level's own estimates to those of the model; of one term, lines between both in a row.

    frame   level, term, own, conditional, population, n_levels
    """
    alt = chart.altair()
    frame = chart.shortened(frame, "level")
    terms = chart.text_of(frame, "term")
    note = chart.some_of(frame["level"].n_unique(), frame["n_levels"][0], "levels")
    title = chart.titled("Shrinkage: each level alone, and in the model", note)
    if len(terms) < 2:
        return _shrunken_in_rows(frame, title)
    names = dict(zip(terms[:2], ("x", "y"), strict=True))
    wide = (
        frame.filter(pl.col("term").is_in(terms[:2]))
        .with_columns(pl.col("term").replace(names))
        .pivot(on="term", index="level", values=["own", "conditional", "population"])
    )
    points = wide.unpivot(index="level", on=["own_x", "conditional_x"], variable_name="estimate", value_name="x")
    points = points.with_columns(
        estimate=pl.when(pl.col("estimate") == "own_x").then(pl.lit("alone")).otherwise(pl.lit("in the model")),
        y=pl.concat([wide["own_y"], wide["conditional_y"]]),
    )
    ends = {"x": "own_x:Q", "y": "own_y:Q", "x2": "conditional_x", "y2": "conditional_y"}
    lines = alt.Chart(wide).mark_rule(color=QUIET, opacity=0.6).encode(**ends)
    x, y = (alt.X(**chart.number("x", terms[0])), alt.Y(**chart.number("y", terms[1])))
    tooltip = ["level", "estimate", "x", "y"]
    dots = alt.Chart(points).mark_circle(size=40, opacity=1).encode(x=x, y=y, color=_colour(), tooltip=tooltip)
    cross = alt.Chart(wide.head(1)).mark_point(shape="cross", color=SECOND, size=160, filled=True)
    centre = cross.encode(x="population_x:Q", y="population_y:Q")
    return alt.layer(lines, dots, centre).properties(title=title, width=WIDE, height=WIDE)


def _shrunken_in_rows(frame: pl.DataFrame, title: Any) -> Chart:
    alt = chart.altair()
    rows = frame.sort("own")
    long = rows.unpivot(index="level", on=["own", "conditional"], variable_name="estimate")
    long = long.with_columns(pl.col("estimate").replace({"own": "alone", "conditional": "in the model"}))
    y = alt.Y(**chart.labels("level", rows["level"].to_list()[::-1]))
    if rows.height > MOST_LABELS:
        y = alt.Y("level:N", sort=rows["level"].to_list()[::-1], axis=None)
    lines = alt.Chart(rows).mark_rule(color=QUIET).encode(y=y, x="own:Q", x2="conditional")
    dots = (
        alt.Chart(long)
        .mark_circle(size=40, opacity=1)
        .encode(
            y=y,
            x=alt.X(**chart.number("value", rows["term"][0])),
            color=_colour(),
            tooltip=["level", "estimate", "value"],
        )
    )
    centre = alt.Chart(rows.head(1)).mark_rule(color=SECOND, strokeDash=[4, 3]).encode(x="population:Q")
    step = STEP if rows.height <= MOST_LABELS else max(300 // rows.height, 2)
    return alt.layer(centre, lines, dots).properties(title=title, width=WIDE, height=alt.Step(step))


def _colour() -> Any:
    alt = chart.altair()
    scale = alt.Scale(domain=["alone", "in the model"], range=[QUIET, FIRST])
    return alt.Color("estimate:N", title=None, scale=scale)
