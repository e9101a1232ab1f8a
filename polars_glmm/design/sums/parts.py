"""Sums of more rows than one query should hold: part by part, each by the same queries, the sums added.

Polars' streaming group_by keeps what it sets aside for levels it meets again and again: with many levels in no order
its memory grows with the rows (1e8 rows, 1e6 levels: 4.6 GiB; in parts 0.6). So beyond some size the rows go by in
parts of a few million. With few levels, or rows in the order of groups, one query holds little and is quickest.

Many columns have too many products for a query: they too go by in parts, and their products are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import polars as pl

from polars_glmm import progress
from polars_glmm.design.sums.queries import KEY, QueriedSums, SumQueries, product_name
from polars_glmm.frames.aggregates import aggregated, computed
from polars_glmm.frames.source import Source
from polars_glmm.typing import Vec

MOST_BYTES = 1 << 30
"""What sums set aside for later may take before rows go by in parts."""
MANY_COLUMNS = 32
"""Columns beyond which a matrix product is quicker than a query of all products."""
_PART = 1 << 22
_BATCH = 1 << 19
_SLACK = 3
Collect: TypeAlias = Callable[[Vec], QueriedSums]


def way(queries: SumQueries) -> tuple[Vec, Collect]:
    """Where to count columns from, and how to sum: in one query, or in parts."""
    look = queries.look()
    if _dense(queries):
        return look.shift, lambda shift: collect_in_parts(queries, shift)
    if look.scattered and queries.source.sets_aside:
        n_rows = queries.source.count_rows()
        if n_rows * queries.row_bytes() > MOST_BYTES:
            return look.shift, lambda shift: collect_in_parts(queries, shift, n_rows)
    return look.shift, queries.ask


def collect_in_parts(queries: SumQueries, shift: Vec, n_rows: int | None = None) -> QueriedSums:
    """What `queries.ask` gives, at no time with more than some million rows and a few sums per level."""
    total: _Total | None = None
    dense = _dense(queries)
    rows = max(_PART * MANY_COLUMNS // queries.k // 4, 1) if dense else _PART
    with progress.stage("reading", n_rows):
        for part in _parts(queries.source, rows):
            own = replace(queries, source=queries.source.of_rows(part))
            answers = _multiplied(own, shift) if dense else own.ask(shift)
            progress.advance(part.height)
            if total is None:
                total = _Total(answers)
            else:
                total.add(answers)
    return queries.ask(shift) if total is None else total.answers()


def _dense(queries: SumQueries) -> bool:
    """Whether there are too many columns for a query of all products."""
    return queries.k > min(MANY_COLUMNS, queries.source.most_columns)


def _multiplied(queries: SumQueries, shift: Vec) -> QueriedSums:
    """The answers of rows in memory, the products in total by one matrix product."""
    base = computed(queries.base(shift))
    answers = queries.sums(base.lazy(), queries.extras())
    v = base.select(f"v{j}" for j in range(queries.k)).to_numpy()
    gram = v.T @ (v if "w" not in base.columns else v * base["w"].to_numpy()[:, None])
    products = {product_name(a, b): float(gram[a, b]) for a in range(queries.k) for b in range(a, queries.k)}
    return answers._replace(totals={**answers.totals, **products})


def _parts(source: Source, rows: int) -> Iterator[pl.DataFrame]:
    waiting: list[pl.DataFrame] = []
    for batch in source.batches(min(_BATCH, rows)):
        waiting.append(batch)
        if sum(one.height for one in waiting) >= rows:
            yield pl.concat(waiting)
            waiting = []
    if waiting:
        yield pl.concat(waiting)


class _Total:
    """Sums of parts, added as they come; frames of sums are kept apart until there are too many rows of them."""

    def __init__(self, first: QueriedSums) -> None:
        self._census = dict(first.census)
        self._totals = dict(first.totals)
        self._factors = {f: _Frames(frame) for f, frame in first.factors.items()}
        self._pairs = {pair: _Frames(frame) for pair, frame in first.pairs.items()}

    def add(self, answers: QueriedSums) -> None:
        for mine, other in ((self._census, answers.census), (self._totals, answers.totals)):
            _add(mine, other)
        for f, frame in answers.factors.items():
            self._factors[f].add(frame)
        for pair, frame in answers.pairs.items():
            self._pairs[pair].add(frame)

    def answers(self) -> QueriedSums:
        return QueriedSums(
            self._census,
            self._totals,
            {f: frames.summed() for f, frames in self._factors.items()},
            {pair: frames.summed() for pair, frames in self._pairs.items()},
        )


def _add(mine: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Sums and counts add; of flags one is enough."""
    for name, value in other.items():
        before = mine[name]
        mine[name] = (before or value) if isinstance(value, bool) or value is None else before + value


class _Frames:
    """Frames of keys and sums that are to be added level by level."""

    def __init__(self, first: pl.DataFrame) -> None:
        self._waiting = [first]
        self._largest = first.height

    def add(self, frame: pl.DataFrame) -> None:
        self._waiting.append(frame)
        if sum(one.height for one in self._waiting) > _SLACK * self._largest:
            summed = self.summed()
            self._waiting, self._largest = [summed], summed.height

    def summed(self) -> pl.DataFrame:
        """One row per level."""
        if len(self._waiting) == 1:
            return self._waiting[0]
        together = pl.concat(self._waiting).lazy()
        keys = [name for name in self._waiting[0].columns if name.startswith(KEY)]
        sums = pl.exclude(keys).cast(pl.Float64).sum()
        return aggregated(together.group_by(keys).agg(sums))
