"""Moments of a gaussian model by aggregation queries: one group_by per factor, one per pair, one select, one scan.

Columns are counted from numbers near their means, taken from the first rows, so that squares lose no digits; where the
first rows misled (|mean − shift| > 1000 sd) the scan is repeated once from the right place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError
from polars_glmm.notes import Note
from polars_glmm.typing import IntVec, Mat, Vec

from .lazy_learn import Outline
from .level_frames import codes_of, in_order
from .missing import check_missing, dropped_rows
from .moment_columns import Layouts, columns_of, layouts_of
from .moments import Checks, Layout, LevelMoments, Moments, PairMoments, about_means, pooled
from .nodes import Node, Reference
from .recipe import Recipe
from .source import Source

_HEAD = 1000
_NEAR = 3.0
"""A mean of so few standard deviations costs a digit: not worth a subtraction in every row."""
_FAR = 1e3
_MOST_SCANS = 3
_KEY = "key:"


class Summary(NamedTuple):
    """A recipe with its levels and all columns of the formula, the moments of the rows, and what was left out."""

    recipe: Recipe
    moments: Moments
    notes: tuple[Note, ...]
    n_dropped: int
    scans: int


def summarise(sketch: Outline, source: Source, missing: str = "drop") -> Summary:
    """The moments of the rows in use. Raises ColumnError for rows that cannot be used, as `learn` does."""
    check_missing(missing)
    plan = _Plan.of(sketch.recipe, source)
    shift = plan.shift()
    for scans in range(1, _MOST_SCANS + 1):
        answers = plan.collect(shift)
        incomplete = source.judge(answers.census)
        if not answers.overall["n_rows"]:
            source.refuse_empty()
        notes = () if incomplete is None else (dropped_rows(incomplete, missing),)
        levels, moments = plan.moments(answers, shift)
        if not _finite(moments):
            _refuse_not_finite(sketch, source)
        away, spread = moments.total.mean[:, 0], np.sqrt(np.maximum(np.diag(moments.second), 0.0))
        far = np.abs(away) > _FAR * spread / np.sqrt(moments.total.weight)
        if not (far & (np.abs(away) > 1e-12 * np.abs(shift))).any():
            break
        shift = shift + np.where(far, away, 0.0)
    factors = tuple(replace(factor, levels=own) for factor, own in zip(sketch.recipe.factors, levels, strict=True))
    recipe = replace(sketch.recipe, factors=factors)
    n_dropped = 0 if incomplete is None else incomplete.n
    return Summary(recipe, moments, (*notes, *sketch.notes), n_dropped, sketch.scans + scans)


class _Answers(NamedTuple):
    """What the queries gave: a census, totals, and a frame per factor and pair asked for, sums with the keys."""

    census: Mapping[str, int]
    overall: Mapping[str, float]
    factors: dict[int, pl.DataFrame]
    pairs: dict[tuple[int, int], pl.DataFrame]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """Which sums are asked of which query.

    hosts   per factor the finer one from whose levels its own follow, or None
    """

    recipe: Recipe
    source: Source
    nodes: tuple[Node, ...]
    layouts: Layouts
    hosts: tuple[int | None, ...]

    @classmethod
    def of(cls, recipe: Recipe, source: Source) -> _Plan:
        layouts = layouts_of(recipe)
        slopes = layouts.slopes
        keys = [frozenset(factor.keys) for factor in recipe.factors]

        def host(f: int) -> int | None:
            finer = [g for g in range(len(keys)) if keys[f] < keys[g] and set(slopes[f]) <= set(slopes[g])]
            return max(finer, key=lambda g: len(keys[g]), default=None)

        return cls(recipe, source, columns_of(recipe), layouts, tuple(host(f) for f in range(len(keys))))

    @property
    def k(self) -> int:
        return len(self.nodes)

    def shift(self) -> Vec:
        """Numbers near the means (k,), from the first rows; 0 where the mean is small against the spread."""
        asked = [self.source.expression(node).alias(f"v{j}") for j, node in enumerate(self.nodes)]
        head = self.source.rows.select(asked).head(_HEAD).collect()
        out = np.zeros(self.k)
        for j, series in enumerate(head.iter_columns()):
            values = series.filter(series.is_finite()).to_numpy()
            if len(values):
                mean, spread = float(values.mean()), float(values.std())
                if values.min() == values.max():
                    mean, spread = float(values[0]), 0.0
                out[j] = mean if abs(mean) > _NEAR * spread else 0.0
        return out

    def collect(self, shift: Vec) -> _Answers:
        """All sums, in one scan of the source."""
        base = self._base(shift)
        queries = {"census": self.source.census(), "overall": base.select(self._overall())}
        for f, factor in enumerate(self.recipe.factors):
            if self.hosts[f] is None:
                keys = [_KEY + name for name in factor.keys]
                queries[f"factor:{f}"] = base.group_by(keys).agg(self._sums(self.layouts.factors[f]))
        asked = [(f, g) for f, g in combinations(range(len(self.hosts)), 2) if self._finer(f, g) is None]
        for f, g in asked:
            keys = list(dict.fromkeys(_KEY + name for h in (f, g) for name in self.recipe.factors[h].keys))
            queries[f"pair:{f},{g}"] = base.group_by(keys).agg(self._sums(self.layouts.pairs[f, g]))
        found = dict(zip(queries, pl.collect_all(list(queries.values()), engine="streaming"), strict=True))
        return _Answers(
            found["census"].row(0, named=True),
            found["overall"].row(0, named=True),
            {f: found[f"factor:{f}"] for f in range(len(self.hosts)) if self.hosts[f] is None},
            {(f, g): found[f"pair:{f},{g}"] for f, g in asked},
        )

    def moments(self, answers: _Answers, shift: Vec) -> tuple[tuple[pl.DataFrame, ...], Moments]:
        """Levels and moments from the sums."""
        levels: dict[int, pl.DataFrame] = {}
        parts: dict[int, LevelMoments] = {}
        totals = dict(answers.overall)
        for f, frame in answers.factors.items():
            names = self.recipe.factors[f].keys
            ordered = in_order(frame, [_KEY + name for name in names])
            levels[f] = _keys(ordered, names)
            parts[f] = self._level_moments(ordered, self.layouts.factors[f])
            sums = frame.select(pl.exclude(f"^{_KEY}.*$").cast(pl.Float64).sum())
            totals |= sums.row(0, named=True)
        for f, host in enumerate(self.hosts):
            if host is not None:
                keys = self.recipe.factors[f].keys
                levels[f] = in_order(levels[host].select(keys).unique(), keys)
                fine = pooled(parts[host], codes_of(levels[host], levels[f]), levels[f].height)
                parts[f] = _only(fine, self.layouts.factors[f])
        pairs = {}
        for f, g in combinations(range(len(self.hosts)), 2):
            finer = self._finer(f, g)
            if finer is None:
                frame = answers.pairs[f, g]
                left, right = (codes_of(_keys(frame, self.recipe.factors[h].keys), levels[h]) for h in (f, g))
                own = self._level_moments(frame, self.layouts.pairs[f, g])
            else:
                each = np.arange(levels[finer].height)
                left, right = (each if h == finer else codes_of(levels[finer], levels[h]) for h in (f, g))
                own = _pair_of(parts[finer], self.layouts.pairs[f, g])
            order = np.lexsort((right, left))
            pairs[f, g] = PairMoments(left[order], right[order], own.taken(order))
        total = self._level_moments(pl.DataFrame([totals]), self.layouts.total)
        n_obs = round(float(total.count[0]))
        checks = self._checks(answers.overall, total, shift)
        count = len(self.hosts)
        return tuple(levels[f] for f in range(count)), Moments(
            centre=shift,
            total=total,
            factors=tuple(parts[f] for f in range(count)),
            pairs=pairs,
            n_rows=int(answers.overall["n_rows"]),
            n_obs=n_obs,
            log_weights=float(answers.overall.get("log_weights", 0.0)),
            checks=checks,
        )

    def _finer(self, f: int, g: int) -> int | None:
        """The one of two factors whose levels are pairs of levels of both: its keys contain the other's."""
        a, b = (set(self.recipe.factors[h].keys) for h in (f, g))
        return g if a < b else f if b < a else None

    def _base(self, shift: Vec) -> pl.LazyFrame:
        """Columns v0 …, with weights x0 …, and all products pa_b that any query sums; weights w and f, keys."""
        source = self.source
        values = [
            (source.expression(node) - c if c else source.expression(node)).alias(f"v{j}")
            for j, (node, c) in enumerate(zip(self.nodes, shift, strict=True))
        ]
        keys = dict.fromkeys(name for factor in self.recipe.factors for name in factor.keys)
        weight = source.weight()
        own = [] if weight is None else [weight.alias("w")]
        if source.precision is not None:
            own.append(source.expression(Reference(source.precision)).alias("precision"))
        if source.frequency is not None:
            own.append(source.expression(Reference(source.frequency)).alias("f"))
        if self._raw_response:
            own.append(source.expression(self.recipe.response.success).alias("y"))
        base = source.rows.select(*values, *own, *(pl.col(name).alias(_KEY + name) for name in keys))
        if weight is not None:
            base = base.with_columns((pl.col("w") * pl.col(f"v{j}")).alias(f"x{j}") for j in range(self.k))
        x = "v" if weight is None else "x"
        return base.with_columns(
            (pl.col(f"{x}{a}") * pl.col(f"v{b}")).alias(_pair(a, b)) for a in range(self.k) for b in range(a, self.k)
        )

    @property
    def _weighted(self) -> bool:
        return self.source.weight() is not None

    @property
    def _raw_response(self) -> bool:
        """Whether the fingerprint of the response does not follow from the moments."""
        return self.recipe.predictor("mu").offset is not None or self.source.precision is not None

    def _sums(self, layout: Layout) -> list[pl.Expr]:
        columns = layout.columns
        products = {
            _pair(columns[a], columns[b]) for a in layout.left for b in layout.right
        }
        return [*self._counts(), *self._firsts(columns), *(pl.sum(name) for name in sorted(products))]

    def _counts(self) -> list[pl.Expr]:
        """weight = Σ w, and count = Σ f where that is something else."""
        if not self._weighted:
            return [pl.len().alias("weight")]
        weight = [pl.sum("w").alias("weight")]
        if self.source.precision is None:
            return weight
        return [*weight, (pl.len() if self.source.frequency is None else pl.sum("f")).alias("count")]

    def _firsts(self, columns: IntVec) -> list[pl.Expr]:
        x = "x" if self._weighted else "v"
        return [pl.sum(f"{x}{j}").alias(f"s{j}") for j in columns]

    def _overall(self) -> list[pl.Expr]:
        """Totals that no factor's sums give, and what a fingerprint needs."""
        covered = {_pair(a, b) for own in self.layouts.slopes for a in own for b in range(self.k)}
        every = {_pair(a, b) for a in range(self.k) for b in range(a, self.k)}
        asked = [pl.len().alias("n_rows"), *(pl.sum(name) for name in sorted(every - covered))]
        if not self.hosts:
            asked += [*self._counts(), *self._firsts(np.arange(self.k))]
        f = pl.col("f") if self.source.frequency is not None else pl.lit(1.0)
        if self.source.precision is not None:
            asked.append((f * pl.col("precision").log()).sum().alias("log_weights"))
        if self._raw_response:
            asked += [(f * pl.col("y")).sum().alias("fy"), (f * pl.col("y") * pl.col("y")).sum().alias("fyy")]
        return asked

    def _level_moments(self, frame: pl.DataFrame, layout: Layout) -> LevelMoments:
        columns = layout.columns

        def take(name: str) -> Vec:
            return frame[name].cast(pl.Float64).to_numpy()

        weight = take("weight")
        count = take("count") if "count" in frame.columns else weight
        sums = np.array([take(f"s{j}") for j in columns]).reshape(len(columns), len(weight))
        products = [[take(_pair(columns[a], columns[b])) for b in layout.right] for a in layout.left]
        cube = np.array(products).reshape(len(layout.left), len(layout.right), len(weight))
        return about_means(layout, weight, count, sums, cube)

    def _checks(self, overall: Mapping[str, float], total: LevelMoments, shift: Vec) -> Checks:
        if self._raw_response:
            precision = 0.0 if self.source.precision is None else float(total.weight[0])
            return Checks(overall["fy"], overall["fyy"], precision)
        n, mean = float(total.weight[0]), float(shift[-1] + total.mean[-1, 0])
        return Checks(n * mean, float(total.second[-1, -1, 0]) + n * mean**2, 0.0)


def _pair(a: int, b: int) -> str:
    return f"p{min(a, b)}_{max(a, b)}"


def _keys(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    return frame.select(pl.col(_KEY + name).alias(name) for name in keys)


def _only(part: LevelMoments, layout: Layout) -> LevelMoments:
    """The moments of a factor with fewer slopes."""
    rows = np.searchsorted(part.left, layout.left)
    return LevelMoments(*layout, part.weight, part.count, part.mean, part.second[rows])


def _pair_of(part: LevelMoments, layout: Layout) -> LevelMoments:
    """The moments of pairs that are the levels of the finer factor."""
    known = {int(a): row for row, a in enumerate(part.left)}
    left, right = layout.columns[layout.left], layout.columns[layout.right]
    second = np.empty((len(left), len(right), part.n_levels))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            second[i, j] = part.second[known[a], b] if int(a) in known else part.second[known[b], a]
    return LevelMoments(*layout, part.weight, part.count, part.mean[layout.columns], second)


def _finite(moments: Moments) -> bool:
    total: Mat = moments.total.second
    return bool(np.isfinite(total.sum()) and np.isfinite(moments.total.mean.sum()) and np.isfinite(moments.n_obs))


def _refuse_not_finite(sketch: Outline, source: Source) -> None:
    """Raise ColumnError for the first expression that is not finite, else for squares that are too large."""
    for node, text in sketch.checked:
        source.refuse_not_finite(node, text)
    msg = "Squares of a column are too large for floating-point numbers: rescale the columns of the model."
    raise ColumnError(msg)
