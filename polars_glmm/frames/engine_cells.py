"""Equal rows counted by the engine that holds them, as `frames.counted` counts those of Polars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.columns.named import columns as named
from polars_glmm.errors import DataChangedError
from polars_glmm.frames.counted import COUNT, Compressed, countable, counted_note, few, groups_of, repeating
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_source import EngineSource
from polars_glmm.frames.missing import dropped_rows
from polars_glmm.spec.model import ModelSpec

_KEY = "key:"
_SAMPLE = 20_000


def compress_engine(
    frame: EngineFrame, spec: ModelSpec, *, missing: str = "drop", beside: Sequence[str] = ()
) -> Compressed | None:
    """The counted frame, or None where it would not be worth it; rows that differ `beside` are different.

    Float columns are looked at in the first rows; whether rows repeat is then counted exactly, since engines have no
    common name for a sketch of distinct rows. Raises ColumnError for columns and values as `EngineSource.judge` does.
    """
    spec = spec.resolve(frozenset(frame.schema.names()))
    source = EngineSource.on(spec, frame).beside(beside)
    columns = list(dict.fromkeys((*beside, *replace(spec, frequency=None).columns())))
    if COUNT in frame.schema or not columns or not countable(spec, frame.schema, columns):
        return None
    census = source.answer(source.census()).row(0, named=True)
    found = source.judge(census)
    note = () if found is None else (dropped_rows(found, missing),)
    n_used = int(census["used"] or 0)
    groups = list(dict.fromkeys((*beside, *groups_of(spec))))
    response = [name for name in dict.fromkeys(spec.response.columns()) if name not in groups]
    if few(n_used) or not _repeats(source, spec, columns, response, n_used):
        return None
    keys = [*groups, *(c for c in columns if c not in groups and c not in response), *response]
    nw, weight = source.library, spec.frequency is not None
    rows = source.rows.select(
        *(source.column(name).alias(_KEY + name) for name in keys),
        *([source.column(spec.frequency).cast(nw.Float64).alias(COUNT)] if spec.frequency is not None else []),
    )
    count = nw.col(COUNT).sum() if weight else nw.len().alias(COUNT)
    cells = source.answer(rows.group_by([_KEY + name for name in keys]).agg(count))
    counted = cells.select(*(column(_KEY + name).alias(name) for name in keys), pl.col(COUNT).cast(pl.Float64))
    counted = counted.sort(named(keys))
    if not weight and int(counted[COUNT].sum()) != n_used:
        msg = "The frame changed while it was read: it gave another number of rows when they were counted."
        raise DataChangedError(msg)
    n_dropped = 0 if found is None else found.n
    notes = (*note, counted_note(n_used, counted.height))
    return Compressed(counted, replace(spec, frequency=COUNT), n_dropped, notes)


def _repeats(source: EngineSource, spec: ModelSpec, columns: list[str], response: list[str], n_rows: int) -> bool:
    """Whether at most half of the rows are different ones."""
    nw, merged = source.library, {*response, spec.trials} if spec.family.sufficient else set()
    looked = [name for name in columns if name not in merged] or columns
    rows = source.rows.select(*(source.column(name).alias(_KEY + name) for name in looked))
    if any(source.dtypes[name].is_float() for name in looked):
        head = source.first(rows, _SAMPLE)
        floats = [head[_KEY + name] for name in looked if source.dtypes[name].is_float()]
        if not all(repeating(values.n_unique(), head.height) for values in floats):
            return False
    distinct = source.answer(rows.unique().select(nw.len().alias(COUNT))).item()
    return repeating(int(distinct), n_rows)
