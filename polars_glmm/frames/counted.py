"""Equal rows counted instead of repeated, in the engine, before anything is learned: lossless for every family.

Rows that agree in every column the model uses, the response included, become one row with a frequency. Discrete
covariates shrink a frame a hundredfold; a continuous one leaves it as it is, which a sample shows at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import polars as pl

from polars_glmm.columns.named import as_found, column
from polars_glmm.columns.named import columns as named
from polars_glmm.errors import DataChangedError
from polars_glmm.frames.missing import Incomplete, dropped_rows
from polars_glmm.frames.source import missing_in, no_frequency
from polars_glmm.notes import Note
from polars_glmm.spec.model import ModelSpec

_FEWEST_ROWS = 20_000
_SAMPLE, _SLICE = 20_000, 500_000
_WORTH = 0.5
"""Share of the rows that may be left for a compression to pay."""
COUNT, _WRONG = "__glmm_frequency", "__glmm_wrong"
_FEW_TEXTS = 100


class Compressed(NamedTuple):
    """The counted frame, sorted by its keys with the response last; the question with the count as its frequency."""

    frame: pl.DataFrame
    spec: ModelSpec
    n_dropped: int
    notes: tuple[Note, ...]


def compress(frame: pl.DataFrame | pl.LazyFrame, spec: ModelSpec, *, missing: str = "drop") -> Compressed | None:
    """The counted frame, or None where it would not be worth it (or errors are better told from the rows).

    Two looks decide: 20,000 rows for columns that never repeat, then the number of distinct rows by HyperLogLog
    (Flajolet et al. 2007), of a part of the frame where that is enough.
    """
    if isinstance(frame, pl.DataFrame) and few(frame.height):
        return None
    lazy = frame.lazy()
    schema = lazy.collect_schema()
    spec = spec.resolve(frozenset(schema.names()))
    columns = list(dict.fromkeys(replace(spec, frequency=None).columns()))
    if any(c not in schema for c in spec.columns()) or COUNT in schema or not countable(spec, schema, columns):
        return None
    lazy = lazy.select(map(as_found, dict.fromkeys(spec.columns())))
    n_rows = frame.height if isinstance(frame, pl.DataFrame) else lazy.select(pl.len()).collect().item()
    if few(n_rows):
        return None
    response = [c for c in dict.fromkeys(spec.response.columns()) if c not in groups_of(spec)]
    if not _repeats(lazy, schema, spec, columns, response, n_rows):
        return None
    asked_for = [*columns, *([spec.frequency] if spec.frequency else [])]
    gaps = missing_in({c: schema[c] for c in asked_for}, spec.gaps)
    incomplete = pl.any_horizontal(gaps.values())
    asked = [incomplete.sum().alias(COUNT), *(gap.sum().alias(c) for c, gap in gaps.items())]
    seen = lazy.select(*asked, _wrong_counts(spec, incomplete).alias(_WRONG)).collect()
    n_missing = int(seen[COUNT].item())
    if n_missing == n_rows or (n_missing and missing != "drop") or seen[_WRONG].item():
        return None
    rows = lazy.filter(~incomplete) if n_missing else lazy
    count = pl.len() if spec.frequency is None else column(spec.frequency).sum()
    groups = groups_of(spec)
    keys = [*dict.fromkeys(groups), *(c for c in columns if c not in groups and c not in response), *response]
    texts = _short_texts(lazy, [c for c in columns if c not in groups and schema[c] == pl.String])
    coded = rows.with_columns(column(name).cast(pl.Categorical) for name in texts)
    cells = coded.group_by(named(keys)).agg(count.cast(pl.Float64).alias(COUNT))
    counted = cells.with_columns(column(name).cast(pl.String) for name in texts).collect().sort(named(keys))
    if spec.frequency is None and int(counted[COUNT].sum()) != n_rows - n_missing:
        msg = "The source changed while it was read: it gave another number of rows when they were counted."
        raise DataChangedError(msg)
    notes: list[Note] = []
    if n_missing:
        where = [c for c in gaps if seen[c].item()]
        notes.append(dropped_rows(Incomplete(n_missing, n_rows, 0, tuple(where)), missing))
    notes.append(counted_note(n_rows - n_missing, counted.height))
    return Compressed(counted, replace(spec, frequency=COUNT), n_missing, tuple(notes))


def few(n_rows: int) -> bool:
    """Whether there are too few rows for their counting to pay."""
    return n_rows < _FEWEST_ROWS


def repeating(n_different: int, n_rows: int) -> bool:
    """Whether so few rows are different that counting them pays."""
    return n_different <= _WORTH * n_rows


def counted_note(n_rows: int, n_cells: int) -> Note:
    """That equal rows were counted."""
    text = f"{n_rows} rows are {n_cells} different ones; the fit counts them instead of repeating them."
    return Note("rows_compressed", text, quiet=True)


def countable(spec: ModelSpec, schema: pl.Schema, columns: list[str]) -> bool:
    """Whether the frequency of rows, if there is one, is a number that means nothing else to the model."""
    if spec.frequency is None:
        return True
    return schema[spec.frequency].is_numeric() and spec.frequency not in columns


def _wrong_counts(spec: ModelSpec, incomplete: pl.Expr) -> pl.Expr:
    """Whether some row has a frequency that is none: sums would hide it."""
    if spec.frequency is None:
        return pl.lit(value=False)
    f = column(spec.frequency).cast(pl.Float64)
    wrong: pl.Expr = no_frequency(f) | f.is_infinite()
    return (~incomplete & wrong).any()


def _short_texts(lazy: pl.LazyFrame, columns: list[str]) -> list[str]:
    """Text columns of few values: their codes make keys that are quicker to group by (measured: 1.6 s for 2.4)."""
    if not columns:
        return []
    head = lazy.select(named(columns)).head(_SAMPLE).collect()
    return [c for c in columns if head[c].n_unique() <= _FEW_TEXTS]


def _repeats(
    lazy: pl.LazyFrame,
    schema: pl.Schema,
    spec: ModelSpec,
    columns: list[str],
    response: list[str],
    n_rows: int,
) -> bool:
    """Whether at most half of the rows are different ones, told from as few of them as will do."""
    merges = spec.family.sufficient
    looked = [c for c in columns if not (merges and c in {*response, spec.trials})] or columns
    floats = [c for c in looked if schema[c].is_float()]
    if floats:
        head = lazy.select(named(floats)).head(_SAMPLE).collect()
        if not all(repeating(head[c].n_unique(), head.height) for c in floats):
            return False
    distinct = pl.struct(named(looked)).hash().approx_n_unique()
    for size in (_SLICE, n_rows):
        size = min(size, n_rows)  # noqa: PLW2901  # a share that falls with every further row
        if repeating(lazy.head(size).select(distinct).collect().item(), size):
            return True
    return False


def groups_of(spec: ModelSpec) -> list[str]:
    """The key columns of all grouping factors, each once."""
    return list(dict.fromkeys(c for term in spec.random for c in term.keys))
