"""Frames with a column set to another value in every row: the two sides of a comparison, and of a slope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.columns.nodes import Reference
from polars_glmm.errors import ModelError, brief, enumerate_names, suggest
from polars_glmm.fitting.row_facts import has_rows, statistics
from polars_glmm.frames.aggregates import aggregated
from polars_glmm.prediction.grid import axes_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

CompareLike: TypeAlias = str | Sequence[str] | Mapping[str, Any] | None
FACTOR_CONTRASTS = ("reference", "pairwise", "sequential")
NUMERIC_CONTRASTS = ("sd", "iqr", "range")
_STEP = 1e-5
"""Half the width of a symmetric difference in standard deviations of the variable: its square is left of the slope."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One value of a column in every row: `value` itself, or so much added to what the row has."""

    column: str
    value: Any
    added: bool = False
    dtype: pl.DataType | None = None

    @property
    def key(self) -> tuple[str, Any, bool]:
        """What tells sides apart."""
        return self.column, self.value, self.added

    def set_in(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """The frame with the column set; a row without a value stays without one."""
        if self.added and self.value == 0.0:
            return frame
        old = named.column(self.column)
        new = old.cast(pl.Float64) + self.value if self.added else pl.lit(self.value, dtype=self.dtype)
        return frame.with_columns(pl.when(old.is_not_null()).then(new).alias(self.column))


class Comparison(NamedTuple):
    """A variable with two sides; the difference is divided by `width`."""

    variable: str
    contrast: str
    low: Side
    high: Side
    width: float = 1.0


def comparisons_of(fit: Answer, asked: CompareLike, contrast: Any, *, ratio: bool) -> list[Comparison]:
    """The comparisons asked for.

    asked     names, all variables of the formula for None; or a mapping from names to what is compared: for a factor
              "reference", "pairwise", "sequential" or two levels (low, high); for a number what is added, two values
              (low, high), "sd" (one standard deviation around the row's own), "iqr" or "range" (of the rows of the fit)
    contrast  the same for all of them; None: each level with the first, and one unit more
    """
    inputs = variables_of(fit)
    wanted = asked if isinstance(asked, Mapping) else dict.fromkeys(_names(asked, inputs), contrast)
    factors = {one.column for one in fit.recipe.categoricals.values()}
    sign = " / " if ratio else " - "
    made = []
    for name, how in wanted.items():
        require_variable(name, inputs, "comparisons")
        made += _of_factor(fit, name, how, sign) if name in factors else _of_number(fit, name, how, sign)
    return made


def slopes_of(fit: Answer, asked: str | Sequence[str] | None, frame: pl.LazyFrame) -> list[Comparison]:
    """Symmetric differences, of a width that is a power of two so that no digit of the variable is lost to it."""
    factors = {one.column for one in fit.recipe.categoricals.values()}
    inputs = variables_of(fit)
    names = _names(asked, [name for name in inputs if name not in factors])
    if not names:
        msg = "slopes: the model has no numeric variable. fit.comparisons() compares levels of factors."
        raise ModelError(msg)
    for name in names:
        require_variable(name, inputs, "slopes")
        if name in factors:
            msg = f"slopes: {name!r} is a factor and has no slope. fit.comparisons(variables={name!r}) compares levels."
            raise ModelError(msg)
    steps = _steps(fit, names, frame)
    return [
        Comparison(name, "dY/dX", Side(name, -h, added=True), Side(name, h, added=True), 2.0 * h)
        for name, h in zip(names, steps, strict=True)
    ]


def variables_of(fit: Answer) -> list[str]:
    """The columns that the fixed part of the mean depends on; of categories those of thresholds and scale too."""
    recipe = fit.recipe
    parts = recipe.predictors if recipe.spec.family.response == "category" else recipe.predictors[:1]
    names = [name for part in parts for column in part.columns for name in sorted(column.node.inputs())]
    return list(dict.fromkeys(names))


def require_variable(name: str, inputs: Sequence[str], verb: str) -> None:
    """Raise ModelError for a column that the fixed part does not have."""
    if name not in inputs:
        has = f" Its variables are {enumerate_names(list(inputs))}." if inputs else " It has none: use predict()."
        msg = f"{verb}: {name!r} is no variable of the fixed part.{suggest(str(name), inputs)}{has}"
        raise ModelError(msg)


def values_of(fit: Answer, asked: CompareLike, verb: str) -> list[list[Side]]:
    """Every combination of the values of some variables, the last varying fastest, one side for each."""
    if asked is None:
        return [[]]
    inputs = variables_of(fit)
    wanted = asked if isinstance(asked, Mapping) else dict.fromkeys(_names(asked, inputs), None)
    for name in wanted:
        require_variable(name, inputs, verb)
    combinations: list[list[Side]] = [[]]
    for axis in axes_of(fit, list(wanted), {name: one for name, one in wanted.items() if one is not None}):
        sides = [Side(axis.name, value, dtype=axis.values.dtype) for value in axis.values]
        combinations = [[*before, side] for before in combinations for side in sides]
    return combinations


def _names(asked: Any, default: Sequence[str]) -> list[str]:
    if asked is None:
        return list(default)
    return [asked] if isinstance(asked, str) else list(asked)


def _of_factor(fit: Answer, name: str, how: Any, sign: str) -> list[Comparison]:
    if how is None or isinstance(how, str):
        kind = how or "reference"
        if kind not in FACTOR_CONTRASTS:
            near = suggest(kind, FACTOR_CONTRASTS, listed=True)
            msg = (
                f"{name!r} is a factor: compare its levels by {enumerate_names(FACTOR_CONTRASTS, 'or')}, or give two "
                f"of them, not {kind!r}.{near}"
            )
            raise ModelError(msg)
        values = axes_of(fit, [name], {})[0].values
        m = len(values)
        places = [(j, i) for i in range(m) for j in range(i)]
        if kind == "reference":
            places = [(0, i) for i in range(1, m)]
        elif kind == "sequential":
            places = [(i - 1, i) for i in range(1, m)]
    else:
        values = axes_of(fit, [name], {name: _two(name, how)})[0].values
        places = [(0, 1)]
    labels = [str(value) for value in values]
    sides = [Side(name, value, dtype=values.dtype) for value in values]
    return [Comparison(name, f"{labels[hi]}{sign}{labels[lo]}", sides[lo], sides[hi]) for lo, hi in places]


def _of_number(fit: Answer, name: str, how: Any, sign: str) -> list[Comparison]:
    if isinstance(how, str):
        return [_of_statistic(fit, name, how)]
    if how is None or isinstance(how, int | float | np.number):
        step = 1.0 if how is None else float(how)
        if not np.isfinite(step) or step == 0.0:
            msg = f"{name!r} is numeric: {how!r} added to it is no comparison."
            raise ModelError(msg)
        return [Comparison(name, f"{step:+g}", Side(name, 0.0, added=True), Side(name, step, added=True))]
    low, high = axes_of(fit, [name], {name: _two(name, how)})[0].values
    return [Comparison(name, f"{high:g}{sign}{low:g}", *_fixed(name, low, high))]


def _of_statistic(fit: Answer, name: str, how: str) -> Comparison:
    if how not in NUMERIC_CONTRASTS:
        near = suggest(how, NUMERIC_CONTRASTS, listed=True)
        msg = (
            f"{name!r} is numeric: compare it by a number that is added, two values, or one of "
            f"{enumerate_names(NUMERIC_CONTRASTS, 'or')}, not {how!r}.{near}"
        )
        raise ModelError(msg)
    asked = "quartiles" if how == "iqr" else how
    need = f"the {how} of {name!r} is not known: give two values, (low, high)."
    found = statistics(fit, {name: (Reference(name), (asked,))}, need)[name]
    if how == "sd":
        half = 0.5 * (found[2] - found[1])
        return Comparison(name, how, Side(name, -half, added=True), Side(name, half, added=True))
    return Comparison(name, how, *_fixed(name, found[0], found[-1]))


def _fixed(name: str, low: float, high: float) -> tuple[Side, Side]:
    return Side(name, float(low), dtype=pl.Float64()), Side(name, float(high), dtype=pl.Float64())


def _two(name: str, how: Any) -> list[Any]:
    values = [] if isinstance(how, Mapping) else list(how) if hasattr(how, "__iter__") else [how]
    if len(values) != 2:
        msg = f"{name!r} is compared at two values, (low, high), not at {brief(repr(how))}."
        raise ModelError(msg)
    return values


def _steps(fit: Answer, names: Sequence[str], frame: pl.LazyFrame) -> list[float]:
    """Half-widths of symmetric differences: powers of two near a share of the spread of each variable."""
    columns = [named.column(name).cast(pl.Float64).fill_nan(None) for name in names]
    spread = [one.std().alias(f"sd_{k}") for k, one in enumerate(columns)]
    size = [one.abs().max().alias(f"size_{k}") for k, one in enumerate(columns)]
    row = aggregated(frame.select(*spread, *size)).row(0, named=True)
    steps = []
    for k, name in enumerate(names):
        scale = row[f"sd_{k}"]
        if not scale and has_rows(fit):
            low, mean, _ = statistics(fit, {name: (Reference(name), ("sd",))}, "")[name]
            scale = mean - low
        if not scale or not np.isfinite(scale):
            scale = row[f"size_{k}"] or 1.0
        steps.append(2.0 ** round(log2(_STEP * scale)))
    return steps
