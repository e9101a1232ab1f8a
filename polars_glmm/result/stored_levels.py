"""Numbers by level beside the levels: keys, modes, their covariances and slopes as the columns of one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import polars as pl

from polars_glmm.files.records import RecordReader, plain
from polars_glmm.files.store import Contents, Store, TableRows
from polars_glmm.typing import Cube, Mat


class ByLevel(Protocol):
    """An estimate with numbers for each of G levels: those of one model, or of many.

    modes (r, G), mode_covariance (r, r, G), mode_slope (r, p, G) or None
    """

    @property
    def term_names(self) -> tuple[str, ...]: ...  # noqa: D102  said above
    @property
    def modes(self) -> Mat: ...  # noqa: D102
    @property
    def mode_covariance(self) -> Cube: ...  # noqa: D102
    @property
    def mode_slope(self) -> Cube | None: ...  # noqa: D102


Levelled = TypeVar("Levelled", bound=ByLevel)


class LevelTable(NamedTuple):
    """What a table of levels holds: the keys, and arrays as in FactorEstimate."""

    keys: pl.DataFrame
    modes: Mat
    mode_covariance: Cube
    mode_slope: Cube | None


def level_table(keys: pl.DataFrame, estimate: ByLevel, store: Store) -> dict[str, Any]:
    """Keep keys and numbers; what the manifest says of them."""
    r = len(estimate.term_names)
    covariance, slope = estimate.mode_covariance, estimate.mode_slope
    halved = _same(covariance, covariance.swapaxes(0, 1))
    pairs = _pairs(r, halved=halved)
    names = [f"mode {term}" for term in estimate.term_names]
    names += [f"covariance {estimate.term_names[j]}, {estimate.term_names[k]}" for j, k in pairs]
    values = [*estimate.modes, *(covariance[j, k] for j, k in pairs)]
    if slope is not None:
        names += [f"slope {term} by {q}" for term in estimate.term_names for q in range(slope.shape[1])]
        values += [slope[k, q] for k in range(r) for q in range(slope.shape[1])]
    columns = [
        pl.Series(name, np.ascontiguousarray(own)) for name, own in zip(_unique(names, keys), values, strict=True)
    ]
    return {
        "rows": plain(store.place(pl.DataFrame([*keys.get_columns(), *columns]))),
        "keys": keys.width,
        "effects": r,
        "halved": halved,
        "slopes": None if slope is None else slope.shape[1],
        "axes": [_axes(array) for array in (estimate.modes, covariance, *([] if slope is None else [slope]))],
    }


def levels_of(text: dict[str, Any], store: Contents) -> LevelTable:
    """Keys and numbers again. Raises ValueError where the table does not have them."""
    read = RecordReader(fetch=store.fetch).read
    table = store.table(read(text["rows"], TableRows, "rows"))
    width, r = (read(text[name], int, name) for name in ("keys", "effects"))
    halved, slopes = read(text["halved"], bool, "halved"), read(text["slopes"], int | None, "slopes")
    pairs = _pairs(r, halved=halved) if 0 <= r <= table.width else []
    if width < 0 or (slopes or 0) < 0 or table.width != width + r + len(pairs) + r * (slopes or 0):
        msg = "a table of levels has other columns than the manifest says"
        raise ValueError(msg)
    keys, numbers = pl.DataFrame(table.get_columns()[:width]), table.get_columns()[width:]
    if any(own.dtype != pl.Float64 or own.null_count() for own in numbers):
        msg = "a table of levels lacks numbers"
        raise ValueError(msg)
    values = [own.to_numpy() for own in numbers]
    covariance = np.empty((r, r, table.height))
    for (j, k), own in zip(pairs, values[r:], strict=False):
        covariance[j, k] = own
        if halved:
            covariance[k, j] = own
    found = [np.array(values[:r]).reshape(r, table.height), covariance]
    if slopes is not None:
        found.append(np.array(values[r + len(pairs) :]).reshape(r, slopes, table.height))
    axes = read(text["axes"], tuple[tuple[int, ...], ...], "axes")
    modes, covariance, *rest = (_laid(array, order) for array, order in zip(found, axes, strict=True))
    return LevelTable(keys, modes, covariance, rest[0] if rest else None)


def without_levels(estimate: Levelled) -> Levelled:
    """The same without numbers by level, which go to a table."""
    r = len(estimate.term_names)
    empty = {"modes": np.empty((r, 0)), "mode_covariance": np.empty((r, r, 0)), "mode_slope": None}
    return replace(estimate, **empty)  # type: ignore[type-var]  # both are dataclasses


def with_levels(estimate: Levelled, table: LevelTable) -> Levelled:
    """The same with the numbers of a table."""
    numbers = {name: getattr(table, name) for name in ("modes", "mode_covariance", "mode_slope")}
    return replace(estimate, **numbers)  # type: ignore[type-var]  # both are dataclasses


def _pairs(r: int, *, halved: bool) -> list[tuple[int, int]]:
    return [(j, k) for j in range(r) for k in range(j + 1 if halved else r)]


def _same(a: Cube, b: Cube) -> bool:
    """Equal to the last bit, NaN with itself."""
    return bool((np.ascontiguousarray(a).view(np.int64) == np.ascontiguousarray(b).view(np.int64)).all())


def _unique(names: Sequence[str], keys: pl.DataFrame) -> list[str]:
    """Names that differ from each other and from those of the keys."""
    taken, made = {*keys.columns}, []
    for name in names:
        own = name
        while own in taken:
            own += "'"
        taken.add(own)
        made.append(own)
    return made


def _axes(array: Mat) -> list[int]:
    """The axes from the one along which memory moves least often: sums depend on it in their last bit."""
    return [int(axis) for axis in np.argsort([-stride for stride in array.strides], kind="stable")]


def _laid(array: Mat, axes: tuple[int, ...]) -> Mat:
    """The array with its axes in that order in memory."""
    if sorted(axes) != list(range(array.ndim)):
        msg = "an array has other axes"
        raise ValueError(msg)
    return np.ascontiguousarray(array.transpose(axes)).transpose(np.argsort(axes).tolist())
