"""Whether fixed effects run off to infinity: separation of counts, or of censored times (Konis 2007, ch. 4)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Family
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows.holder import OverBlocks, added, stacked
from polars_glmm.likelihood.rows.sums import Piece
from polars_glmm.typing import Mat, Vec

LOOSE = 30.0
"""Standard error of a coefficient of a unit-variance column beyond which separation is looked for."""

_MOST_ROWS = 1_000_000
"""Distinct rows that the program is given; a direction found from some rows is checked against all."""
_FEW_ROWS = 100_000
_NO_SHARE = 1e-10
"""Mean square along a direction of unit length that is rounding error: columns have unit mean square."""
_FLAT = 1e-7


class Separation(NamedTuple):
    """Names of the fixed effects that run off to infinity, and the directions (p, k) in the computing basis that do.

    Only combinations across the directions are estimated: they have the same variance as without the rows that the
    directions predict without error.
    """

    terms: tuple[str, ...]
    directions: Mat


def separation(model: Model, std_error: Vec) -> Separation | None:
    """Along what the likelihood rises for ever, or None.

    std_error (p,)   in the computing basis, NaN if unknown
    """
    suspicious = ~(std_error < LOOSE)
    if not model.family.separable or not suspicious.any():
        return None
    family, p = model.family, len(model.x.a)
    rows, all_of_them = model.rows.ask(OverBlocks(_corners, (p, family), _all_corners))
    x = rows[:, :p]
    up, low, mid = (rows[:, p + k] > 0 for k in range(3))
    signed = np.concatenate([x[up], -x[low]])
    found: list[Vec] = []
    while len(signed):
        direction = _recession(signed, x[mid])
        if direction is None:
            break
        if not all_of_them and not model.rows.ask(OverBlocks(_holds, (direction, tuple(found), family), all)):
            break
        found.append(direction)
        signed = signed[signed @ direction <= _FLAT]
    return _separation(model, np.array(found).T) if found else None


def _separation(model: Model, found: Mat) -> Separation:
    """All directions that the rows cannot tell apart that those found (p, f) leave undecided."""
    gram, rest, n = model.rows.ask(OverBlocks(_undecided, (found,), added))
    values, vectors = np.linalg.eigh(rest / n)
    directions = vectors[:, values <= _NO_SHARE * max(float(values[-1]), 1.0)]
    named = model.x.a.T @ directions
    back = np.linalg.inv(model.x.a)
    share = np.abs(named).max(1) * np.sqrt(np.einsum("pi,ij,pj->p", back, gram / n, back))
    names = tuple(name for name, s in zip(model.names, share, strict=True) if s > 1e-6 * share.max())
    return Separation(names, directions)


def _corners(pieces: Iterable[Piece], p: int, family: Family) -> tuple[Mat, bool]:
    """Distinct marked rows (m, p + 3), and whether they are all that there are."""
    rows, all_of_them = np.empty((0, p + 3)), True
    waiting: list[Mat] = []
    for piece in pieces:
        all_of_them = all_of_them and len(rows) < _MOST_ROWS
        if all_of_them:
            waiting.append(_marked(piece, family))
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


def _undecided(pieces: Iterable[Piece], found: Mat) -> tuple[Mat, Mat, int]:
    """Cross-products of the columns, those of rows that directions (p, f) leave undecided, and the number of rows."""
    p = len(found)
    gram, rest, n = np.zeros((p, p)), np.zeros((p, p)), 0
    for piece in pieces:
        x = piece.x
        kept = x[:, (np.abs(found.T @ x) <= _FLAT).all(0)]
        gram += x @ x.T
        rest += kept @ kept.T
        n += x.shape[1]
    return gram, rest, n


def _marked(piece: Piece, family: Family) -> Mat:
    """Rows (m, p + 3): fixed columns, and whether a row pulls eta up for ever, down, or neither."""
    pull = family.pull(piece.data)
    return np.concatenate([piece.x, [pull > 0.0], [pull < 0.0], [pull == 0.0]]).T


def _holds(pieces: Iterable[Piece], direction: Vec, before: Sequence[Vec], family: Family) -> bool:
    """Whether no row speaks against a direction in which some rows let the likelihood rise for ever.

    Rows that the directions before it predict without error have nothing to say.
    """
    p = len(direction)
    for piece in pieces:
        rows = _marked(piece, family)
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
