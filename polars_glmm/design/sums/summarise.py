"""Moments of a gaussian model from aggregation queries, exact however far the columns are from zero.

Columns are counted from numbers near their means, taken from the first rows, so that squares lose no digits; where the
first rows misled (|mean − shift| > 1000 sd) the scan is repeated from the right place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple, NoReturn

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, columns
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.sums.moments import Checks, Layout, LevelMoments, Moments, PairMoments, about_means, pooled
from polars_glmm.design.sums.outline import Outline
from polars_glmm.design.sums.parts import way
from polars_glmm.design.sums.places import no_rows
from polars_glmm.design.sums.queries import KEY, QueriedSums, SumQueries, product_name
from polars_glmm.errors import ColumnError, DataChangedError, counted
from polars_glmm.frames.levels import codes_of, combine, in_order
from polars_glmm.frames.missing import check_missing, dropped_rows
from polars_glmm.frames.source import Source
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Vec

_FAR = 1e3
_MOST_SCANS = 3
_ROUNDING = 1e-9


class Summary(NamedTuple):
    """A recipe with its levels and all columns of the formula, the moments of the rows, and what was left out.

    scans   how often the source was read
    """

    recipe: Recipe
    moments: Moments
    notes: tuple[Note, ...]
    n_dropped: int
    scans: int


def summarise(sketch: Outline, source: Source, missing: str = "drop", *, allow_none: bool = False) -> Summary:
    """The moments of the rows in use; allow_none: also where there are none.

    Raises ColumnError for rows that cannot be used, as `learn` does, DataChangedError where the source gives other rows
    than before.
    """
    check_missing(missing)
    source = source.finding(sketch.facts, sketch.checked)
    queries = SumQueries.of(sketch.recipe, source)
    shift, collect = way(queries)
    for scans in range(1, _MOST_SCANS + 1):  # noqa: B007  # counted for the summary
        answers = collect(shift)
        if allow_none and not answers.totals["weight"]:
            return _without_rows(sketch, queries, answers, missing)
        source.refuse_changed(answers.census, answers.totals["weight"])
        incomplete = source.judge(answers.census)
        notes = () if incomplete is None else (dropped_rows(incomplete, missing),)
        if not answers.totals["weight"]:
            source.refuse_empty()
        levels, moments = _assembled(queries, answers, shift)
        if not _finite(moments):
            _refuse_not_finite(sketch, source)
        require_one_sample(moments)
        far = _misled(moments)
        if not far.any():
            break
        shift = shift + np.where(far, moments.total.mean[:, 0], 0.0)
    factors = tuple(replace(factor, levels=own) for factor, own in zip(sketch.recipe.factors, levels, strict=True))
    recipe = replace(sketch.recipe, factors=factors)
    n_dropped = 0 if incomplete is None else incomplete.n
    return Summary(recipe, moments, (*notes, *sketch.notes), n_dropped, sketch.scans + scans)


def _assembled(queries: SumQueries, answers: QueriedSums, shift: Vec) -> tuple[tuple[pl.DataFrame, ...], Moments]:
    """Levels and moments from sums."""
    layouts, factors = queries.layouts, queries.recipe.factors
    levels: dict[int, pl.DataFrame] = {}
    parts: dict[int, LevelMoments] = {}
    for f, frame in answers.factors.items():
        ordered = in_order(frame, [KEY + name for name in factors[f].keys])
        levels[f] = _keys(ordered, factors[f].keys)
        _require_distinct(levels[f], factors[f].name)
        parts[f] = _moments(ordered, layouts.factors[f])
    for f, host in enumerate(queries.hosts):
        if host is not None:
            keys = factors[f].keys
            levels[f] = in_order(levels[host].select(columns(keys)).unique(), keys)
            fine = pooled(parts[host], codes_of(levels[host], levels[f]), levels[f].height)
            parts[f] = _with_slopes(fine, layouts.factors[f])
    pairs = {}
    for f, g in combinations(range(len(factors)), 2):
        finer = queries.finer(f, g)
        if finer is None:
            frame = answers.pairs[f, g]
            left, right = (codes_of(_keys(frame, factors[h].keys), levels[h]) for h in (f, g))
            own = _moments(frame, layouts.pairs[f, g])
        else:
            each = np.arange(levels[finer].height)
            left, right = (each if h == finer else codes_of(levels[finer], levels[h]) for h in (f, g))
            own = _as_pairs(parts[finer], layouts.pairs[f, g])
        order = np.lexsort((right, left))
        pairs[f, g] = PairMoments(left[order], right[order], own.taken(order))
    total = _moments(pl.DataFrame([answers.totals]), layouts.total)
    return tuple(levels[f] for f in range(len(factors))), Moments(
        centre=shift,
        total=total,
        factors=tuple(parts[f] for f in range(len(factors))),
        pairs=pairs,
        n_obs=round(float(total.count[0])),
        log_weights=float(answers.totals.get("log_weights", 0.0)),
        checks=_checks(queries, answers, total, shift),
    )


def _without_rows(sketch: Outline, queries: SumQueries, answers: QueriedSums, missing: str) -> Summary:
    """The summary of no row: levels of nothing, sums of zero."""
    census = answers.census
    found = queries.source.judge(census) if census["rows"] else None
    notes = () if found is None else (dropped_rows(found, missing, all_may_go=True),)
    n = 0 if found is None else found.n
    return Summary(sketch.recipe, no_rows(queries.layouts), (*notes, *sketch.notes), n, sketch.scans + 1)


def require_one_sample(moments: Moments) -> None:
    """Raise DataChangedError where sums over levels and sums over all rows are not sums of the same rows."""
    total = moments.total
    size = np.sqrt(total.weight[0] * (np.diag(moments.second) + total.weight[0] * total.mean[:, 0] ** 2))
    for part in (*moments.factors, *(pair.moments for pair in moments.pairs.values())):
        weights = np.array([part.weight.sum() - total.weight[0], part.count.sum() - total.count[0]])
        sums = part.mean @ part.weight - total.mean[part.columns, 0] * total.weight[0]
        far = np.abs(sums) > _ROUNDING * size[part.columns]
        if far.any() or (np.abs(weights) > _ROUNDING * total.weight[0]).any():
            msg = (
                "The source gave other rows to one query than to another. Collect it, or write it to a file, before it "
                "is fitted."
            )
            raise DataChangedError(msg)


def _require_distinct(levels: pl.DataFrame, name: str) -> None:
    """Raise ColumnError where a grouping factor has the same level twice: a column may bear a false mark of order."""
    table = Table({key: levels[key] for key in levels.columns})
    n_levels = combine([table.levels(key) for key in levels.columns]).n_levels if levels.height else 0
    if n_levels != levels.height:
        msg = (
            f"group {name!r} was summed as {counted(levels.height, 'level')}, of which {n_levels} are different ones. "
            "A column that is marked as sorted (set_sorted) and is not can do this: sort it, or take the mark off."
        )
        raise ColumnError(msg)


def _moments(frame: pl.DataFrame, layout: Layout) -> LevelMoments:
    columns = layout.columns

    def take(name: str) -> Vec:
        return frame[name].cast(pl.Float64).to_numpy()

    weight = take("weight")
    count = take("count") if "count" in frame.columns else weight
    sums = np.array([take(f"s{j}") for j in columns]).reshape(len(columns), len(weight))
    products = [[take(product_name(columns[a], columns[b])) for b in layout.right] for a in layout.left]
    cube = np.array(products).reshape(len(layout.left), len(layout.right), len(weight))
    return about_means(layout, weight, count, sums, cube)


def _checks(queries: SumQueries, answers: QueriedSums, total: LevelMoments, shift: Vec) -> Checks:
    if queries.raw_response:
        precision = 0.0 if queries.source.precision is None else float(total.weight[0])
        return Checks(answers.totals["fy"], answers.totals["fyy"], precision)
    n, mean = float(total.weight[0]), float(shift[-1] + total.mean[-1, 0])
    return Checks(n * mean, float(total.second[-1, -1, 0]) + n * mean**2, 0.0)


def _keys(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    return frame.select(column(KEY + name).alias(name) for name in keys)


def _with_slopes(part: LevelMoments, layout: Layout) -> LevelMoments:
    """The moments of a factor with fewer slopes."""
    rows = np.searchsorted(part.left, layout.left)
    return LevelMoments(*layout, part.weight, part.count, part.mean, part.second[rows])


def _as_pairs(part: LevelMoments, layout: Layout) -> LevelMoments:
    """The moments of pairs that are the levels of the finer factor."""
    known = {int(a): row for row, a in enumerate(part.left)}
    left, right = layout.columns[layout.left], layout.columns[layout.right]
    second = np.empty((len(left), len(right), part.n_levels))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            second[i, j] = part.second[known[int(a)], b] if int(a) in known else part.second[known[int(b)], a]
    return LevelMoments(*layout, part.weight, part.count, part.mean[layout.columns], second)


def _misled(moments: Moments) -> BoolVec:
    """(k,) columns that were counted from too far away."""
    total = moments.total
    away = np.abs(total.mean[:, 0])
    spread = np.sqrt(np.maximum(np.diag(moments.second), 0.0) / total.weight)
    return np.asarray((away > _FAR * spread) & (away > 1e-12 * np.abs(moments.centre)))


def _finite(moments: Moments) -> bool:
    total = moments.total
    return bool(np.isfinite(total.second.sum()) and np.isfinite(total.mean.sum()) and np.isfinite(total.weight[0]))


def _refuse_not_finite(sketch: Outline, source: Source) -> NoReturn:
    """Raise ColumnError for the first expression that is not finite, else for squares that are too large."""
    for node, text in sketch.checked:
        source.refuse_not_finite(node, text)
    msg = "Squares of a column are too large for floating-point numbers: rescale the columns of the model."
    raise ColumnError(msg)
