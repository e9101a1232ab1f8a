"""The groups and places of correlated residuals met with data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.covariance.correlations import Markov
from polars_glmm.errors import ColumnError, ModelError, UnknownLevelError, brief, enumerate_names
from polars_glmm.frames.levels import Levels, combine, is_label
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.residual import ResidualTerm
from polars_glmm.typing import CodeVec, Mat, Vec

from .recipe import ResidualRecipe
from .records import ResidualRows

_FEWEST_GROUPS = "residual_many_parameters"
_MOST_NUMBERS = 2e8
"""Entries of a correlation matrix and its derivatives, 8 bytes each, beyond which it is refused."""


class LearnedResidual(NamedTuple):
    """Groups and places of the rows, and what is to be said of them."""

    rows: ResidualRows
    recipe: ResidualRecipe
    notes: tuple[Note, ...]


def learn_residual(term: ResidualTerm, table: Table) -> LearnedResidual:
    """The rows' groups and places.

    Raises ColumnError for columns that hold no places, ModelError where rows of one group tie in time, or where no
    group has two rows.
    """
    one = term.correlation
    groups = _groups(term, table)
    counts = np.bincount(groups.codes, minlength=groups.n_levels)
    if int(counts.max()) < 2:
        msg = f"residual={term.text!r}: no {_thing(term)} has two rows, so that there is no correlation to estimate."
        raise ModelError(msg)
    places, labels = _places(term, table)
    _refuse_ties(term, table, groups, places)
    size = int(counts.max()) if one.kind == "any" else int(places.max()) + 1 if one.kind in ("order", "label") else 0
    _refuse_dense(term, size if one.kind in ("order", "label") else int(counts.max()), one.count(size))
    if one.of == "lag":
        _refuse_lags_without_pairs(term, groups.codes, places[:, 0], size)
    k = one.count(size)
    names = parameter_names(term, size, labels)
    rows = ResidualRows(term.structure, groups.codes, groups.n_levels, places, size, names)
    notes = []
    if k > 1 and groups.n_levels < k:
        text = f"residual={term.text!r} has {k} correlations for {groups.n_levels} {_thing(term)}s: they are uncertain."
        notes.append(Note(_FEWEST_GROUPS, text))
    return LearnedResidual(rows, ResidualRecipe(size, labels), tuple(notes))


def residual_rows(term: ResidualTerm, recipe: ResidualRecipe, table: Table) -> ResidualRows:
    """Groups and places of other rows than those of the fit.

    Raises UnknownLevelError for an occasion of us() or a lag of toep() that the fit has no correlation for.
    """
    groups = _groups(term, table)
    places, labels = _places(term, table)
    _refuse_ties(term, table, groups, places)
    if term.correlation.of == "pair":
        known = {label: k for k, label in enumerate(recipe.labels)}
        unknown = [label for label in labels if label not in known]
        if unknown:
            msg = f"residual={term.text!r}: the fit has no correlations of {term.places[0]} = {unknown[0]}."
            raise UnknownLevelError(msg)
        places = np.array([known[label] for label in labels], dtype=np.float64)[places.astype(np.intp)]
    if term.correlation.of == "lag" and places.size and int(_span(groups, places[:, 0])) >= recipe.size:
        msg = (
            f"residual={term.text!r}: the fit has correlations up to lag {recipe.size - 1}, not of rows further apart."
        )
        raise UnknownLevelError(msg)
    names = parameter_names(term, recipe.size, recipe.labels)
    return ResidualRows(term.structure, groups.codes, groups.n_levels, places, recipe.size, names)


def _span(groups: Levels, times: Vec) -> float:
    """The longest time from the first row of a group to its last."""
    last, first = np.full(groups.n_levels, -np.inf), np.full(groups.n_levels, np.inf)
    np.maximum.at(last, groups.codes, times)
    np.minimum.at(first, groups.codes, times)
    return float((last - first).max())


def _thing(term: ResidualTerm) -> str:
    return term.group or "group"


def _groups(term: ResidualTerm, table: Table) -> Levels:
    if not term.keys:
        return Levels(np.zeros(table.n_rows, dtype=np.int32), np.zeros(1, dtype=np.intp))
    try:
        return combine([table.levels(key) for key in term.keys])
    except TypeError as error:
        msg = f"residual=: columns {enumerate_names(term.keys)} cannot be grouped by: {error}"
        raise ColumnError(msg) from error


def _places(term: ResidualTerm, table: Table) -> tuple[Mat, tuple[str, ...]]:
    """Places (n, q), and names of the positions that us has parameters for."""
    kind = term.correlation.kind
    if kind == "any":
        return np.zeros((table.n_rows, 0)), ()
    if kind == "coordinates":
        return np.column_stack([_number(term, name, table) for name in term.places]), ()
    name = term.places[0]
    if kind == "label":
        levels = table.levels(name)
        return levels.codes[:, None].astype(np.float64), tuple(map(str, table.values(name)))
    times = _number(term, name, table)
    if kind == "order":
        bad = np.flatnonzero(times != np.rint(times))
        if len(bad):
            msg = (
                f"residual={term.text!r} counts whole steps of time, and {name!r} is {times[bad[0]]:g} in row "
                f"{table.row(int(bad[0]))}. Use car1({name} | …) for times that lie anywhere, or number the occasions."
            )
            raise ColumnError(msg)
        times = times - times.min()
    return times[:, None], ()


def _number(term: ResidualTerm, name: str, table: Table) -> Vec:
    """A column of times or of one coordinate: numbers, days of dates, or the order of an Enum."""
    dtype = table.dtype(name)
    if isinstance(dtype, pl.Enum):
        return table.series[name].to_physical().to_numpy().astype(np.float64)
    if dtype == pl.Date:
        return table.series[name].to_physical().to_numpy().astype(np.float64)
    if dtype.is_numeric():
        return table.number(name)
    why = "labels have no distances: make them an Enum in their order" if is_label(dtype) else "make it a number"
    msg = f"residual={term.text!r}: {name!r} is {brief(dtype)}; {why}."
    raise ColumnError(msg)


def _refuse_ties(term: ResidualTerm, table: Table, groups: Levels, places: Mat) -> None:
    """Raise ModelError where two rows of one group have one place, naming both."""
    if not places.shape[1]:
        return
    order = np.lexsort((*places.T[::-1], groups.codes))
    same = (np.diff(groups.codes[order]) == 0) & (np.diff(places[order], axis=0) == 0.0).all(1)
    tied = np.flatnonzero(same)
    if not len(tied):
        return
    first, second = (int(order[tied[0] + k]) for k in (0, 1))
    at = ", ".join(f"{name} = {table.series[name][first]}" for name in (*term.keys, *term.places))
    rows = sorted((table.row(first), table.row(second)))
    msg = (
        f"residual={term.text!r}: rows {rows[0]} and {rows[1]} have the same {at}. Rows of one {_thing(term)} need "
        "different places: name the series they belong to as the group, or take their mean."
    )
    raise ModelError(msg)


def _refuse_dense(term: ResidualTerm, m: int, k: int) -> None:
    """Raise ModelError for a matrix of m places and its k derivatives that no memory holds."""
    one = term.correlation
    in_closed_form = one.kind == "any" or (isinstance(one, Markov) and one.markov)
    if not in_closed_form and (numbers := (k + 1.0) * m * m) > _MOST_NUMBERS:
        msg = (
            f"residual={term.text!r}: the correlations of {m:,} places and their derivatives would take "
            f"{8e-9 * numbers:,.0f} GB. Correlate within smaller groups, or use ar1(), car1() or cs(), which need no "
            "matrix."
        )
        raise ModelError(msg)


def _refuse_lags_without_pairs(term: ResidualTerm, codes: CodeVec, times: Vec, size: int) -> None:
    """Raise ModelError for a lag that no two rows of a group have: its correlation is in no row."""
    seen = np.zeros(size, dtype=np.bool_)
    order = np.lexsort((times, codes))
    for stretch in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
        own = times[stretch].astype(np.intp)
        seen[np.abs(own[:, None] - own)] = True
    if not seen.all():
        lag = int(np.flatnonzero(~seen)[0])
        msg = (
            f"residual={term.text!r}: no two rows of one {_thing(term)} are {lag} apart, so that the correlation at "
            "that lag is not known. Use ar1() or car1(), or us() for occasions that are not evenly spaced."
        )
        raise ModelError(msg)


def parameter_names(term: ResidualTerm, size: int, labels: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the parameters of the correlation: rho(id), range(id), rho(id: 1) by lag, rho(id: a, b) by occasions."""
    one = term.correlation
    head = "range" if one.lengths else "rho"
    if one.of == "lag":
        inner = [str(lag) for lag in range(1, size)]
    elif one.of == "pair":
        inner = [f"{labels[j]}, {labels[i]}" for i in range(size) for j in range(i)]
    else:
        return (f"{head}({term.group})" if term.group else head,)
    return tuple(f"{head}({term.group}: {text})" if term.group else f"{head}({text})" for text in inner)
