"""Whether fixed effects run off to infinity: separation of counts, by linear programming (Konis 2007, ch. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.errors import enumerate_names
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Mat, Vec

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


class Marked(NamedTuple):
    """Some rows of one predictor: columns (p, m); whether each pulls it up for ever, down for ever, or holds it."""

    x: Mat
    up: BoolVec
    low: BoolVec
    mid: BoolVec

    @property
    def rows(self) -> Mat:
        """All of it, a row each (m, p + 3)."""
        return np.concatenate([self.x, self.up[None], self.low[None], self.mid[None]]).T


def marked_rows(model: Model, place: int, blocks: Callable[[], Iterable[Block]]) -> Iterator[Marked]:
    """The rows of the predictor at a place; those that say nothing of it are left out.

    blocks   the rows of all predictors; of the mean they are not asked for
    """
    pairs = ((piece.data, piece.x) for piece in model.pieces()) if not place else (
        (block.data, x) for block in blocks() if (x := block.parts[place].x) is not None
    )
    for data, x in pairs:
        pulls = model.family.pulls(data, place)
        said = ~np.isnan(pulls)
        own, pulls = (x, pulls) if said.all() else (x[:, said], pulls[said])
        yield Marked(own, pulls > 0.0, pulls < 0.0, pulls == 0.0)


def separation(part: Part, rows_of: Callable[[], Iterable[Marked]], std_error: Vec) -> Separation | None:
    """Along what of a predictor's coefficients the likelihood rises for ever, or None.

    std_error (p,)   in the computing basis, NaN if unknown
    """
    suspicious = ~(std_error < LOOSE)
    if not suspicious.any():
        return None
    p = len(std_error)
    rows, all_of_them = np.empty((0, p + 3)), True
    waiting: list[Mat] = []
    for piece in rows_of():
        all_of_them = all_of_them and len(rows) < _MOST_ROWS
        if all_of_them:
            waiting.append(piece.rows)
            if sum(map(len, waiting)) > max(len(rows), _FEW_ROWS):  # sorted a few times, not once for each piece
                rows, waiting = np.unique(np.concatenate([rows, *waiting]), axis=0), []
    rows = np.unique(np.concatenate([rows, *waiting]), axis=0)
    x = rows[:, :p]
    up, low, mid = (rows[:, p + k] > 0 for k in range(3))
    signed = np.concatenate([x[up], -x[low]])
    found: list[Vec] = []
    while len(signed):
        direction = _recession(signed, x[mid])
        if direction is None or not (all_of_them or _holds(direction, found, rows_of())):
            break
        found.append(direction)
        signed = signed[signed @ direction <= _FLAT]
    return _separation(part, rows_of(), np.array(found).T) if found else None


class Faded(NamedTuple):
    """Coefficients (named) and directions (p, k) of a predictor so low in n of n_rows rows that it says nothing."""

    terms: tuple[str, ...]
    directions: Mat
    n: int
    n_rows: int


def faded_rows(part: Part, blocks: Iterable[Block], place: int, coefficients: Vec) -> Faded | None:
    """Where a predictor has run down, or None: directions that only such rows would tell from one another."""
    gram, every, n, n_rows = np.zeros((len(coefficients),) * 2), np.zeros((len(coefficients),) * 2), 0.0, 0.0
    for block in blocks:
        own = block.parts[place]
        assert own.x is not None  # there is a formula
        at = coefficients @ own.x if own.offset is None else coefficients @ own.x + own.offset
        weight = np.ones(len(at)) if block.frequency is None else block.frequency
        kept = own.x[:, at > -FADED]
        gram += kept @ kept.T
        every += own.x @ own.x.T
        n += float(weight[at <= -FADED].sum())
        n_rows += float(weight.sum())
    values, vectors = np.linalg.eigh(gram)
    flat = values <= _NO_SHARE * max(float(np.linalg.eigvalsh(every)[-1]), 1.0)
    if not n or not flat.any():
        return None
    assert part.basis is not None  # there are coefficients
    share = np.abs(part.basis.a.T @ vectors[:, flat]).max(1)
    names = tuple(name for name, s in zip(part.labels, share, strict=True) if s > 1e-6 * share.max())
    return Faded(names, vectors[:, flat], round(n), round(n_rows))


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
        advice = "The values of these coefficients mean nothing; all else stands."
        advice = f"Leave out the formula of {part.parameter}." if whole else advice
        notes.append(Note("no_zero_inflation", text, advice))
    return notes


def _separation(part: Part, pieces: Iterable[Marked], found: Mat) -> Separation:
    """All directions that the rows cannot tell apart that those found (p, f) leave undecided."""
    p = len(found)
    gram, rest, n = np.zeros((p, p)), np.zeros((p, p)), 0
    for piece in pieces:
        x = piece.x
        kept = x[:, (np.abs(found.T @ x) <= _FLAT).all(0)]
        gram += x @ x.T
        rest += kept @ kept.T
        n += x.shape[1]
    values, vectors = np.linalg.eigh(rest / n)
    directions = vectors[:, values <= _NO_SHARE * max(float(values[-1]), 1.0)]
    assert part.basis is not None  # there are coefficients
    named = part.basis.a.T @ directions
    back = np.linalg.inv(part.basis.a)
    share = np.abs(named).max(1) * np.sqrt(np.einsum("pi,ij,pj->p", back, gram / n, back))
    names = tuple(name for name, s in zip(part.labels, share, strict=True) if s > 1e-6 * share.max())
    return Separation(names, directions)


def _holds(direction: Vec, before: Sequence[Vec], pieces: Iterable[Marked]) -> bool:
    """Whether no row speaks against a direction in which some rows let the likelihood rise for ever.

    Rows that the directions before it predict without error have nothing to say.
    """
    p = len(direction)
    for piece in pieces:
        rows = piece.rows
        for other in before:
            rows = rows[np.abs(rows[:, :p] @ other) <= _FLAT]
        along, marks = rows[:, :p] @ direction, rows[:, p:] > 0
        if (along[marks[:, 0]] < -_FLAT).any() or (along[marks[:, 1]] > _FLAT).any():
            return False
        if (np.abs(along[marks[:, 2]]) > _FLAT).any():
            return False
    return True


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
