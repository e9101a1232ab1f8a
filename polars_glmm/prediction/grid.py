"""Grids: every combination of values at which a model is looked at, levels of its factors and values of its covariates.

A factor takes all its levels, a numeric covariate its mean over the rows of the fit, unless other values are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import nameless
from polars_glmm.columns.nodes import Reference
from polars_glmm.errors import ModelError, UnknownLevelError, brief, enumerate_names, suggest
from polars_glmm.fitting.row_facts import STATISTICS, has_rows, statistics
from polars_glmm.frames.table import rows_without_columns

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import Categorical, Recipe

LARGEST = 2_000_000
"""Rows of a grid, beyond which a question was hardly meant so."""


def grid(fit: Answer, values: Mapping[str, Any] | None = None, /, **named: Any) -> pl.DataFrame:
    """A frame to predict on: every combination of the values asked for, everything else of the model held.

    Parameters
    ----------
    fit
        A fit; its formula says which columns there are.
    values, **named
        By column (`values` for names that are no identifiers): a value, several of them, or for a numeric column the
        name of what its rows have: "mean", "median", "quartiles", "sd" (the mean, and one standard deviation below and
        above), "min", "max", "range", "levels" (all different values). For a factor "levels", a level, or several. A
        key of a grouping factor may be asked for too, with some of its levels or "levels".

    Returns
    -------
    The columns asked for in their order, the last varying fastest, then the other columns of the formula: a factor with
    all its levels, a number at its mean over the rows of the fit (equal rows by their frequency).

    Raises
    ------
    ModelError
        A column is not in the model; a statistic is needed and the fit keeps no rows.
    UnknownLevelError
        A level is not one of the fit's.

    Examples
    --------
    >>> grid(fit, Days=[0, 5])                                   # doctest: +SKIP
    >>> grid(fit, YEAR="levels", cHEIGHT="quartiles")            # doctest: +SKIP
    """
    if isinstance(fit, Answers):
        msg = "grid() is of one fit: choose it by its key, as in grid(collection[key])."
        raise ModelError(msg)
    asked = {**(values or {}), **named}
    recipe = fit.recipe
    inputs = model_inputs(recipe)
    keys = [key for factor in recipe.factors for key in factor.columns if key in asked]
    require_known(asked, [*inputs, *(key for factor in recipe.factors for key in factor.columns)], "grid")
    axes = axes_of(fit, [*asked, *(name for name in (*inputs, *keys) if name not in asked)], asked)
    return crossed(axes)


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One column of a grid and its values."""

    name: str
    values: pl.Series

    def __len__(self) -> int:
        return len(self.values)


def model_inputs(recipe: Recipe) -> tuple[str, ...]:
    """The columns that a prediction depends on, in the order of the formulas; keys of groups are not among them."""
    nodes = [column.node for part in recipe.predictors for column in part.columns]
    nodes += [part.offset for part in recipe.predictors if part.offset is not None]
    nodes += [column.node for factor in recipe.factors for term in factor.terms for column in term.columns]
    return tuple(dict.fromkeys(name for node in nodes for name in sorted(node.inputs())))


def require_known(asked: Iterable[str], known: Sequence[str], verb: str) -> None:
    """Raise ModelError for a column that the model does not have."""
    known = list(dict.fromkeys(known))
    for name in asked:
        if name not in known:
            has = f" Its columns are {enumerate_names(known)}." if known else " It has no columns."
            msg = f"{verb}: {name!r} is not a column of the model.{suggest(str(name), known)}{has}"
            raise ModelError(msg)


def axes_of(fit: Answer, names: Sequence[str], at: Mapping[str, Any]) -> list[Axis]:
    """An axis for each column; what is not in `at` has its levels, or its mean."""
    categoricals = {one.column: one for one in fit.recipe.categoricals.values()}
    wanted: dict[str, tuple[str, ...]] = {}
    made: dict[str, pl.Series] = {}
    for name in names:
        given = at.get(name)
        if name in categoricals:
            made[name] = _levels(categoricals[name], given)
        elif (key := _key_levels(fit.recipe, name)) is not None and not _is_input(fit.recipe, name):
            made[name] = _of_key(name, key, given)
        elif given is None or isinstance(given, str):
            wanted[name] = (_statistic(name, given),)
        else:
            made[name] = _numbers(name, given)
    if wanted:
        made |= _from_rows(fit, wanted)
    return [Axis(name, made[name]) for name in names]


def crossed(axes: Sequence[Axis]) -> pl.DataFrame:
    """All combinations, the last axis varying fastest. Raises ModelError where they are too many."""
    sizes = [len(axis) for axis in axes]
    if prod(sizes) > LARGEST:
        widest = sorted(zip(sizes, (axis.name for axis in axes), strict=True), reverse=True)[:3]
        what = ", ".join(f"{name!r} has {size}" for size, name in widest)
        msg = f"The grid would have {prod(sizes):,} rows ({what}). Hold some columns at fewer values, as with at=."
        raise ModelError(msg)
    if not axes:
        return rows_without_columns(1)
    places = np.indices(sizes).reshape(len(sizes), -1)
    return pl.DataFrame([axis.values[place] for axis, place in zip(axes, places, strict=True)])


def _is_input(recipe: Recipe, name: str) -> bool:
    return name in model_inputs(recipe)


def _levels(factor: Categorical, given: Any) -> pl.Series:
    """Levels of a categorical column, as values of its dtype."""
    labels = list(factor.levels)
    if given is None or (isinstance(given, str) and given == "levels" and "levels" not in labels):
        chosen = labels
    else:
        chosen = [_label(one) for one in _several(given)]
        numeric = factor.dtype.is_numeric()
        by_value: dict[float | None, str] = {float(label): label for label in labels} if numeric else {}
        chosen = [by_value.get(_float(one), one) if numeric else one for one in chosen]
        _require_levels(factor.column, chosen, labels)
    if factor.dtype == pl.Boolean:
        return pl.Series(factor.column, [label == "true" for label in chosen])
    return pl.Series(factor.column, chosen, dtype=pl.String).cast(factor.dtype)


def _require_levels(column: str, chosen: Sequence[str], labels: Sequence[str]) -> None:
    for label in chosen:
        if label not in labels:
            msg = (
                f"column {column!r} has no level {label!r} in the fit, which knows {enumerate_names(labels)}."
                f"{suggest(label, labels, listed=True)}"
            )
            raise UnknownLevelError(msg)
    if len(set(chosen)) < len(chosen):
        msg = f"The levels of {column!r} are asked for more than once: {enumerate_names(chosen)}."
        raise ModelError(msg)


def _key_levels(recipe: Recipe, name: str) -> pl.Series | None:
    for factor in recipe.factors:
        if factor.members is not None and name in factor.members.keys:
            return factor.levels.to_series().rename(name)
        if name in factor.keys:
            return nameless(factor.levels.get_column(name)).unique(maintain_order=True).alias(name)
    return None


def _of_key(name: str, levels: pl.Series, given: Any) -> pl.Series:
    labels = levels.cast(pl.String).to_list()
    if given is None or (isinstance(given, str) and given == "levels" and "levels" not in labels):
        return levels
    chosen = [str(one) for one in _several(given)]
    _require_levels(name, chosen, labels)
    return levels[[labels.index(one) for one in chosen]]


def _label(value: Any) -> str:
    """A level as a cast to String spells it."""
    return str(value).lower() if isinstance(value, bool | np.bool_) else str(value)


def _float(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _several(given: Any) -> list[Any]:
    """A value as a list of one; several as a list."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        return [given]
    return given.to_list() if isinstance(given, pl.Series) else list(given)


def _numbers(name: str, given: Any) -> pl.Series:
    values = _several(given)
    if any(isinstance(one, str) for one in values):
        msg = f"{name!r} is numeric: its values are numbers, or one of {enumerate_names(STATISTICS, 'or', limit=9)}."
        raise ModelError(msg)
    try:
        numbers = np.array([float(one) for one in values])
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not len(numbers) or not np.isfinite(numbers).all():
        msg = f"{name!r} is numeric: {brief(repr(given))} is not a number, or several of them."
        raise ModelError(msg)
    if len(np.unique(numbers)) < len(numbers):
        msg = f"The values of {name!r} are asked for more than once: {brief(repr(given))}."
        raise ModelError(msg)
    return pl.Series(name, numbers)


def _statistic(name: str, given: str | None) -> str:
    if given is None:
        return "mean"
    if given not in STATISTICS:
        near = suggest(given, STATISTICS, listed=True)
        msg = f"{name!r} is numeric: {given!r} is none of {enumerate_names(STATISTICS, limit=9)}.{near}"
        raise ModelError(msg)
    return given


def covariate_means(fit: Answer) -> dict[str, float]:
    """Means of the numeric covariates over the rows of the fit that are in memory, or what is known of gone ones."""
    if fit.rows is None:
        return dict(fit.means)
    kinds, levels = fit.rows.schema, {one.column for one in fit.recipe.categoricals.values()}
    names = [one for one in model_inputs(fit.recipe) if one not in levels and kinds[one].is_numeric()]
    found = statistics(fit, {name: (Reference(name), ("mean",)) for name in names}, "the means are not known.")
    return {name: value for name, (value,) in found.items()}


def _from_rows(fit: Answer, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, pl.Series]:
    """Statistics of numeric columns over the rows of the fit."""
    if not has_rows(fit):
        unknown = {name: what for name, what in wanted.items() if what != ("mean",) or name not in fit.means}
        if not unknown:
            return {name: pl.Series(name, [fit.means[name]]) for name in wanted}
        name, what = next((name, what[0]) for name, what in unknown.items())
        msg = (
            f"This fit keeps no rows (keep='none', or it was pickled), so the {what} of {name!r} is not known: say at "
            f"which value it is held, as in {name}=0.0 of a grid or at={{{name!r}: 0.0}}."
        )
        raise ModelError(msg)
    nodes = {name: (Reference(name), what) for name, what in wanted.items()}
    found = statistics(fit, nodes, "the values of its columns are not known.")
    return {
        name: pl.Series(values, dtype=pl.Float64).unique(maintain_order=True).alias(name)
        for name, values in found.items()
    }
