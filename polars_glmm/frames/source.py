"""A lazy frame as the rows of a model: which are used, and where the first row is that cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import polars as pl

from polars_glmm.columns.named import as_found, column, columns
from polars_glmm.columns.nodes import Node, Reference
from polars_glmm.columns.operators import Expressions
from polars_glmm.errors import ColumnError, DataChangedError
from polars_glmm.frames.facts import Fact
from polars_glmm.frames.held import in_memory
from polars_glmm.frames.missing import NO_WEIGHT, Incomplete, dropped_rows, refuse_weight
from polars_glmm.frames.table import NO_ROWS, Ends, refuse_infinite, refuse_not_finite, require_columns
from polars_glmm.spec.model import ModelSpec

_ROW = "__glmm_row"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The columns in use of a lazy frame. Nothing is read before something is asked.

    frame                  projected to the columns in use;  dtypes of these
    frequency, precision   names of the columns that weigh rows, or None
    tried                  the number of trials, without which a row is not used, or None
    fixed                  whether the frame is rows in memory, which every reading finds again
    facts                  what an earlier reading found, to be found again by a census
    ends                   two columns of which one may be missing, or infinite
    """

    frame: pl.LazyFrame
    dtypes: Mapping[str, pl.DataType]
    frequency: str | None = None
    precision: str | None = None
    tried: Node | None = None
    fixed: bool = False
    facts: tuple[Fact, ...] = ()
    ends: Ends = None

    @classmethod
    def of(cls, spec: ModelSpec, frame: pl.LazyFrame) -> Source:
        """The source of a resolved model. Raises ColumnError for a column the frame does not have."""
        schema = frame.collect_schema()
        used = spec.columns()
        require_columns(used, schema.names())
        dtypes = {name: schema[name] for name in used}
        return cls(
            frame.select(map(as_found, used)), dtypes, spec.frequency, spec.precision, fixed=in_memory(frame),
            ends=spec.response.ends,
        )  # fmt: skip

    def expression(self, node: Node) -> pl.Expr:
        """A node as Float64 over rows without missing values."""
        expression: pl.Expr = node.compile(Expressions(self.dtypes))
        return expression

    @property
    def complete(self) -> pl.Expr:
        """Rows without null or NaN in any column."""
        return ~pl.any_horizontal(self.gaps().values())

    def gaps(self) -> dict[str, pl.Expr]:
        """Where columns are null or NaN; an end of an interval only where both are."""
        return missing_in(self.dtypes, self.ends)

    @property
    def in_use(self) -> pl.Expr:
        """Complete rows with frequency, precision and trials above 0."""
        keep = self.complete
        for name in (self.frequency, self.precision):
            if name is not None:
                keep = keep & (self.expression(Reference(name)) > 0)
        return keep if self.tried is None else keep & (self.expression(self.tried) > 0)

    @property
    def rows(self) -> pl.LazyFrame:
        """The rows in use."""
        return self.frame.filter(self.in_use)

    def shared(self) -> Source:
        """The same, for queries of one collect_all: the frame runs once for all of them."""
        return replace(self, frame=self.frame.cache())

    def floats(self) -> list[str]:
        """Columns that can hold infinity by mistake."""
        return [name for name, dtype in self.dtypes.items() if dtype.is_float() and name not in (self.ends or ())]

    def weight(self) -> pl.Expr | None:
        """w = frequency · precision, or None where every row has 1."""
        parts = [self.expression(Reference(name)) for name in (self.frequency, self.precision) if name is not None]
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else parts[0] * parts[1]

    def census(self) -> pl.LazyFrame:
        """One row: how many rows, how many complete, how many infinite values in each column, how many bad weights."""
        asked = [pl.len().alias("rows"), self.complete.sum().alias("complete")]
        asked += [column(name).is_infinite().any().alias(f"infinite:{name}") for name in self.floats()]
        asked += [(bad & self.complete).any().alias(f"bad:{argument}") for argument, bad in self._bad_weights().items()]
        asked += [pl.when(self.in_use).then(fact.value).sum().alias(fact.name) for fact in self.facts]
        return self.frame.select(asked)

    def refuse_changed(self, census: Mapping[str, Any]) -> None:
        """Raise DataChangedError where a census does not find the facts again."""
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
                name = getattr(self, argument)
                row, value = self._first(self.complete & bad, name)
                refuse_weight(argument, name, float(value), row)
        n = int(census["rows"] - census["complete"])
        return self._incomplete(n, int(census["rows"])) if n else None

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
        found = self.judge(self.census().collect().row(0, named=True))
        if found is not None and found.n == found.n_rows:
            dropped_rows(found, "drop")
        raise ColumnError(NO_WEIGHT)

    def _bad_weights(self) -> dict[str, pl.Expr]:
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


def missing_in(dtypes: Mapping[str, pl.DataType], ends: Ends = None) -> dict[str, pl.Expr]:
    """Where each column is null or NaN, never null itself; an end of an interval only where both ends are."""
    gaps = {}
    for name, dtype in dtypes.items():
        gap = column(name).is_null()
        gaps[name] = gap | column(name).is_nan().fill_null(value=False) if dtype.is_float() else gap
    if ends is not None:
        lower, upper = ends
        both = pl.lit(value=False) if lower is None else gaps[lower] & gaps[upper]
        gaps |= dict.fromkeys((upper,) if lower is None else (lower, upper), both)
    return gaps


def no_frequency(f: pl.Expr) -> pl.Expr:
    """Where a number cannot say how many rows a row stands for."""
    return (f < 0) | (f != f.round())
