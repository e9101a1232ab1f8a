"""What a variable does: the mean along it with its band over the data, and the courses of single levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import column, columns
from polars_glmm.errors import ColumnError, ModelError, enumerate_names, suggest
from polars_glmm.frames.table import rows_without_columns
from polars_glmm.frames.thin import small, thinned
from polars_glmm.inference.cells import width
from polars_glmm.inference.ranef import level_labels
from polars_glmm.plot import chart
from polars_glmm.plot.chart import FIRST, HIGH, QUIET, SECOND, WIDE, Chart
from polars_glmm.prediction.categories import refuse_categories
from polars_glmm.prediction.category_quantities import categories_asked
from polars_glmm.prediction.predictions import predict
from polars_glmm.prediction.residuals import augment
from polars_glmm.prediction.rows import size_inputs

AnyFrame = pl.DataFrame | pl.LazyFrame

STEPS, MOST_VALUES, MOST_LINES = 60, 40, 6
"""Places along a numeric variable; values of any other; lines by a second one."""
POINTS = 500
MOST_LEVELS = 24
_PREFIX = "plot "
_PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#b279a2", "#9d755d")


def inputs_of(fit: Answer) -> list[str]:
    """The columns that the mean depends on without random effects."""
    mu = fit.recipe.predictor("mu")
    nodes = [own.node for own in mu.columns] + ([] if mu.offset is None else [mu.offset])
    found = frozenset().union(*(node.inputs() for node in nodes))
    return [name for name in fit.spec.columns() if name in found]


def typical(fit: Answer, data: AnyFrame, *, random: bool = False) -> pl.DataFrame:
    """One row: the means of numeric columns, the commonest value of any other.

    random   also of what the random effects stand by, of phi's columns and of the trials
    """
    schema = data.lazy().collect_schema()
    names = inputs_of(fit)
    if random:
        terms = [own for factor in fit.recipe.factors for term in factor.terms for own in term.columns]
        further = [own for part in fit.recipe.predictors for own in part.columns] + terms
        also = frozenset().union(size_inputs(fit.recipe), *(own.node.inputs() for own in further))
        names = [name for name in fit.spec.columns() if name in also or name in names]
    query = data.lazy().select(columns(names))
    typed = [
        column(name).mean() if schema[name].is_numeric() else column(name).drop_nulls().mode().sort().first()
        for name in names
    ]
    return small(query.select(typed)) if names else rows_without_columns(1)


def effect_frame(
    fit: Answer, variable: str, data: AnyFrame, by: str | None = None, *, conf_level: float = 0.95
) -> pl.DataFrame:
    """The mean along a variable with the other columns at typical values, random effects at zero, and some of the data.

    Columns kind ("line", "point"), x (Float64, or text in level order), by (text, null without), y, low, high, n_rows.
    Of categories the probability of each, which `by` names, without points.
    Raises ModelError for a variable that the fixed effects do not have.
    """
    if fit.recipe.spec.family.curve is not None:
        msg = "This picture is of one linear predictor, and the model is nonlinear: plot the column of predict()."
        raise ModelError(msg)
    known = inputs_of(fit)
    for name in (variable, *([] if by is None else [by])):
        if name not in known:
            msg = f"The mean does not depend on {name!r}.{suggest(name, known)} It depends on {enumerate_names(known)}."
            raise ModelError(msg)
    categories = categories_asked(fit.recipe, "response")
    if categories and by is not None:
        msg = f"Lines are the categories here: draw a picture for each value of {by!r}, data=frame.filter(…)."
        raise ModelError(msg)
    lazy = data.lazy()
    numeric = lazy.collect_schema()[variable].is_numeric()
    grid = typical(fit, data)
    grid = grid.select(columns(name for name in grid.columns if name not in (variable, by)))
    along = _values(lazy, variable, fit, lines=False)
    grid = grid.join(along, how="cross") if grid.width else along
    if by is not None:
        grid = grid.join(_values(lazy, by, fit, lines=True), how="cross")
    told = predict(grid, fit, random="none", interval="confidence", conf_level=conf_level, name="plot")
    if categories:
        none = pl.lit(0, pl.Int64).alias("n_rows")
        return pl.concat(
            told.select(
                pl.lit("line").alias("kind"), _as_x(variable, numeric=numeric), pl.lit(one).alias("by"),
                column(f"plot_{one}").alias("y"), column(f"plot_{one}_low").alias("low"),
                column(f"plot_{one}_high").alias("high"), none,
            )
            for one in categories
        )  # fmt: skip
    line = told.select(
        pl.lit("line").alias("kind"), _as_x(variable, numeric=numeric), _as_text(by),
        pl.col("plot").alias("y"), pl.col("plot_low").alias("low"), pl.col("plot_high").alias("high"),
    )  # fmt: skip
    used = [name for name in fit.spec.columns() if name in lazy.collect_schema()]
    rows, n = thinned(lazy.select(columns(used)).drop_nulls(), POINTS)
    seen = augment(rows, fit, prefix=_PREFIX)
    empty = pl.lit(None, pl.Float64)
    numeric_by = by is not None and rows.schema[by].is_numeric()
    point = seen.select(
        pl.lit("point").alias("kind"), _as_x(variable, numeric=numeric), _as_text(None if numeric_by else by),
        (column(f"{_PREFIX}fitted") + column(f"{_PREFIX}resid")).alias("y"), empty.alias("low"), empty.alias("high"),
    )  # fmt: skip
    return pl.concat([line, point]).with_columns(n_rows=pl.lit(n, pl.Int64))


def effect_chart(frame: pl.DataFrame, variable: str, response: str, by: str | None = None) -> Chart:
    """The line and its band over the points."""
    alt = chart.altair()
    if frame.schema["x"] == pl.String:
        frame = chart.shortened(frame, "x", chart.HEADER_CELLS)
    frame = chart.shortened(frame, "by")
    line, point = frame.filter(kind="line"), frame.filter(kind="point")
    note = chart.some_of(point.height, frame["n_rows"][0], "rows") if point.height else ""
    colour: dict[str, Any] = {}
    if by is not None:
        order, scale = chart.text_of(line, "by"), alt.Scale(range=[*_PALETTE])
        colour = {"color": alt.Color("by:N", title=by, sort=order, scale=scale)}
    title, y = chart.titled(f"Effect of {variable}", note), alt.Y(**chart.number("y", response))
    if frame.schema["x"] == pl.Float64:
        x = alt.X(**chart.number("x", variable))
        marks = [
            alt.Chart(point).mark_circle(color=QUIET, size=16, opacity=0.4).encode(x=x, y=y),
            alt.Chart(line).mark_area(color=FIRST, opacity=0.2).encode(x=x, y="low:Q", y2="high", **colour),
            alt.Chart(line).mark_line(color=FIRST, strokeWidth=2.5).encode(x=x, y="y:Q", **colour),
        ]
        return alt.layer(*marks).properties(title=title, width=WIDE, height=HIGH)
    order = chart.text_of(line, "x")
    angle = -30 if max(map(width, order)) > 8 else 0
    x = alt.X("x:N", title=variable, sort=order, axis=alt.Axis(labelLimit=chart.LABEL_LIMIT, labelAngle=angle))
    shift = {} if by is None else {"xOffset": alt.XOffset("by:N", sort=chart.text_of(line, "by"))}
    aside = shift if point["by"].null_count() < point.height else {}
    marks = [
        alt.Chart(point).mark_circle(color=QUIET, size=14, opacity=0.35).encode(x=x, y=y, **aside),
        alt.Chart(line).mark_rule(color=FIRST, strokeWidth=2).encode(x=x, y="low:Q", y2="high", **shift, **colour),
        alt.Chart(line).mark_circle(color=FIRST, size=70, opacity=1).encode(x=x, y="y:Q", **shift, **colour),
    ]
    each = 60 if by is None else 20 + 26 * line["by"].n_unique()
    return alt.layer(*marks).properties(title=title, width=each * len(order), height=HIGH)


def trajectory_frame(fit: Answer, x: str, data: AnyFrame, group: str | None = None, levels: int = 9) -> pl.DataFrame:
    """The rows of the first levels of a group with what the model says of them.

    Columns level, x, y, fitted (given the random effects), fixed (with these at zero), n_levels.
    """
    refuse_categories(fit.recipe, "This picture", "plot the columns of predict(kind='response')")
    factors = {factor.name: factor for factor in fit.recipe.factors}
    if not factors:
        msg = "The model has no groups whose courses could be drawn."
        raise ModelError(msg)
    if group is not None and group not in factors:
        msg = f"The model has no grouping factor {group!r}; it has {enumerate_names([*factors])}."
        raise ModelError(msg)
    factor = next(iter(factors.values())) if group is None else factors[group]
    if factor.members is not None:
        msg = f"Courses are of rows in one level, and they are in several of {factor.name!r}: use plot.effects()."
        raise ModelError(msg)
    if x not in data.lazy().collect_schema():
        msg = f"The data have no column {x!r}.{suggest(x, data.lazy().collect_schema())}"
        raise ColumnError(msg)
    dtype = data.lazy().collect_schema()[x]
    if not (dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean):
        msg = f"Courses run along a number, and {x!r} is {dtype.base_type()}: fit.plot.effects({x!r}) shows its levels."
        raise ColumnError(msg)
    k = min(levels, MOST_LEVELS)
    chosen = factor.levels.head(k).with_columns(level_labels(factor).head(k).alias(f"{_PREFIX}level"))
    used = dict.fromkeys((*fit.spec.columns(), x))
    kinds = data.lazy().collect_schema()
    chosen = chosen.with_columns(column(key).cast(kinds[key], strict=False) for key in factor.keys if key in kinds)
    own = data.lazy().select(columns(used)).join(chosen.lazy(), on=columns(factor.keys), how="inner")
    rows, _ = thinned(own, 2 * chart.MOST_POINTS)
    told = augment(rows, fit, prefix=_PREFIX)
    made = told.select(
        column(f"{_PREFIX}level").alias("level"), column(x).cast(pl.Float64).alias("x"),
        (column(f"{_PREFIX}fitted") + column(f"{_PREFIX}resid")).alias("y"),
        column(f"{_PREFIX}fitted").alias("fitted"), column(f"{_PREFIX}fixed").alias("fixed"),
    )  # fmt: skip
    order = chosen.select(column(f"{_PREFIX}level").alias("level")).with_row_index("place")
    made = made.drop_nulls("fitted").join(order, on="level", how="left").sort("place", "x").drop("place")
    return made.with_columns(n_levels=pl.lit(factor.levels.height, pl.Int64))


def trajectory_chart(frame: pl.DataFrame, x: str, response: str, group: str) -> Chart:
    """A small picture for each level: its points, its own line, and that of the population."""
    alt = chart.altair()
    frame = chart.shortened(frame, "level", chart.HEADER_CELLS)
    order = chart.text_of(frame, "level")
    note = chart.some_of(len(order), frame["n_levels"][0], "levels")
    long = frame.drop("y").unpivot(index=["level", "x"], on=["fitted", "fixed"], variable_name="line", value_name="y")
    names = {"fitted": "this level", "fixed": "population"}
    long = long.with_columns(pl.col("line").replace(names), kind=pl.lit("line"))
    points = frame.select("level", "x", pl.lit(None, pl.String).alias("line"), "y", pl.lit("point").alias("kind"))
    whole = pl.concat([long, points])
    colour = alt.Color("line:N", title=None, scale=alt.Scale(domain=[*names.values()], range=[FIRST, SECOND]))
    base = alt.Chart().encode(x=alt.X(**chart.number("x", x)), y=alt.Y(**chart.number("y", response)))
    lines = base.transform_filter("datum.kind == 'line'").mark_line(strokeWidth=2).encode(color=colour)
    dots = base.transform_filter("datum.kind == 'point'").mark_circle(color=QUIET, size=18, opacity=0.9)
    facet = alt.Facet("level:N", sort=order, title=group, header=alt.Header(labelLimit=chart.LABEL_LIMIT))
    picture = alt.layer(dots, lines, data=whole).properties(width=130, height=110)
    return picture.facet(facet=facet, columns=min(3, len(order))).properties(
        title=chart.titled("Courses of levels", note)
    )


def _values(lazy: pl.LazyFrame, name: str, fit: Answer, *, lines: bool) -> pl.DataFrame:
    """Values along a variable: equidistant for numbers (or three of them for lines), else those that there are."""
    dtype = lazy.collect_schema()[name]
    own = column(name)
    if dtype.is_numeric() and lines:
        values = small(lazy.select(*(own.quantile(q).alias(str(q)) for q in (0.1, 0.5, 0.9)))).row(0)
        return pl.DataFrame({name: pl.Series(sorted({*values}))})
    if dtype.is_numeric():
        low, high = small(lazy.select(own.min().alias("low"), own.max().alias("high"))).row(0)
        return pl.DataFrame({name: np.linspace(float(low), float(high), STEPS)})
    most = MOST_LINES if lines else MOST_VALUES
    found = small(lazy.select(own.drop_nulls().unique().alias("value"))).to_series()
    if name in fit.recipe.categoricals:
        known = fit.recipe.categoricals[name].levels
        place = {level: k for k, level in enumerate(known)}
        found = found[found.cast(pl.String).replace_strict(place, default=len(known)).arg_sort()]
    else:
        found = found.sort()
    if len(found) > most:
        msg = f"{name!r} has {len(found)} values, and at most {most} can be drawn."
        raise ModelError(msg)
    return found.to_frame(name)


def _as_x(name: str, *, numeric: bool) -> pl.Expr:
    return column(name).cast(pl.Float64 if numeric else pl.String).alias("x")


def _as_text(name: str | None) -> pl.Expr:
    if name is None:
        return pl.lit(None, pl.String).alias("by")
    return column(name).cast(pl.String).alias("by")
