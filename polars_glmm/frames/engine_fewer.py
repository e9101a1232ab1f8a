"""Fewer rows in the place of those that an engine holds, with which every model is the same, made by one grouped query.

Rows that repeat are counted. For a gaussian model, whose likelihood knows rows by their sums of products alone, the n
rows of a cell (equal in all keys and labels, and different in k numbers of which every column is linear) become k + 1
rows or fewer with whole frequencies, the same mean, and the same sums of squares and products about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, columns
from polars_glmm.frames.counted import COUNT, few, groups_of, repeating
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_cells import compress_engine
from polars_glmm.frames.engine_source import EngineSource
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Expression, Name
from polars_glmm.spec.syntax import columns as columns_of
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

_KEY = "key:"
_LOOK = 1000
_DIGITS, _APART = 1e-5, 1e-6
"""Least share of a sum of squares that is left about the means, and least eigenvalue of the correlations of numbers."""


class Roles(NamedTuple):
    """Columns of which every column of the model is linear, the response first, and those that rows of a cell share.

    fixed   labels that fixed effects have
    """

    numbers: tuple[str, ...]
    labels: tuple[str, ...]
    fixed: tuple[str, ...]


class KeyedGaps(NamedTuple):
    """Rows of each of K keys, those that miss a value, and by column whether some of them miss it there; (K,)."""

    n_rows: IntVec
    missing: IntVec
    where: dict[str, BoolVec]


class Fewer(NamedTuple):
    """Rows with their frequency in a column COUNT, and what is missing by key in the order of the keys, if anything."""

    frame: pl.DataFrame
    gaps: KeyedGaps | None


def fewer_rows(
    frame: EngineFrame, spec: ModelSpec, by: Sequence[str], *, linear: bool, missing: str = "drop"
) -> Fewer | None:
    """Rows by the columns `by`; None where they would not be at most half, or a key has none or is null.

    spec     resolved;  linear  whether sums of products are all that the model knows of its rows
    """
    source = EngineSource.on(spec, frame).beside(by)
    if any(source.dtypes[name].is_float() for name in by) or COUNT in source.dtypes:
        return None
    found = _sums(source, spec, by, missing) if linear else _counts(frame, spec, by, missing)
    if found is None or not found.n_missing:
        return None if found is None else Fewer(found.frame, None)
    keys, gaps = _gaps(source, by)
    there = found.frame.select(columns(by)).unique().sort(columns(by))
    return Fewer(found.frame, gaps) if keys.equals(there) else None


class _FewRows(NamedTuple):
    """Few rows, and how many of all miss a value."""

    frame: pl.DataFrame
    n_missing: int


def _counts(frame: EngineFrame, spec: ModelSpec, by: Sequence[str], missing: str) -> _FewRows | None:
    found = compress_engine(frame, spec, missing=missing, beside=by)
    return None if found is None else _FewRows(found.frame, found.n_dropped)


def _gaps(source: EngineSource, by: Sequence[str]) -> tuple[pl.DataFrame, KeyedGaps]:
    """The keys, sorted, and what their rows miss."""
    nw, known = source.library, {name: flag for name, flag in source.known().items() if name not in by}
    flags = {"complete": source.complete} | {f"k{j}": flag for j, flag in enumerate(known.values())}
    rows = source.frame.select(
        *(source.column(name).alias(_KEY + name) for name in by), **{k: v.cast(nw.Int64) for k, v in flags.items()}
    )
    grouped = rows.group_by([_KEY + name for name in by])
    found = source.answer(grouped.agg(nw.len().alias(COUNT), *(nw.col(name).sum() for name in flags)))
    found = found.select(column(_KEY + name).alias(name) for name in by).hstack(found.select(COUNT, *flags))
    found = found.sort(columns(by))
    n = found[COUNT].cast(pl.Int64).to_numpy()

    def lost(name: str) -> IntVec:
        return np.asarray(n - found[name].cast(pl.Int64).to_numpy())

    where = {name: lost(f"k{j}") > 0 for j, name in enumerate(known)}
    return found.select(columns(by)), KeyedGaps(n, lost("complete"), where)


def _sums(source: EngineSource, spec: ModelSpec, by: Sequence[str], missing: str) -> _FewRows | None:
    roles = _roles(spec, source)
    if roles is None or any(source.dtypes[name].is_float() for name in roles.labels):
        return None
    census = source.answer(source.census()).row(0, named=True)
    source.judge(census)
    n_missing, n_used = int(census["rows"]) - int(census["complete"] or 0), int(census["used"] or 0)
    if few(int(census["rows"])) or (n_missing and missing == "error"):
        return None
    keys, nw = list(dict.fromkeys((*by, *roles.labels))), source.library
    named = source.rows.select(*(source.column(name).alias(_KEY + name) for name in keys))
    n_cells = int(source.answer(named.unique().select(nw.len().alias(COUNT))).item())
    if not repeating(n_cells * (len(roles.numbers) + 1), n_used):
        return None
    reduced = _reduced(source, keys, roles, len(by), n_used)
    return None if reduced is None else _FewRows(reduced, n_missing)


def _roles(spec: ModelSpec, source: EngineSource) -> Roles | None:
    """What columns are to a gaussian model, None where sums would not be enough."""
    response = spec.response
    if spec.precision is not None or not isinstance(response.success, Name):
        return None
    alone: list[str] = [response.success.name, *([] if spec.offset is None else [spec.offset])]
    labels, fixed, products = groups_of(spec), list[str](), list[set[str]]()

    def meet(factors: Iterable[Expression], shared: list[str]) -> None:
        together = set()
        for factor in factors:
            if isinstance(factor, Name) and source.dtypes[factor.name].is_numeric():
                together.add(factor.name)
            else:
                shared.extend(columns_of(factor))
        alone.extend(together)
        products.append(together)

    for part in spec.predictors:
        for term in part.fixed:
            meet(term.factors, fixed)
        for term in (term for random in part.random for term in random.design):
            meet(term.factors, labels)
        for one in part.offsets:
            meet([one], labels)
    labels.extend(fixed)
    numbers = tuple(name for name in dict.fromkeys(alone) if name not in labels)
    if response.success.name not in numbers or not source.dtypes[response.success.name].is_numeric():
        return None
    if any(len(together & set(numbers)) > 1 for together in products):
        return None
    return Roles(numbers, tuple(dict.fromkeys(labels)), tuple(dict.fromkeys(fixed)))


def _reduced(
    source: EngineSource, keys: Sequence[str], roles: Roles, n_by: int, n_used: int
) -> pl.DataFrame | None:
    """Rows of the same sums, sorted by keys, of which the first n_by tell the model.

    None where the frame gave another number of rows, or sums do not tell what rows do.
    """
    nw, numbers, k = source.library, roles.numbers, len(roles.numbers)
    first = source.first(source.rows.select(*(source.column(name) for name in numbers)), _LOOK)
    shift = np.array([float(first[name].cast(pl.Float64).mean() or 0.0) for name in numbers])  # type: ignore[arg-type]
    weight = source.weight()
    rows = source.rows.select(
        *(source.column(name).alias(_KEY + name) for name in keys),
        *(
            (source.column(name).cast(nw.Float64) - float(shift[j])).alias(f"v{j}") for j, name in enumerate(numbers)
        ),
        *([] if weight is None else [weight.alias("w")]),
    )
    pairs = [(i, j) for i in range(k) for j in range(i + 1)]

    def weighed(value: Any) -> Any:
        return value if weight is None else value * nw.col("w")

    sums = {f"s{j}": weighed(nw.col(f"v{j}")) for j in range(k)}
    sums |= {f"p{i}_{j}": weighed(nw.col(f"v{i}") * nw.col(f"v{j}")) for i, j in pairs}
    ends = {f"{end}{j}": nw.col(f"v{j}") for end in ("low", "high") for j in range(k)}
    size = nw.len().alias(COUNT) if weight is None else nw.col("w").sum().alias(COUNT)
    asked = [nw.col(name).sum() for name in sums]
    asked += [nw.col(name).min() if name.startswith("low") else nw.col(name).max() for name in ends]
    found = source.answer(rows.with_columns(**sums, **ends).group_by([_KEY + name for name in keys]).agg(size, *asked))
    found = found.sort([column(_KEY + name) for name in keys])
    n = found[COUNT].cast(pl.Float64).to_numpy()
    if weight is None and int(n.sum()) != n_used:
        return None

    def told(name: str) -> Vec:
        return np.asarray(found[name].cast(pl.Float64).to_numpy())

    low = np.array([told(f"low{j}") for j in range(k)]).T
    flat = low == np.array([told(f"high{j}") for j in range(k)]).T
    mean = np.where(flat, low, np.array([told(f"s{j}") for j in range(k)]).T / n[:, None])
    raw = np.empty((len(n), k, k))
    for i, j in pairs:
        raw[:, i, j] = raw[:, j, i] = told(f"p{i}_{j}")
    varies = ~flat[:, :, None] & ~flat[:, None, :]
    raw = np.where(varies, raw, 0.0)
    cross = np.where(varies, raw - n[:, None, None] * mean[:, :, None] * mean[:, None, :], 0.0)
    labels = found.select(column(_KEY + name).alias(name) for name in keys)
    pools = labels.select(columns(dict.fromkeys((*keys[:n_by], *roles.fixed)))).select(
        pl.struct(pl.all()).rank("dense") - 1
    )
    if not tell_enough(pools.to_series().to_numpy().astype(np.intp), n, raw, cross):
        return None
    places, frequency, values = same_sums(n, mean + shift, cross)
    made = [pl.Series(name, values[:, j]) for j, name in enumerate(numbers)]
    fewer: pl.DataFrame = labels[places].with_columns(*made, pl.Series(COUNT, frequency))
    return fewer


def tell_enough(pools: IntVec, n: Vec, raw: Cube, cross: Cube) -> bool:
    """Whether sums of C cells say of k numbers, the response first, what their rows would say.

    pools (C,)   cells whose rows differ in no fixed effect but by numbers
    raw, cross   (C, k, k) products as they were summed, and about the means of the cells; 0 where a number is the same
                 in all rows, which is known without rounding
    A sum of squares that is all but its mean has lost its digits; and where numbers are all but a combination of each
    other, rounding decides whether they are one.
    """
    size = int(pools.max()) + 1
    within, whole = np.zeros((size, *cross.shape[1:])), np.zeros((size, *cross.shape[1:]))
    np.add.at(within, pools, cross)
    np.add.at(whole, pools, raw)
    left, total = (np.diagonal(one, axis1=1, axis2=2) for one in (within, whole))
    varies = total > 0.0
    if (left[varies] <= _DIGITS * total[varies]).any():
        return False
    varies, within = varies[:, 1:], within[:, 1:, 1:]
    unit = np.sqrt(np.where(varies, left[:, 1:], 1.0))
    correlation = within / (unit[:, :, None] * unit[:, None, :]) + np.eye(varies.shape[1]) * ~varies[:, None, :]
    values, active = np.linalg.eigvalsh(correlation), varies.sum(1)
    rank = np.minimum(active, np.bincount(pools, n - 1.0, size).astype(np.intp))  # as many as rows can tell apart
    seen = np.arange(values.shape[1]) >= (active - rank)[:, None]
    return bool((values[seen] > _APART).all())


def same_sums(n: Vec, mean: Mat, cross: Cube) -> tuple[Any, Vec, Mat]:
    """Rows for C cells of n (C,) rows each, with their mean (C, k) and their products about it, cross (C, k, k).

    The cell of each row, its frequency, a whole number, and its values (·, k): at most k + 1 rows a cell.
    With w the frequencies of m rows and U (m, m − 1) orthonormal and orthogonal to √w, rows mean + (U R)ᵢ/√wᵢ have
    the products R'R, which are those of the cell with the m − 1 largest eigenvalues of `cross`.
    """
    values, vectors = np.linalg.eigh(cross)
    root = np.sqrt(np.maximum(values, 0.0))[:, ::-1, None] * vectors.swapaxes(1, 2)[:, ::-1]  # largest first
    k = mean.shape[1]
    rows = np.minimum(n, k + 1).astype(np.intp)
    places, frequency, out = [], [], []
    for m in np.unique(rows):
        own = np.flatnonzero(rows == m)
        share, left = np.divmod(n[own], m)
        w = share[:, None] + (np.arange(m) < left[:, None])
        q = np.sqrt(w / n[own, None])
        v = q.copy()
        v[:, 0] += 1.0  # a reflection that takes q to −e₁: its other columns are orthogonal to q
        reflection = np.eye(m) - 2.0 * v[:, :, None] * v[:, None, :] / (v * v).sum(1)[:, None, None]
        away = reflection[:, :, 1:] @ root[own, : m - 1]
        out.append((mean[own, None] + away / np.sqrt(w)[:, :, None]).reshape(-1, k))
        places.append(np.repeat(own, m))
        frequency.append(w.reshape(-1))
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(places)[order], np.concatenate(frequency)[order], np.concatenate(out)[order]

