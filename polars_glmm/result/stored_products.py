"""Products as one Parquet file, and back: checked before they are believed, as a model file is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_type_hints

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.design.recipe_json import decode, encode, upgrade
from polars_glmm.design.sums.moments import Checks, Layout, LevelMoments, Moments, PairMoments
from polars_glmm.design.sums.places import layouts_of
from polars_glmm.errors import DatasetError
from polars_glmm.files import archive, claims, dtypes
from polars_glmm.files.digest import digest
from polars_glmm.files.records import RecordReader, plain
from polars_glmm.files.store import as_parquet, typed
from polars_glmm.memory import memory_limit
from polars_glmm.notes import Note
from polars_glmm.result.products import Products
from polars_glmm.typing import IntVec, Mat

_VERSION = 3
_SIGNED = 3
"""The first version with a digest and the dtypes of its columns in words."""
_KEY = "key:"
_DTYPE = "dtype:"
"""Before the name of a categorical column, whose dtype files of version 1 keep as that of a column."""
_READ = RecordReader().read


class _Head(NamedTuple):
    """What is not by level: as in Moments and Products."""

    centre: tuple[float, ...]
    n_obs: int
    log_weights: float
    checks: tuple[float, float, float]
    notes: tuple[tuple[str, str, str, bool], ...]
    n_dropped: int


def write_products(products: Products, path: str | Path) -> None:
    """Store products as one Parquet file, to be read by `polars_glmm.read_products`."""
    table = _table(products)
    moments = products.moments
    head = _Head(
        tuple(moments.centre.tolist()),
        int(moments.n_obs),
        float(moments.log_weights),
        (float(moments.checks.y), float(moments.checks.y_squared), float(moments.checks.precision)),
        tuple((note.code, note.text, note.advice, note.quiet) for note in products.notes),
        int(products.n_dropped),
    )
    text = {
        "version": _VERSION,
        "recipe": encode(products.recipe),
        **{name: plain(value) for name, value in head._asdict().items()},
        "columns": [[own.name, dtypes.encode(own.dtype)] for own in table],
    }
    signed = json.dumps(text | {"sha256": digest(json.dumps(text), table)})
    whole = table.with_columns(recipe=pl.when(pl.col("set") == "total").then(pl.lit(signed)))
    with archive.replaced(path) as file:
        file.write(as_parquet(whole))


def read_stored(path: str | Path) -> Products:
    """Products from the file that `Products.write_parquet` made. Raises DatasetError for any other file."""
    try:
        return _read(archive.bounded(path, b"PAR1"), path)
    except DatasetError:
        raise
    except archive.BROKEN as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        msg = f"{path} cannot be read as products: {why.rstrip('.') or type(error).__name__}."
        raise DatasetError(msg) from error


def _read(data: bytes, path: str | Path) -> Products:
    if not data:
        msg = f"{path} is no Parquet file: products are written by Products.write_parquet."
        raise DatasetError(msg)
    safe = claims.check(data, None, memory_limit(None))
    frame = pl.read_parquet(BytesIO(safe), use_statistics=False)
    if frame.schema.get("recipe") != pl.String or "set" not in frame.columns:
        msg = f"{path} holds no products: it was not written by Products.write_parquet."
        raise DatasetError(msg)
    head = json.loads(frame.filter(pl.col("set") == "total")["recipe"].item())
    version = _READ(head["version"], int, "version")
    if not 1 <= version <= _VERSION:
        msg = f"{path} was written in version {version} of the format; this package reads up to version {_VERSION}."
        raise DatasetError(msg)
    if version < _SIGNED:  # the dtypes of keys stand in what else Parquet keeps of Arrow's
        return _products(pl.read_parquet(BytesIO(data), use_statistics=False), head)
    table = typed(frame.drop("recipe"), head["columns"])
    signature = head.pop("sha256")
    if digest(json.dumps(head), table) != signature:
        _refuse("its content is not that which was written")
    return _products(table, head)


def _table(products: Products) -> pl.DataFrame:
    """One row for the totals, one per level of every factor, one per meeting pair of levels."""
    moments = products.moments
    parts = [_rows("total", moments.total)]
    for f, (factor, part) in enumerate(zip(products.recipe.factors, moments.factors, strict=True)):
        keys = factor.levels.rename({key: _KEY + key for key in factor.keys})
        parts.append(_rows(f"factor:{f}", part).hstack(keys))
    for (f, g), met in moments.pairs.items():
        places = pl.DataFrame({"left": met.left.astype(np.int64), "right": met.right.astype(np.int64)})
        parts.append(_rows(f"pair:{f},{g}", met.moments).hstack(places))
    return pl.concat(parts, how="diagonal_relaxed")


def _rows(name: str, part: LevelMoments) -> pl.DataFrame:
    n = part.n_levels
    second = part.second.reshape(part.second.shape[0] * part.second.shape[1], n).T
    return pl.DataFrame(
        {
            "set": pl.repeat(name, n, eager=True),
            "weight": part.weight,
            "count": part.count,
            "mean": pl.Series(part.mean.T.tolist(), dtype=pl.List(pl.Float64)),
            "second": pl.Series(second.tolist(), dtype=pl.List(pl.Float64)),
        }
    )


def _products(table: pl.DataFrame, text: Mapping[str, Any]) -> Products:
    """The record that a table and the text of its first row make. Raises ValueError where they do not fit together."""

    def taken(name: str) -> pl.DataFrame:
        return table.filter(pl.col("set") == name)

    told: dict[str, Any] = text["recipe"]
    if text["version"] == 1:
        told = upgrade(told, {name: table.schema[_DTYPE + name] for name in told["categoricals"]})
    levels = [
        taken(f"factor:{f}").select(column(_KEY + key).alias(key) for key in factor["keys"])
        for f, factor in enumerate(told["factors"])
    ]
    recipe = decode(told, levels)
    layouts = layouts_of(recipe)
    head = _Head(**{name: _READ(text[name], hint, name) for name, hint in get_type_hints(_Head).items()})
    if len(head.centre) != len(layouts.total.columns) or head.n_obs < 0:
        _refuse("its means are not those of its columns")
    pairs = {}
    for f in range(len(levels)):
        for g in range(f + 1, len(levels)):
            own = taken(f"pair:{f},{g}")
            left, right = _places(own["left"], levels[f].height), _places(own["right"], levels[g].height)
            pairs[f, g] = PairMoments(left, right, _moments(own, layouts.pairs[f, g]))
    moments = Moments(
        centre=np.array(head.centre),
        total=_moments(taken("total"), layouts.total),
        factors=tuple(_moments(taken(f"factor:{f}"), layouts.factors[f]) for f in range(len(levels))),
        pairs=pairs,
        n_obs=head.n_obs,
        log_weights=head.log_weights,
        checks=Checks(*head.checks),
    )
    return Products(recipe, moments, tuple(Note(*note) for note in head.notes), head.n_dropped)


def _places(codes: pl.Series, height: int) -> IntVec:
    """Places among so many levels."""
    if codes.dtype != pl.Int64 or codes.null_count() or not codes.is_between(0, height - 1).all():
        _refuse("its pairs of levels are not those of its levels")
    return codes.to_numpy().astype(np.intp)


def _moments(table: pl.DataFrame, layout: Layout) -> LevelMoments:
    n, shape = table.height, (len(layout.left), len(layout.right))

    def flat(name: str, width: int) -> Mat:
        return np.ascontiguousarray(table[name].list.to_array(width).to_numpy().reshape(n, width).T)

    second = flat("second", shape[0] * shape[1]).reshape(*shape, n)
    weight, count = (table[name].cast(pl.Float64).to_numpy() for name in ("weight", "count"))
    return LevelMoments(*layout, weight, count, flat("mean", len(layout.columns)), second)


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
