"""Whether the smaller of two models is a case of the larger one: its columns and its offset are theirs, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polars_glmm.design.known import read_known
from polars_glmm.errors import GlmmError
from polars_glmm.inference.same_rows import used_rows
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    import polars as pl

    from polars_glmm.answer.record import Answer

_ROWS = 5000
"""Rows that are looked at: what is no combination of columns there is none anywhere."""
_OUTSIDE = 1e-6
"""Share of a column's size that no combination of other columns gives, from which it is not one of them."""


class _Linear(NamedTuple):
    """What a predictor may be: an offset (n,) plus any combination of columns (p, n); their names."""

    offset: Vec
    x: Mat
    names: tuple[str, ...]


def outside(small: Answer, large: Answer) -> str | None:
    """What of the smaller model the larger one has not: a column or an offset, in words; None where nothing is found.

    Both are evaluated on rows that one of them keeps; without rows only offsets are told apart, by what they read.
    """
    rows = _rows_of_both(small, large)
    if rows is None:
        return _other_offset(small, large)
    for parameter in [p.parameter for p in small.recipe.predictors if p.parameter in _parameters(large)]:
        try:
            less, more = _linear(small, rows, parameter), _linear(large, rows, parameter)
            shifts = [_linear(large, rows, one).x for one in _moving_all(large, parameter)]
        except GlmmError:  # rows that one of the models cannot read
            return None
        if len(less.offset) != len(more.offset) or len(more.x) >= len(more.offset):
            return None
        basis = _basis(np.vstack([more.x, *shifts]))
        for name, column in zip(less.names, less.x, strict=True):
            if _is_outside(column, basis):
                return f"{name!r}"
        if _is_outside(less.offset - more.offset, basis):
            return "another offset"
    return None


def _moving_all(fit: Answer, parameter: str) -> list[str]:
    """Predictors whose columns may do what those of the mean do: a column that moves every threshold moves the mean."""
    picked = [one.name for one in fit.recipe.spec.family.parameters if one.picked]
    return [name for name in picked if parameter == "mu" and name in _parameters(fit)]


def _parameters(fit: Answer) -> set[str]:
    return {predictor.parameter for predictor in fit.recipe.predictors}


def _rows_of_both(small: Answer, large: Answer) -> pl.DataFrame | None:
    """Some rows that hold the columns of both models, or None."""
    if any(fit.spec.family.curve is not None for fit in (small, large)):
        return None
    for fit in (large, small):
        if fit.rows is not None and {*small.spec.columns(), *large.spec.columns()} <= set(fit.rows.columns):
            rows = used_rows(fit)
            return rows.gather_every(-(-max(rows.height, 1) // _ROWS))
    return None


def _linear(fit: Answer, rows: pl.DataFrame, parameter: str) -> _Linear:
    """A predictor on rows; coefficients that are held belong to its offset."""
    known = read_known(fit.recipe, rows, own_levels=True)
    own = next(p for p in known.design.predictors if p.parameter == parameter)
    offset = np.zeros(own.x.shape[1]) if own.offset is None else np.asarray(own.offset, dtype=float)
    held = dict(fit.call.fixed or {}) if parameter == "mu" else {}
    free = np.array([name not in held for name in own.names], dtype=bool)
    for name, column in zip(own.names, own.x, strict=True):
        if name in held:
            offset = offset + held[name] * column
    return _Linear(offset, own.x[free], tuple(np.array(own.names, dtype=object)[free]))


def _basis(x: Mat) -> Mat:
    """Orthonormal columns (n, p) that span those of x (p, n)."""
    size = np.sqrt((x**2).sum(1))
    return np.asarray(np.linalg.qr((x[size > 0.0] / size[size > 0.0, None]).T)[0])


def _is_outside(column: Vec, basis: Mat) -> bool:
    rest = column - basis @ (basis.T @ column)
    rest -= basis @ (basis.T @ rest)  # once more, for the digits
    return bool(np.sqrt(rest @ rest) > _OUTSIDE * np.sqrt(column @ column))


def _other_offset(small: Answer, large: Answer) -> str | None:
    """Of models without rows: offsets that read other columns, unless the larger model has these among its own."""
    for less in small.recipe.predictors:
        if less.parameter not in _parameters(large):
            continue
        more = large.recipe.predictor(less.parameter)
        if less.offset != more.offset:
            theirs = [column.node for column in more.columns]
            if any(node is not None and node not in theirs for node in (less.offset, more.offset)):
                return "another offset"
    return None
