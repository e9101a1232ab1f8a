"""A lazy frame as the rows of a model: which are used, and where the first row is that cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.columns.named import as_found, column, columns
from polars_glmm.columns.nodes import Node, Reference
from polars_glmm.columns.operators import Expressions
from polars_glmm.errors import ColumnError, DataChangedError
from polars_glmm.frames.batches import batches
from polars_glmm.frames.facts import Fact, count_labels, of_labels
from polars_glmm.frames.held import in_memory
from polars_glmm.frames.missing import MOST_OF_A_ROW, NO_WEIGHT, Incomplete, dropped_rows, refuse_weight
from polars_glmm.frames.table import NO_ROWS, refuse_infinite, refuse_not_finite, refuse_objects, require_columns
from polars_glmm.spec.members import NO_GAPS, Gaps
from polars_glmm.spec.model import ModelSpec

_ROW = "__glmm_row"
_TOGETHER = pl.QueryOptFlags(comm_subplan_elim=not pl.__version__.startswith("1.44."))
"""Rows in use are found once for all queries, but not by Polars 1.44, which panics at it (pola-rs/polars#28945)."""
Query: TypeAlias = Any
"""A lazy frame of the library that a source speaks."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The columns in use of a lazy frame. Nothing is read before something is asked.

    What is asked is written in expressions of `library`, which are those of Polars here and of narwhals for a frame
    that another engine holds (frames.engine_source), and answered in small frames of Polars.

    frame                  projected to the columns in use;  dtypes of these
    frequency, precision   names of the columns that weigh rows, or None
    tried                  the number of trials, without which a row is not used, or None
    fixed                  whether the frame is rows in memory, which every reading finds again
    facts                  what an earlier reading found, to be found again by a census
    optional               columns that may be missing in a row that counts
    """

    frame: pl.LazyFrame
    dtypes: Mapping[str, pl.DataType]
    frequency: str | None = None
    precision: str | None = None
    tried: Node | None = None
    fixed: bool = False
    facts: tuple[Fact, ...] = ()
    optional: Gaps = NO_GAPS
    sets_aside: ClassVar[bool] = True
    """Whether a group_by over many levels in no order sets aside more than its answer."""

    @classmethod
    def of(cls, spec: ModelSpec, frame: pl.LazyFrame) -> Source:
        """The source of a resolved model. Raises ColumnError for a column the frame does not have."""
        schema = frame.collect_schema()
        used = spec.columns()
        require_columns(used, schema.names(), spec.beside_columns)
        refuse_objects(used, schema)
        dtypes = {name: schema[name] for name in used}
        return cls(
            frame.select(map(as_found, used)), dtypes, spec.frequency, spec.precision, fixed=in_memory(frame),
            optional=spec.gaps,
        )  # fmt: skip

    def expression(self, node: Node) -> Any:
        """A node as Float64 over rows without missing values."""
        return node.compile(Expressions(self.dtypes))

    @property
    def library(self) -> Any:
        """Whose expressions its queries are made of."""
        return pl

    @property
    def most_columns(self) -> int:
        """Columns beyond which a query of all their products is out of the question."""
        return 1 << 10

    def column(self, name: str) -> Any:
        """A column as its values are."""
        return column(name)

    def answers(self, queries: Sequence[Query]) -> list[pl.DataFrame]:
        """The small answers of queries, together."""
        return pl.collect_all(list(queries), engine="streaming", optimizations=_TOGETHER)

    def answer(self, query: Query) -> pl.DataFrame:
        """The small answer of one query."""
        found: pl.DataFrame = query.collect(engine="streaming")
        return found

    def first(self, query: Query, n: int) -> pl.DataFrame:
        """The first rows of a query."""
        found: pl.DataFrame = query.head(n).collect()
        return found

    def count(self) -> Any:
        """The number of rows, as a column of sums."""
        return pl.len().cast(pl.Float64)

    def totals(self, rows: Query, values: Mapping[str, Any], aggregates: Sequence[Any] = ()) -> Query:
        """One row: aggregates of the columns of a query, and the sums of further expressions of them."""
        return rows.select(*aggregates, *(value.sum().alias(name) for name, value in values.items()))

    def count_rows(self) -> int:
        """How many rows there are, used or not."""
        return int(self.frame.select(pl.len()).collect().item())

    def labels(self, name: str) -> Query:
        """The labels of a column in use with the rows of each."""
        return count_labels(self.rows, name)

    def levels_of(self, keys: Sequence[str], count: str) -> pl.DataFrame:
        """The different values of some columns in the rows in use, and the rows of each in a column `count`."""
        return self.answer(self.rows.group_by(map(column, keys)).agg(pl.len().alias(count)))

    def fact_of_labels(self, found: pl.DataFrame, name: str) -> Fact:
        """What an answer to `labels` says, to be found again."""
        return of_labels(found, name)

    def finding(self, facts: tuple[Fact, ...], checked: Sequence[tuple[Node, str]]) -> Source:  # noqa: ARG002
        """The source whose census finds facts again; `checked` nodes that sums show not to be finite."""
        return self if self.fixed else replace(self, facts=facts)

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """The columns in use, some rows at a time."""
        return batches(self.frame, rows, contiguous=False)

    def of_rows(self, rows: pl.DataFrame) -> Source:
        """The same asked of some of the rows, in memory."""
        return replace(self, frame=rows.lazy())

    @property
    def complete(self) -> Any:
        """Rows without null or NaN in any column."""
        return ~pl.any_horizontal(self.gaps().values())

    def gaps(self) -> dict[str, pl.Expr]:
        """Where columns are null or NaN; an end of an interval only where both are."""
        return missing_in(self.dtypes, self.optional)

    @property
    def in_use(self) -> Any:
        """Complete rows with frequency, precision and trials above 0."""
        keep = self.complete
        for name in (self.frequency, self.precision):
            if name is not None:
                keep = keep & (self.expression(Reference(name)) > 0)
        return keep if self.tried is None else keep & (self.expression(self.tried) > 0)

    @property
    def rows(self) -> Any:
        """The rows in use."""
        return self.frame.filter(self.in_use)

    def shared(self) -> Source:
        """The same, for queries of one collect_all: the frame runs once for all of them."""
        return replace(self, frame=self.frame.cache())

    def floats(self) -> list[str]:
        """Columns that can hold infinity by mistake."""
        ends = self.optional.ends or ()
        return [name for name, dtype in self.dtypes.items() if dtype.is_float() and name not in ends]

    def weight(self) -> Any:
        """w = frequency · precision, or None where every row has 1."""
        parts = [self.expression(Reference(name)) for name in (self.frequency, self.precision) if name is not None]
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else parts[0] * parts[1]

    def census(self) -> Query:
        """One row: how many rows, how many complete, how many infinite values in each column, how many bad weights."""
        asked = [pl.len().alias("rows"), self.complete.sum().alias("complete")]
        asked += [column(name).is_infinite().any().alias(f"infinite:{name}") for name in self.floats()]
        asked += [(bad & self.complete).any().alias(f"bad:{argument}") for argument, bad in self._bad_weights().items()]
        return self.frame.select([*asked, *self._recounts()])

    def _recounts(self) -> list[Any]:
        """The sums that facts are of, over rows in use."""
        return [pl.when(self.in_use).then(self._of(fact)).sum().alias(fact.name) for fact in self.facts]

    def recounted(self, rows: pl.DataFrame) -> tuple[float, ...]:
        """What the facts are sums of, summed over some of the rows."""
        return rows.select(self._recounts()).row(0) if self.facts else ()

    def _of(self, fact: Fact) -> Any:
        """What a fact is the sum of."""
        return self.expression(fact.value) if isinstance(fact.value, Node) else fact.value

    def refuse_changed(self, census: Mapping[str, Any], weight: float | None = None) -> None:  # noqa: ARG002
        """Raise DataChangedError where a census does not find the facts again.

        weight   of the rows in use by the other answers, where their queries do not share one scan with the census
        """
        for fact in self.facts:
            if not fact.holds(census[fact.name]):
                msg = (
                    f"The source gave other rows when it was read again: {fact.name} differs. Collect it, or write it "
                    "to a file, before it is fitted."
                )
                raise DataChangedError(msg)

    def judge(self, census: Mapping[str, Any]) -> Incomplete | None:
        """What a census says of missing values. Raises ColumnError for infinite values and weights that are none."""
        if not census["rows"]:
            raise ColumnError(NO_ROWS)
        for name in self.floats():
            if census[f"infinite:{name}"]:
                self.refuse_infinite(name)
        for argument, bad in self._bad_weights().items():
            if census[f"bad:{argument}"]:
                self.refuse_bad_weight(argument, bad)
        n = int(census["rows"] - (census["complete"] or 0))
        return self._incomplete(n, int(census["rows"])) if n else None

    def refuse_bad_weight(self, argument: str, bad: Any) -> None:
        """Raise ColumnError for the first row in use whose weight is none."""
        name = getattr(self, argument)
        row, value = self._first(self.complete & bad, name)
        refuse_weight(argument, name, float(value), row)

    def refuse_infinite(self, name: str) -> None:
        """Raise ColumnError if a column has an infinite value."""
        infinite = column(name).is_infinite()
        n = self.frame.select(infinite.sum()).collect().item()
        if n:
            refuse_infinite(name, self._first(infinite, name)[0], int(n))

    def refuse_not_finite(self, node: Node, text: str) -> None:
        """Raise ColumnError if a node is infinite or not a number in a row in use."""
        value = self.expression(node)
        bad = ~value.is_finite()
        named = sorted(node.inputs())
        seen = [pl.col(_ROW), *columns(named), value.alias("__glmm_value")]
        found = (
            self.frame.with_row_index(_ROW)
            .filter(self.in_use & bad)
            .select(pl.len().alias("n"), pl.struct(seen).first().alias("first"))
            .collect()
            .row(0, named=True)
        )
        if found["n"]:
            first = found["first"]
            at = {name: first[name] for name in named}
            refuse_not_finite(text, float(first["__glmm_value"]), int(first[_ROW]), at, int(found["n"]))

    def refuse_empty(self) -> NoReturn:
        """Raise the ColumnError that tells why no row is in use."""
        found = self.judge(self.answer(self.census()).row(0, named=True))
        if found is not None and found.n == found.n_rows:
            dropped_rows(found, "drop")
        raise ColumnError(NO_WEIGHT)

    def _bad_weights(self) -> dict[str, Any]:
        bad = {}
        if self.frequency is not None:
            f = self.expression(Reference(self.frequency))
            bad["frequency"] = no_frequency(f)
        if self.precision is not None:
            bad["precision"] = self.expression(Reference(self.precision)) < 0
        return bad

    def _incomplete(self, n: int, n_rows: int) -> Incomplete:
        missing = self.gaps()
        asked = self.frame.select(
            *(expression.any().alias(f"any:{name}") for name, expression in missing.items()),
            *(column(name).is_null().all().alias(f"all:{name}") for name in missing),
        ).collect()
        found = asked.row(0, named=True)
        where = tuple(name for name in missing if found[f"any:{name}"])
        empty = tuple(name for name in missing if found[f"all:{name}"])
        return Incomplete(n, n_rows, self._first(~self.complete)[0], where, empty)

    def _first(self, where: pl.Expr, name: str | None = None) -> tuple[int, Any]:
        """The first row that satisfies a condition, and the value of a column there."""
        asked = [pl.col(_ROW), *([column(name)] if name else [])]
        taken = self.frame.with_row_index(_ROW).filter(where).select(asked).head(1).collect()
        return int(taken[_ROW][0]), taken[name][0] if name else np.nan


class Recount:
    """The facts of a source, found again as its rows come by."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._totals: list[float] = [0] * len(source.facts)

    def add(self, rows: pl.DataFrame) -> None:
        """Some more of the rows."""
        self.found(self._source.recounted(rows))

    def found(self, sums: Sequence[float]) -> None:
        """What was recounted of some more of the rows."""
        self._totals = [a + b for a, b in zip(self._totals, sums, strict=True)]

    def refuse_changed(self) -> None:
        """Raise DataChangedError where all rows have not given the facts again."""
        self._source.refuse_changed(dict(zip((fact.name for fact in self._source.facts), self._totals, strict=True)))


def missing_in(dtypes: Mapping[str, pl.DataType], optional: Gaps = NO_GAPS) -> dict[str, pl.Expr]:
    """Where each column is null or NaN, never null itself.

    An end of an interval only where both ends are, a column of a slot only where the slot is used.
    """
    gaps = {}
    for name, dtype in dtypes.items():
        gap = column(name).is_null()
        gaps[name] = gap | column(name).is_nan().fill_null(value=False) if dtype.is_float() else gap
    if optional.slots:
        gaps |= _slots_missing(dtypes, gaps, optional.slots)
    if optional.ends is not None:
        lower, upper = optional.ends
        both = pl.lit(value=False) if lower is None else gaps[lower] & gaps[upper]
        gaps |= dict.fromkeys((upper,) if lower is None else (lower, upper), both)
    return gaps


def _slots_missing(
    dtypes: Mapping[str, pl.DataType], gaps: Mapping[str, pl.Expr], slots: tuple[tuple[str, str], ...]
) -> dict[str, pl.Expr]:
    """Where a slot has a weight and no key, or a key and no weight."""
    found: dict[str, pl.Expr] = {}
    for key, weight in slots:
        if not dtypes[weight].is_numeric():
            continue  # to be said where it is read
        without = gaps[key] & ~gaps[weight] & (column(weight) != 0)
        for name, gap in ((key, without), (weight, gaps[weight] & ~gaps[key])):
            found[name] = found[name] | gap if name in found else gap
    return found


def no_frequency(f: Any) -> Any:
    """Where a number cannot say how many rows a row stands for."""
    return (f < 0) | (f > MOST_OF_A_ROW) | (f != f.floor())
