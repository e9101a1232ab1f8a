"""`known=` met with data: the levels of a grouping factor and their covariance matrix A, from a frame of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, nameless
from polars_glmm.errors import ModelError, ResourceError, counted, enumerate_names
from polars_glmm.frames.batches import whole
from polars_glmm.frames.elsewhere import read
from polars_glmm.frames.levels import codes_of, in_order, is_label
from polars_glmm.linalg.coupled import Prior
from polars_glmm.memory import memory_limit, readable
from polars_glmm.spec.relation import KnownLevels
from polars_glmm.typing import CodeVec, IntVec, Mat

from .recipe import FactorRecipe, Recipe

PAIRS = ("level", "other_level")
_COPIES = 6
"""Matrices of all levels that are held while one is read."""
_MOST_NAMED = 5


class Relation(NamedTuple):
    """The levels of a factor, one column in level order, and how they know each other."""

    levels: pl.DataFrame
    prior: Prior


def relation_of(name: str, key: str, known: KnownLevels, dtype: pl.DataType) -> Relation:
    """The levels of `known`, under the name and (but for labels, which are text) the dtype of a key column.

    Raises ModelError, naming the place, for a frame that is no positive definite matrix; ResourceError for one that is
    larger than memory.
    """
    frame = _frame(name, known)
    own = pl.String() if is_label(dtype) else dtype
    try:
        frame = frame.with_columns(pl.col(PAIRS).cast(own))
    except pl.exceptions.PolarsError as error:
        msg = f"{_said(name)}: levels are of dtype {frame[PAIRS[0]].dtype}, and the column {key!r} is {dtype}."
        raise ModelError(msg) from error
    unique = pl.concat([frame["level"], frame["other_level"].alias("level")]).unique().to_frame()
    levels = in_order(unique, ["level"])
    _require_room(name, levels.height)
    i, j = (codes_of(frame.select(level=one), levels) for one in PAIRS)
    matrix = _matrix(name, levels["level"], i, j, frame["value"].to_numpy())
    prior = Prior.of(matrix)
    if prior is not None and known.kind == "precision":
        prior = prior.inverse()
    if prior is None:
        _refuse_indefinite(name, levels["level"], matrix)
    return Relation(levels.rename({"level": key}), prior)


def codes_in(name: str, relation: Relation, values: pl.Series) -> CodeVec:
    """The places of values among the levels. Raises ModelError for those that are none."""
    key = relation.levels.columns[0]
    own = values.cast(relation.levels.schema[key]).rename(key).to_frame()
    places = own.join(relation.levels.with_row_index("code"), on=column(key), how="left", maintain_order="left")["code"]
    if places.null_count():
        absent = nameless(own[key]).filter(places.is_null()).unique(maintain_order=True)
        is_ = "is no level" if len(absent) == 1 else "are no levels"
        msg = (
            f"{_said(name)}: {enumerate_names(absent.to_list(), limit=_MOST_NAMED)} {is_} of the frame, and rows have "
            f"{'it' if len(absent) == 1 else 'them'}. Add a row (level, level, 1.0) where nothing else is known."
        )
        raise ModelError(msg)
    return places.to_numpy().astype(np.int32)


def pairs_of(factor: FactorRecipe) -> pl.DataFrame:
    """The frame of a factor's relation again: the lower triangle of A without its zeros."""
    assert factor.prior is not None  # asked of factors that have one
    i, j = np.nonzero(np.tril(factor.prior.covariance))
    labels = factor.levels.to_series()
    return pl.DataFrame(
        {"level": labels[i], "other_level": labels[j], "value": factor.prior.covariance[i, j]},
        schema={"level": labels.dtype, "other_level": labels.dtype, "value": pl.Float64},
    )


def prior_of(name: str, levels: pl.DataFrame, known: Mapping[str, KnownLevels] | None) -> Prior | None:
    """How levels, as a recipe has them, know each other. Raises ModelError where `known` is of other levels."""
    if not known or name not in known:
        return None
    found = relation_of(name, levels.columns[0], known[name], levels.dtypes[0])
    if not found.levels.equals(levels):
        msg = f"{_said(name)} is of other levels"
        raise ModelError(msg)
    return found.prior


def related(recipe: Recipe) -> tuple[str, ...]:
    """The grouping factors whose levels know each other."""
    return tuple(factor.name for factor in recipe.factors if factor.prior is not None)


def refuse_shared(recipe: Recipe, what: str, instead: str = "") -> None:
    """Raise ModelError for what is of rows that are in one level of each factor."""
    names = [factor.name for factor in recipe.factors if factor.members is not None]
    if names:
        msg = f"{what} is of rows in one level of each factor, and they are in several of {names[0]!r}. {instead}"
        raise ModelError(msg.rstrip())


def refuse_known(recipe: Recipe, what: str, instead: str = "") -> None:
    """Raise ModelError for what is of levels that are independent."""
    names = related(recipe)
    if names:
        whose = enumerate_names(names)
        msg = f"{what} is of levels that are independent, and known= relates those of {whose}. {instead}"
        raise ModelError(msg.rstrip())


def _frame(name: str, known: KnownLevels) -> pl.DataFrame:
    """The columns of pairs, complete and numeric."""
    found = read(known.frame, _said(name))
    names = found.collect_schema().names()
    absent = [one for one in (*PAIRS, "value") if one not in names]
    if absent:
        msg = f"{_said(name)} is a frame with columns level, other_level and value; it lacks {enumerate_names(absent)}."
        raise ModelError(msg)
    frame = whole(found.lazy().select(*PAIRS, "value"))
    if not frame.height:
        msg = f"{_said(name)}: the frame has no rows."
        raise ModelError(msg)
    if not frame.schema["value"].is_numeric():
        msg = f"{_said(name)}: the column value is {frame.schema['value']}, not numeric."
        raise ModelError(msg)
    frame = frame.with_columns(pl.col("value").cast(pl.Float64))
    lost = frame.select(pl.any_horizontal(pl.all().is_null(), ~pl.col("value").is_finite())).to_series()
    if lost.any():
        msg = f"{_said(name)}: row {lost.arg_max()}, counted from 0, has a missing level or a value that is no number."
        raise ModelError(msg)
    return frame


def _matrix(name: str, levels: pl.Series, i: IntVec, j: IntVec, values: Mat) -> Mat:
    """A symmetric matrix of pairs, each given once or, alike, in both orders."""
    g = len(levels)
    order = np.argsort(i * g + j, kind="stable")
    keys = (i * g + j)[order]
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if len(twice):
        k = int(order[twice[0] + 1])
        msg = f"{_said(name)}: the pair {levels[int(i[k])]!r}, {levels[int(j[k])]!r} is given twice (row {k})."
        raise ModelError(msg)
    matrix, seen = np.zeros((g, g)), np.zeros((g, g), dtype=bool)
    matrix[i, j], seen[i, j] = values, True
    apart = seen & seen.T & (matrix != matrix.T)
    if apart.any():
        a, b = (int(k) for k in np.argwhere(apart)[0])
        msg = (
            f"{_said(name)}: {levels[a]!r}, {levels[b]!r} has {matrix[a, b]:.6g} and {levels[b]!r}, {levels[a]!r} has "
            f"{matrix[b, a]:.6g}: the matrix is not symmetric. One triangle is enough."
        )
        raise ModelError(msg)
    matrix = np.where(seen, matrix, matrix.T)
    own = np.diag_indices(g)
    matrix[own] = np.where(seen[own], matrix[own], 1.0)
    return matrix


def _refuse_indefinite(name: str, levels: pl.Series, matrix: Mat) -> NoReturn:
    """Say how far from positive definite, and which levels make it so."""
    values, vectors = np.linalg.eigh(matrix)
    most = np.argsort(-np.abs(vectors[:, 0]), kind="stable")[:2]
    msg = (
        f"{_said(name)}: the matrix is not positive definite, its smallest eigenvalue is {values[0]:.3g}, mostly of "
        f"{enumerate_names([levels[int(k)] for k in most])}. Levels that are the same twice (clones, tips without a "
        "branch) are one level; a matrix estimated from markers needs a ridge on its diagonal."
    )
    raise ModelError(msg)


def _require_room(name: str, n: int) -> None:
    needed, limit = 8 * _COPIES * n**2, memory_limit(None)
    if needed > limit:
        msg = (
            f"{_said(name)}: {counted(n, 'level', grouped=True)} need about {readable(needed)} of memory, more than "
            f"the {readable(limit)} that may be used: their covariance matrix is held as a whole. Leave out levels "
            "without rows that relate no others."
        )
        raise ResourceError(msg)


def _said(name: str) -> str:
    return f"known={{{name!r}: …}}"
