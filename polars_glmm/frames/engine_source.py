"""The rows of a model where an engine holds them: the questions of `Source` in expressions of narwhals.

Products stand as columns before they are summed, and an aggregate stands by itself: PyArrow, pandas and Dask take no
other. Engines add in any order, so answers of one query differ in their last digits from run to run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import polars as pl

from polars_glmm.columns.nodes import ONE, Coded, Node, Reference
from polars_glmm.errors import ColumnError, DataChangedError, counted
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_expressions import EngineExpressions, every, finite
from polars_glmm.frames.facts import Fact, weighed
from polars_glmm.frames.levels import is_label
from polars_glmm.frames.missing import Incomplete, refuse_weight
from polars_glmm.frames.source import Query, Source
from polars_glmm.frames.table import refuse_objects, require_columns
from polars_glmm.spec.model import ModelSpec

_KEY = "key:"
"""Before the name of a column in the answers to queries by group."""
_COUNT = "__glmm_count"
_MOST_LABELS = 200
_ROUNDING = 1e-9
_CHANGED = "The frame gave other rows to one query than to another. Write it to a table or a file before it is fitted."


@dataclass(frozen=True, slots=True, eq=False)
class EngineSource(Source):
    """The columns in use of a frame of an engine; `frame` is a lazy frame of narwhals.

    checked   nodes that must be finite wherever a row is used, which engines that skip NaN in sums would hide
    origin    the frame with all its columns
    """

    checked: tuple[tuple[Node, str], ...] = ()
    origin: EngineFrame | None = None
    sets_aside: ClassVar[bool] = False

    @classmethod
    def on(cls, spec: ModelSpec, frame: EngineFrame) -> EngineSource:
        """The source of a resolved model. Raises ColumnError for a column the frame does not have."""
        used = spec.columns()
        require_columns(used, frame.schema.names(), spec.beside_columns)
        refuse_objects(used, frame.schema)
        dtypes = {name: frame.schema[name] for name in used}
        return cls(
            frame.plan.select(list(used)), dtypes, spec.frequency, spec.precision, optional=spec.gaps, origin=frame
        )

    def beside(self, names: Sequence[str]) -> EngineSource:
        """The source with further columns in use. Raises ColumnError for one of objects."""
        assert self.origin is not None
        used = list(dict.fromkeys((*self.dtypes, *names)))
        refuse_objects(used, self.origin.schema)
        dtypes = {name: self.origin.schema[name] for name in used}
        return replace(self, frame=self.origin.plan.select(used), dtypes=dtypes)

    @property
    def library(self) -> Any:
        import narwhals.stable.v2 as nw  # noqa: PLC0415  for frames of engines only

        return nw

    @property
    def most_columns(self) -> int:
        return 10 if self.origin is not None and self.origin.name == "Dask" else 1 << 10  # 0.1 s a product on Dask

    def expression(self, node: Node) -> Any:
        return node.compile(EngineExpressions())

    def column(self, name: str) -> Any:
        return self.library.col(name)

    def shared(self) -> Source:
        return self

    def answers(self, queries: Sequence[Query]) -> list[pl.DataFrame]:
        return [self.answer(query) for query in queries]

    def answer(self, query: Query) -> pl.DataFrame:
        found: pl.DataFrame = query.collect("polars").to_native()
        casts: dict[str, pl.DataType | type[pl.DataType]] = {}
        for name, dtype in found.schema.items():
            key = self.dtypes.get(name.removeprefix(_KEY)) if name.startswith(_KEY) else None
            if key is not None:
                casts[name] = key
            elif dtype.is_decimal() or dtype == pl.Int128:
                casts[name] = pl.Float64
        return found.cast(casts)  # type: ignore[arg-type]

    def first(self, query: Query, n: int) -> pl.DataFrame:
        return self.answer(query.head(n))

    def count(self) -> Any:
        return self.library.len()

    def totals(self, rows: Query, values: Mapping[str, Any], aggregates: Sequence[Any] = ()) -> Query:
        made = rows.with_columns(**values) if values else rows
        return made.select(*aggregates, *(self.library.col(name).sum() for name in values))

    def count_rows(self) -> int:
        return int(self.answer(self.frame.select(self.library.len().alias(_COUNT))).item())

    def labels(self, name: str) -> Query:
        return self.rows.select(self.column(name)).group_by(name).agg(self.library.len().alias(_COUNT))

    def levels_of(self, keys: Sequence[str], count: str) -> pl.DataFrame:
        named = {key: _KEY + key for key in keys}
        rows = self.rows.select(*(self.column(key).alias(own) for key, own in named.items()))
        found = self.answer(rows.group_by(list(named.values())).agg(self.count().alias(count)))
        return found.rename({own: key for key, own in named.items()})

    def fact_of_labels(self, found: pl.DataFrame, name: str) -> Fact:
        """That labels have the rows they had: rows weighed by label, where labels are few, else the rows alone."""
        dtype, counts = self.dtypes[name], [float(n) for n in found[_COUNT]]
        kind = "text" if is_label(dtype) else "boolean" if dtype == pl.Boolean else "number"
        if len(counts) > _MOST_LABELS or not (dtype.is_numeric() or kind != "number"):
            value: Node = ONE
            weights = (1.0,) * len(counts)
        else:
            labels = tuple((found[name].cast(pl.String) if kind == "text" else found[name]).to_list())
            weights = tuple(1.0 + math.sqrt(k + 2.0) % 1.0 for k in range(len(counts)))
            value = Coded(name, kind, labels, weights)  # type: ignore[arg-type]
        return weighed(f"the labels of column {name!r}", value, list(zip(weights, counts, strict=True)))

    def finding(self, facts: tuple[Fact, ...], checked: Sequence[tuple[Node, str]]) -> Source:
        own = tuple((node, text) for node, text in checked if not isinstance(node, Reference | Coded))
        return replace(self, facts=facts, checked=own)

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """The columns in use, read out. Raises DataChangedError where they are not as many rows as there are."""
        assert self.origin is not None
        wanted, n = self.count_rows(), 0
        for batch in self.origin.rows(list(self.dtypes), rows):
            n += batch.height
            yield batch
        if n != wanted:
            raise DataChangedError(_CHANGED)

    def of_rows(self, rows: pl.DataFrame) -> Source:
        return Source(
            rows.lazy(), self.dtypes, self.frequency, self.precision, self.tried, facts=self.facts,
            optional=self.optional,
        )  # fmt: skip

    @property
    def complete(self) -> Any:
        """Rows without null, NaN or infinity in any column; infinity is refused by `judge`."""
        return every(list(self.known().values()))

    def known(self) -> dict[str, Any]:
        """Where each column holds a value; of the ends of an interval where one of them does."""
        col, floats = self.library.col, set(self.floats())
        known = {
            name: ~col(name).is_null() & finite(col(name)) if name in floats else ~col(name).is_null()
            for name in self.dtypes
        }
        if self.optional.ends is not None:
            lower, upper = self.optional.ends
            if lower is None:
                del known[upper]
            else:
                known[lower] = known[upper] = known[lower] | known[upper]
        return known

    def census(self) -> Query:
        """As of `Source`; also the rows in use, their weight, and in how many each checked node is finite."""
        nw, used = self.library, self.in_use
        flags = {"complete": self.complete, "used": used}
        flags |= {f"infinite:{name}": _infinite(nw.col(name)) for name in self.floats()}
        flags |= {f"bad:{argument}": bad & self.complete for argument, bad in self._bad_weights().items()}
        flags |= {f"finite:{k}": used & finite(self.expression(node)) for k, (node, _) in enumerate(self.checked)}
        weight = self.weight()
        sums = {"weight": nw.when(used).then(nw.lit(1.0) if weight is None else weight)}
        sums |= {fact.name: nw.when(used).then(self._of(fact)) for fact in self.facts}
        numbers = {name: flag.cast(nw.Int64) for name, flag in flags.items()} | sums
        rows = self.frame.select(**numbers)
        return rows.select(nw.len().alias("rows"), *(nw.col(name).sum() for name in numbers))

    def refuse_changed(self, census: Mapping[str, Any], weight: float | None = None) -> None:
        super(EngineSource, self).refuse_changed(census)
        known = census.get("weight", weight)  # rows that were read out were counted as they came
        if weight is not None and abs((known or 0.0) - weight) > _ROUNDING * max(weight, 1.0):
            raise DataChangedError(_CHANGED)

    def judge(self, census: Mapping[str, Any]) -> Incomplete | None:
        found = super(EngineSource, self).judge(census)
        for k, (node, text) in enumerate(self.checked):
            if (census.get(f"finite:{k}") or 0) < (census.get("used") or 0):
                self.refuse_not_finite(node, text)
        return found

    def refuse_bad_weight(self, argument: str, bad: Any) -> None:
        name = getattr(self, argument)
        found = self.first(self.frame.filter(self.complete & bad).select(self.column(name)), 1)
        refuse_weight(argument, name, float(found.item()))

    def refuse_infinite(self, name: str) -> None:
        nw = self.library
        n = self.answer(self.frame.filter(_infinite(nw.col(name))).select(nw.len().alias(_COUNT))).item()
        if n:
            msg = (
                f"column {name!r} is infinite in {counted(int(n), 'row')}. Filter these rows or replace the values."
            )
            raise ColumnError(msg)

    def refuse_not_finite(self, node: Node, text: str) -> None:
        nw, named = self.library, sorted(node.inputs())
        rows = self.rows.select(*(self.column(name).alias(_KEY + name) for name in named), v=self.expression(node))
        known = finite(nw.col("v"))
        marks = rows.select(known.cast(nw.Int64).alias("v"))
        total = self.answer(marks.select(nw.len().alias("n"), nw.col("v").sum()))
        n = int(total["n"].item() - (total["v"].item() or 0))
        if n:
            shown = self.first(rows.filter(known.is_null() | ~known), 1)
            where = ", ".join(f"{name} = {shown[_KEY + name][0]!r}" for name in named) if shown.height else ""
            msg = (
                f"{text} is not finite in {counted(n, 'row')}{f', as where {where}' if where else ''}. "
                "Filter these rows, or change the formula."
            )
            raise ColumnError(msg)

    def _incomplete(self, n: int, n_rows: int) -> Incomplete:
        nw = self.library
        known = self.known()
        flags = self.frame.select(**{f"k{k}": flag.cast(nw.Int64) for k, flag in enumerate(known.values())})
        found = self.answer(flags.select(nw.col(f"k{k}").sum() for k in range(len(known)))).row(0)
        here = [int(count or 0) for count in found]
        where = tuple(name for name, count in zip(known, here, strict=True) if count < n_rows)
        empty = tuple(name for name, count in zip(known, here, strict=True) if not count)
        return Incomplete(n, n_rows, None, where, empty)


def open_source(spec: ModelSpec, frame: pl.LazyFrame | EngineFrame) -> Source:
    """The source of a resolved model, wherever its rows are. Raises ColumnError for a column the frame lacks."""
    return EngineSource.on(spec, frame) if isinstance(frame, EngineFrame) else Source.of(spec, frame)


def _infinite(x: Any) -> Any:
    return (x == math.inf) | (x == -math.inf)
