"""The queries behind the moments of a model: a group_by per factor and per pair of factors, one select, one scan.

Products stand as columns before group_by().agg(sum), each once; what only the totals need is summed in the select, or
rides along with the first factor where that is little (a select of its own costs about 30 ns a row, a sum by group 6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.nodes import Node, Reference
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.sums.moments import Layout
from polars_glmm.design.sums.places import Layouts, columns_of, layouts_of
from polars_glmm.frames.source import Query, Source
from polars_glmm.typing import IntVec, Vec

_HEAD = 1000
_NEAR = 3.0
"""A mean of so few standard deviations costs a digit: not worth a subtraction in every row."""
_RIDERS = 4
_SCATTERED = 0.3 * _HEAD
KEY = "key:"


class QueriedSums(NamedTuple):
    """What the queries gave: a census, totals by name, and a frame per factor and pair asked for, sums beside keys."""

    census: Mapping[str, Any]
    totals: Mapping[str, float]
    factors: dict[int, pl.DataFrame]
    pairs: dict[tuple[int, int], pl.DataFrame]


class Glimpse(NamedTuple):
    """From the first rows: numbers near the means (k,), 0 where a mean is small against the spread; and their groups.

    groups   distinct levels of the factor that has most of them
    """

    shift: Vec
    groups: int

    @property
    def scattered(self) -> bool:
        """Whether almost every row meets another level: many levels, in no order."""
        return self.groups > _SCATTERED


@dataclass(frozen=True, slots=True, eq=False)
class SumQueries:
    """Which sums are asked of which query.

    hosts   per factor the finer one from whose levels its own follow, or None
    """

    recipe: Recipe
    source: Source
    nodes: tuple[Node, ...]
    layouts: Layouts
    hosts: tuple[int | None, ...]

    @classmethod
    def of(cls, recipe: Recipe, source: Source) -> SumQueries:
        layouts = layouts_of(recipe)
        keys, slopes = [frozenset(factor.keys) for factor in recipe.factors], layouts.slopes

        def host(f: int) -> int | None:
            finer = [g for g in range(len(keys)) if keys[f] < keys[g] and set(slopes[f]) <= set(slopes[g])]
            return max(finer, key=lambda g: len(keys[g]), default=None)

        return cls(recipe, source, columns_of(recipe), layouts, tuple(host(f) for f in range(len(keys))))

    @property
    def k(self) -> int:
        return len(self.nodes)

    @property
    def factors(self) -> list[int]:
        """Factors that are asked for."""
        return [f for f, host in enumerate(self.hosts) if host is None]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of factors that are asked for: those of which neither is finer than the other."""
        return [(f, g) for f, g in combinations(range(len(self.hosts)), 2) if self.finer(f, g) is None]

    def finer(self, f: int, g: int) -> int | None:
        """The one of two factors whose levels are the pairs of levels of both: its keys contain the other's."""
        a, b = (set(self.recipe.factors[h].keys) for h in (f, g))
        return g if a < b else f if b < a else None

    def look(self) -> Glimpse:
        """What the first rows in use tell."""
        asked = [self.source.expression(node).alias(f"v{j}") for j, node in enumerate(self.nodes)]
        keys = dict.fromkeys(name for factor in self.recipe.factors for name in factor.keys)
        labels = (self.source.column(name).alias(KEY + name) for name in keys)
        head = self.source.first(self.source.rows.select(*asked, *labels), _HEAD)
        shift = np.zeros(self.k)
        for j in range(self.k):
            values = head[f"v{j}"].filter(head[f"v{j}"].is_finite()).to_numpy()
            if len(values):
                with np.errstate(over="ignore"):  # squares too large are refused when they are summed
                    mean, spread = float(values.mean()), float(values.std())
                if values.min() == values.max():
                    mean, spread = float(values[0]), 0.0
                shift[j] = mean if abs(mean) > _NEAR * spread else 0.0
        groups = [head.select(KEY + name for name in self.recipe.factors[f].keys).n_unique() for f in self.factors]
        return Glimpse(shift, max(groups, default=0))

    def row_bytes(self) -> int:
        """Bytes of all sums that one row adds to."""
        layouts = [*(self.layouts.factors[f] for f in self.factors), *(self.layouts.pairs[pair] for pair in self.pairs)]
        return sum(8 * (2 + len(own.columns) + len(own.left) * len(own.right)) for own in layouts)

    def ask(self, shift: Vec) -> QueriedSums:
        """All sums, of columns counted from `shift`."""
        own = replace(self, source=self.source.shared())
        return own.sums(own.base(shift), own.products_in_total() | own.extras())

    def sums(self, base: Query, riders: Mapping[str, Any]) -> QueriedSums:
        """All sums of the columns of `base`, and of others that are asked for in total only."""
        queries = {"census": self.source.census()}
        ride = bool(self.factors) and len(riders) <= _RIDERS
        if not ride:
            total = [] if self.factors else [*self._counts(), *self._firsts(np.arange(self.k))]
            queries["overall"] = self.source.totals(base, riders, total)
        for f in self.factors:
            own = riders if ride and f == self.factors[0] else {}
            queries[f"{f}"] = self._grouped(base, [f], self.layouts.factors[f], own)
        for f, g in self.pairs:
            queries[f"{f},{g}"] = self._grouped(base, [f, g], self.layouts.pairs[f, g], {})
        found = dict(zip(queries, self.source.answers(list(queries.values())), strict=True))
        totals = {} if ride else dict(found["overall"].row(0, named=True))
        for f in self.factors:
            sums = [name for name in found[f"{f}"].columns if not name.startswith(KEY)]
            totals |= found[f"{f}"].select(pl.col(sums).cast(pl.Float64).sum()).row(0, named=True)
        return QueriedSums(
            found["census"].row(0, named=True),
            totals,
            {f: found[f"{f}"] for f in self.factors},
            {(f, g): found[f"{f},{g}"] for f, g in self.pairs},
        )

    def _grouped(self, base: Query, factors: Sequence[int], layout: Layout, riders: Mapping[str, Any]) -> Query:
        keys = dict.fromkeys(KEY + name for f in factors for name in self.recipe.factors[f].keys)
        columns = layout.columns
        products = self._products((columns[a], columns[b]) for a in layout.left for b in layout.right)
        products |= riders
        made = base.with_columns(value.alias(name) for name, value in products.items()) if products else base
        sums = (self._column(name).sum() for name in products)
        return made.group_by(list(keys)).agg(*self._counts(), *self._firsts(columns), *sums)

    def base(self, shift: Vec) -> Query:
        """Keys, columns v0 …, w·v as x0 … where rows are weighted, and what weighs them."""
        source = self.source
        values = [
            (source.expression(node) - c if c else source.expression(node)).alias(f"v{j}")
            for j, (node, c) in enumerate(zip(self.nodes, shift.tolist(), strict=True))
        ]
        keys = dict.fromkeys(name for factor in self.recipe.factors for name in factor.keys)
        weight = source.weight()
        own = [] if weight is None else [weight.alias("w")]
        if source.precision is not None:
            own.append(source.expression(Reference(source.precision)).alias("precision"))
        if source.frequency is not None:
            own.append(source.expression(Reference(source.frequency)).alias("f"))
        if self.raw_response:
            own.append(source.expression(self.recipe.response.success).alias("y"))
        base = source.rows.select(*values, *own, *(source.column(name).alias(KEY + name) for name in keys))
        if weight is None:
            return base
        w = self._column("w")
        return base.with_columns((w * self._column(f"v{j}")).alias(f"x{j}") for j in range(self.k))

    @property
    def raw_response(self) -> bool:
        """Whether the fingerprint of the response does not follow from the moments."""
        return self.recipe.predictor("mu").offset is not None or self.source.precision is not None

    @property
    def _x(self) -> str:
        return "v" if self.source.weight() is None else "x"

    def _column(self, name: str) -> Any:
        """A column of `base`."""
        return self.source.library.col(name)

    def _products(self, pairs: Iterable[tuple[int, int]]) -> dict[str, Any]:
        """Products w·v_a·v_b by name, each once."""
        ordered, x = dict.fromkeys((min(a, b), max(a, b)) for a, b in pairs), self._x
        return {product_name(a, b): self._column(f"{x}{a}") * self._column(f"v{b}") for a, b in ordered}

    def _counts(self) -> list[Any]:
        """weight = Σ w, and count = Σ f where that is something else."""
        source = self.source
        if source.weight() is None:
            return [source.count().alias("weight")]
        weight = [self._column("w").sum().alias("weight")]
        if source.precision is None:
            return weight
        return [*weight, (source.count() if source.frequency is None else self._column("f").sum()).alias("count")]

    def _firsts(self, columns: IntVec) -> list[Any]:
        x = self._x
        return [self._column(f"{x}{j}").sum().alias(f"s{j}") for j in columns]

    def products_in_total(self) -> dict[str, Any]:
        """Products whose totals no factor's sums give: of columns without random effects."""
        covered = {int(a) for f in self.factors for a in self.layouts.slopes[f]}
        rest = [a for a in range(self.k) if a not in covered]
        return self._products((a, b) for a in rest for b in rest if a <= b)

    def extras(self) -> dict[str, Any]:
        """What constants and fingerprint need, where they do not follow from the moments."""
        f = self._column("f") if self.source.frequency is not None else self.source.library.lit(1.0)
        extras = {}
        if self.source.precision is not None:
            extras["log_weights"] = f * self._column("precision").log()
        if self.raw_response:
            y = self._column("y")
            extras |= {"fy": f * y, "fyy": f * y * y}
        return extras


def product_name(a: int, b: int) -> str:
    """Of the sum of w·v_a·v_b."""
    return f"p{min(a, b)}_{max(a, b)}"
