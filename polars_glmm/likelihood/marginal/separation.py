"""Whether fixed effects run off to infinity: separation of counts, or of censored times (Konis 2007, ch. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.errors import enumerate_names
from polars_glmm.families.base import Family, Parameter
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.likelihood.rows.holder import OverBlocks, added, stacked
from polars_glmm.likelihood.rows.sums import Answering
from polars_glmm.notes import Note
from polars_glmm.typing import Mat, Vec

LOOSE = 30.0
"""Standard error of a coefficient of a unit-variance column beyond which separation is looked for."""

_MOST_ROWS = 1_000_000
"""Distinct rows that the program is given; a direction found from some rows is checked against all."""
_FEW_ROWS = 100_000
_NO_SHARE = 1e-10
"""Mean square along a direction of unit length that is rounding error: columns have unit mean square."""
_FLAT = 1e-7
FADED = 9.0
"""A logit below the negative of this is a probability of 1e-4 at most, beside which its end is nothing."""


class Separation(NamedTuple):
    """Names of the fixed effects that run off to infinity, and the directions (p, k) in the computing basis that do.

    Only combinations across the directions are estimated: they have the same variance as without the rows that the
    directions predict without error.
    """

    terms: tuple[str, ...]
    directions: Mat


@dataclass(frozen=True, slots=True, eq=False)
class OfPredictor:
    """The predictor at a place in a family, over the rows of a holder: of the mean any will do, of others blocks."""

    part: Part
    family: Family
    place: int
    rows: Answering

    def ask(self, function: Callable[..., Any], arguments: tuple[Any, ...], join: Callable[..., Any]) -> Any:
        """The answer of all rows to a function of (pieces, family, place, …)."""
        return self.rows.ask(OverBlocks(function, (self.family, self.place, *arguments), join))


def separation(of: OfPredictor, std_error: Vec) -> Separation | None:
    """Along what of a predictor's coefficients the likelihood rises for ever, or None.

    std_error (p,)   in the computing basis, NaN if unknown
    """
    if not (~(std_error < LOOSE)).any():
        return None
    p = len(std_error)
    rows, all_of_them = of.ask(_corners, (p,), _all_corners)
    x = rows[:, :p]
    up, low, mid = (rows[:, p + k] > 0 for k in range(3))
    signed = np.concatenate([x[up], -x[low]])
    found: list[Vec] = []
    while len(signed):
        direction = _recession(signed, x[mid])
        if direction is None:
            break
        if not all_of_them and not of.ask(_holds, (direction, tuple(found)), all):
            break
        found.append(direction)
        signed = signed[signed @ direction <= _FLAT]
    return _separation(of, np.array(found).T) if found else None


def _separation(of: OfPredictor, found: Mat) -> Separation:
    """All directions that the rows cannot tell apart that those found (p, f) leave undecided."""
    gram, rest, n = of.ask(_undecided, (found,), added)
    values, vectors = np.linalg.eigh(rest / n)
    directions = vectors[:, values <= _NO_SHARE * max(float(values[-1]), 1.0)]
    assert of.part.basis is not None  # there are coefficients
    back = np.linalg.inv(of.part.basis.a)
    spread = np.sqrt(np.einsum("pi,ij,pj->p", back, gram / n, back))
    return Separation(_names_along(of.part, directions, spread), directions)


def _names_along(part: Part, directions: Mat, spread: Vec | float = 1.0) -> tuple[str, ...]:
    """The coefficients that have a share in directions (p, k), in units of the spread of their columns."""
    assert part.basis is not None  # there are coefficients
    share = np.abs(part.basis.a.T @ directions).max(1) * spread
    return tuple(name for name, s in zip(part.labels, share, strict=True) if s > 1e-6 * share.max())


def _marked(pieces: Iterable[Any], family: Family, place: int) -> Iterator[Mat]:
    """Rows (m, p + 3) by piece: columns; whether each pulls the predictor up for ever, down for ever, or holds it.

    Rows that say nothing of it are left out.
    """
    for piece in pieces:
        x = piece.parts[place].x if place else piece.x
        pulls = family.pulls(piece.data, place)
        said = ~np.isnan(pulls)
        if not said.all():
            x, pulls = x[:, said], pulls[said]
        yield np.concatenate([x, (pulls > 0.0)[None], (pulls < 0.0)[None], (pulls == 0.0)[None]]).T


def _corners(pieces: Iterable[Any], family: Family, place: int, p: int) -> tuple[Mat, bool]:
    """Distinct marked rows (m, p + 3), and whether they are all that there are."""
    rows, all_of_them = np.empty((0, p + 3)), True
    waiting: list[Mat] = []
    for marked in _marked(pieces, family, place):
        all_of_them = all_of_them and len(rows) < _MOST_ROWS
        if all_of_them:
            waiting.append(marked)
            if sum(map(len, waiting)) > max(len(rows), _FEW_ROWS):  # sorted a few times, not once for each piece
                rows, waiting = stacked([rows, *waiting]), []
    return stacked([rows, *waiting]), all_of_them


def _all_corners(parts: Sequence[tuple[Mat, bool]]) -> tuple[Mat, bool]:
    """The same of several sets of rows."""
    rows, all_of_them = parts[0]
    for more, whole in parts[1:]:
        if len(rows) >= _MOST_ROWS:
            return rows, False
        rows, all_of_them = stacked([rows, more]), all_of_them and whole
    return rows, all_of_them


def _undecided(pieces: Iterable[Any], family: Family, place: int, found: Mat) -> tuple[Mat, Mat, int]:
    """Cross-products of the columns, those of rows that directions (p, f) leave undecided, and the number of rows."""
    p = len(found)
    gram, rest, n = np.zeros((p, p)), np.zeros((p, p)), 0
    for marked in _marked(pieces, family, place):
        x = marked[:, :p].T
        kept = x[:, (np.abs(found.T @ x) <= _FLAT).all(0)]
        gram += x @ x.T
        rest += kept @ kept.T
        n += x.shape[1]
    return gram, rest, n


def _holds(pieces: Iterable[Any], family: Family, place: int, direction: Vec, before: Sequence[Vec]) -> bool:
    """Whether no row speaks against a direction in which some rows let the likelihood rise for ever.

    Rows that the directions before it predict without error have nothing to say.
    """
    p = len(direction)
    for marked in _marked(pieces, family, place):
        rows = marked
        for other in before:
            rows = rows[np.abs(rows[:, :p] @ other) <= _FLAT]
        along, marks = rows[:, :p] @ direction, rows[:, p:] > 0
        if (along[marks[:, 0]] < -_FLAT).any() or (along[marks[:, 1]] > _FLAT).any():
            return False
        if (np.abs(along[marks[:, 2]]) > _FLAT).any():
            return False
    return True


_SMALLER = "The fit stands; the smaller family says the same."
_OTHER_FAMILY = "Responses may be counts, or multiples of one number: choose a family for them."
_NO_MEANING = "The values of these coefficients mean nothing; all else stands."


class Faded(NamedTuple):
    """Coefficients (named) and directions (p, k) of a predictor that says nothing in n of n_rows rows."""

    terms: tuple[str, ...]
    directions: Mat
    n: int
    n_rows: int


def faded_rows(of: OfPredictor, coefficients: Vec, side: float = -1.0, far: float = FADED) -> Faded | None:
    """Where a predictor has run down (side −1) or up beyond `far`, or None: directions that only such rows would tell
    from one another.
    """
    gram, every, (n, n_rows) = of.ask(_not_faded, (coefficients, side, far), added)
    values, vectors = np.linalg.eigh(gram)
    flat = values <= _NO_SHARE * max(float(np.linalg.eigvalsh(every)[-1]), 1.0)
    if not n or not flat.any():
        return None
    directions = vectors[:, flat]
    return Faded(_names_along(of.part, directions), directions, round(n), round(n_rows))


def limited_rows(of: OfPredictor, one: Parameter, coefficients: Vec) -> list[tuple[float, Faded]]:
    """The ends of a parameter that a formula takes it to, each with its rows."""
    ends = [(1.0, np.inf)] if one.ends is None else [(-1.0, one.ends[0]), (1.0, one.ends[1])]
    found = [(end, faded_rows(of, coefficients, side, one.far)) for side, end in ends]
    return [(end, rows) for end, rows in found if rows is not None]


def _not_faded(
    blocks: Iterable[Block], _: Family, place: int, coefficients: Vec, side: float, far: float
) -> tuple[Mat, Mat, Vec]:
    """Cross-products of the columns of rows that have not faded, and of all; how many have, and how many there are."""
    gram, every, n = np.zeros((len(coefficients),) * 2), np.zeros((len(coefficients),) * 2), np.zeros(2)
    for block in blocks:
        own = block.parts[place]
        x = own.x
        assert isinstance(x, np.ndarray)  # there is a formula, and thresholds do not fade
        at = coefficients @ x if own.offset is None else coefficients @ x + own.offset
        weight = np.ones(len(at)) if block.frequency is None else block.frequency
        gone = side * at >= far
        kept = x[:, ~gone]
        gram += kept @ kept.T
        every += x @ x.T
        n += [float(weight[gone].sum()), float(weight.sum())]
    return gram, every, n


def no_zero_notes(faded: Sequence[tuple[Part, Faded]]) -> list[Note]:
    """Notes where the probability of further zeros has gone to nothing."""
    notes = []
    for part, one in faded:
        whole = one.n == one.n_rows
        where = "all rows" if whole else f"{one.n:,} of {one.n_rows:,} rows"
        text = (
            f"no zero inflation in {where}: along {enumerate_names(one.terms)} the likelihood rises as "
            f"{part.parameter} goes to zero."
        )
        advice = f"Leave out the formula of {part.parameter}." if whole else _NO_MEANING
        notes.append(Note("no_zero_inflation", text, advice))
    return notes


def limit_note(one: Parameter, end: float) -> Note:
    """A note where a constant has run to the end at which the family is another."""
    if _is_least(one, end):
        text = f"{one.name} is estimated at {end:g}, the least there is: the likelihood rises to it."
        return Note("at_limit", text, _OTHER_FAMILY)
    found = "has no finite estimate" if one.ends is None else f"is estimated at {end:g}"
    return Note("at_limit", f"{one.name} {found}: the likelihood rises to that of family={one.limit!r}.", _SMALLER)


def _is_least(one: Parameter, end: float) -> bool:
    """Whether an end is the lower one of a parameter between two, which is no other family."""
    return one.ends is not None and end == one.ends[0]


def ended_constants(model: Model, beta: Vec) -> list[tuple[Part, Parameter, float]]:
    """Constants that have run so far that the family is another, and their values there: infinite, or an end."""
    found = []
    for part, one in zip(model.parts, model.family.parameters, strict=False):
        at = beta[part.own.start] if part.constant else 0.0
        if at > one.far:
            found.append((part, one, np.inf if one.ends is None else one.ends[1]))
        elif one.ends is not None and at < -one.far:
            found.append((part, one, one.ends[0]))
    return found


def limit_notes(limited: Sequence[tuple[Parameter, float, Faded]]) -> list[Note]:
    """Notes where a formula takes a parameter to the end at which the family is another."""
    notes = []
    for one, end, rows in limited:
        whole = rows.n == rows.n_rows
        where = "all rows" if whole else f"{rows.n:,} of {rows.n_rows:,} rows"
        goes = "has no finite value" if np.isinf(end) else f"goes to {end:g}"
        least = _is_least(one, end)
        rises = f"to that of family={one.limit!r}" if one.limit and not least else "to it"
        text = f"{one.name} {goes} in {where}: along {enumerate_names(rows.terms)} the likelihood rises {rises}."
        advice = _OTHER_FAMILY if least else _SMALLER
        notes.append(Note("at_limit", text, advice if whole else _NO_MEANING))
    return notes


def _recession(signed: Vec, fixed: Vec) -> Vec | None:
    """γ in the unit box with signed·γ ≥ 0, fixed·γ = 0 and signed·γ ≠ 0, or None."""
    from scipy.optimize import linprog  # noqa: PLC0415  # 0.3 s of import for a rare question

    found = linprog(
        -signed.sum(0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        A_eq=fixed if len(fixed) else None,
        b_eq=np.zeros(len(fixed)) if len(fixed) else None,
        bounds=[(-1.0, 1.0)] * signed.shape[1],
        method="highs",
    )
    if found.status != 0 or found.fun is None or found.x is None or -found.fun < 1e-7 * len(signed):
        return None
    return np.where(np.abs(found.x) < 1e-7, 0.0, found.x)  # rounding of the solver
