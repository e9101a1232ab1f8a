"""Sums over the rows of a model that no search is needed for: constants, and where a search begins.

Rows come in pieces that fit in cache, as views of arrays in memory or block by block from disk: the same sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.families.base import Family, Rows
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.typing import Mat, Vec


class Piece(Protocol):
    """Some rows of a model, fixed columns x (p, m) in the basis used for computing."""

    @property
    def data(self) -> Rows: ...
    @property
    def frequency(self) -> Vec | None: ...
    @property
    def x(self) -> Mat: ...
    @property
    def offset(self) -> Vec | None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Rows of a design that follow each other: views, and fixed columns made when they are asked for."""

    design: Design
    basis: Basis
    rows: slice

    @property
    def data(self) -> Rows:
        design = self.design
        return Rows(design.y[self.rows], self._part(design.trials), self._part(design.precision))

    @property
    def frequency(self) -> Vec | None:
        return self._part(self.design.frequency)

    @property
    def x(self) -> Mat:
        return self.basis.columns(self.rows)

    @property
    def offset(self) -> Vec | None:
        return self._part(self.design.mu.offset)

    def _part(self, v: Vec | None) -> Vec | None:
        return None if v is None else v[self.rows]


def constant(pieces: Iterable[Piece], family: Family) -> float:
    """The parameter-free part of the log-likelihood."""
    return sum(_total(family.constant(piece.data), piece) for piece in pieces)


def saturated(pieces: Iterable[Piece], family: Family) -> float | None:
    """Log-likelihood of the saturated model, or None where there is none."""
    total = 0.0
    for piece in pieces:
        each = family.saturated(piece.data)
        if each is None:
            return None
        total += _total(each, piece)
    return total


def _total(each: Vec, piece: Piece) -> float:
    return float(each.sum() if piece.frequency is None else (each * piece.frequency).sum())


class FirstFit(NamedTuple):
    """Least squares of a first linear predictor: beta (p,), its mean over the rows, offset taken off."""

    beta: Vec
    level: float


def first_fit(pieces: Iterable[Piece], family: Family, p: int) -> FirstFit:
    """Where the fit without random effects begins."""
    gram, right, total, n = np.zeros((p, p)), np.zeros(p), 0.0, 0
    for piece in pieces:
        eta = family.start(piece.data)
        if piece.offset is not None:
            eta = eta - piece.offset
        x = piece.x
        gram += x @ x.T
        right += x @ eta
        total += float(eta.sum())
        n += len(eta)
    beta: Vec = np.asarray(np.linalg.lstsq(gram, right, rcond=None)[0], dtype=np.float64) if p else np.empty(0)
    return FirstFit(beta, total / n)


def first_levels(pieces: Iterable[Piece], family: Family, beta: Vec) -> list[float]:
    """Predictors of the parameters beyond the mean from moments at the means of beta; of several pieces the mean."""
    total, n = np.zeros(len(family.parameters) - 1), 0
    for piece in pieces:
        eta = beta @ piece.x if len(beta) else np.zeros(len(piece.data.y))
        mu = family.mean(eta if piece.offset is None else eta + piece.offset)
        total += len(mu) * np.array(family.start_further(piece.data, mu))
        n += len(mu)
    found: list[float] = (total / n).tolist()
    return found


def remoteness(pieces: Iterable[Piece], family: Family) -> float:
    """What bounds the distance to the limit of a family, times phi or 1/phi."""
    return sum(float(family.remoteness(piece.data).sum()) for piece in pieces)


def response_moments(pieces: Iterable[Piece]) -> tuple[float, float]:
    """Mean and variance of y."""
    n, mean, squares = 0, 0.0, 0.0
    for piece in pieces:
        y = piece.data.y
        own, m = float(np.mean(y)), len(y)
        squares += float(np.var(y)) * m + (own - mean) ** 2 * n * m / (n + m)
        mean += (own - mean) * m / (n + m)
        n += m
    return mean, squares / n


def predictor_size(pieces: Iterable[Piece], beta: Vec) -> float:
    """Root mean square of Xβ."""
    total, n = 0.0, 0
    for piece in pieces:
        eta = beta @ piece.x
        total += float(eta @ eta)
        n += len(eta)
    return float(np.sqrt(total / n))
