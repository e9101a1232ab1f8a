"""Sums over the rows of a model that no search is needed for: constants, and where a search begins.

Rows come in pieces that fit in cache, as views of arrays in memory or block by block from disk, or are asked for where
they are: the same sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.families.base import Family, Rows
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.rows.holder import A, OverBlocks, Pass, added
from polars_glmm.linalg.columns import stretches
from polars_glmm.typing import Mat, Vec


class Answering(Protocol):
    """Who answers for rows."""

    def ask(self, question: Pass[Any, A], /) -> A:
        """The answer for all rows."""


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
    @property
    def of_phi(self) -> tuple[Mat, Vec | None]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Rows of a design that follow each other: views, and fixed columns made when they are asked for."""

    design: Design
    basis: Basis
    rows: slice

    @property
    def data(self) -> Rows:
        design = self.design
        return design.rows.each(lambda v: v[self.rows])

    @property
    def frequency(self) -> Vec | None:
        return self._part(self.design.frequency)

    @property
    def x(self) -> Mat:
        return self.basis.columns(self.rows)

    @property
    def offset(self) -> Vec | None:
        return self._part(self.design.mu.offset)

    @property
    def of_phi(self) -> tuple[Mat, Vec | None]:
        """Columns (s, m) and offset of the formula of phi."""
        phi = self.design.phi
        assert phi is not None  # asked of models that have one
        return phi.x[:, self.rows], self._part(phi.offset)

    def _part(self, v: Vec | None) -> Vec | None:
        return None if v is None else v[self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class Stretches:
    """The rows of a design in memory, `length` at a time; the holder of sums that no random effect takes part in."""

    design: Design
    basis: Basis
    length: int

    @property
    def n_rows(self) -> int:
        return self.design.n_rows

    def blocks(self) -> Iterator[Stretch]:
        """The rows, a stretch at a time."""
        return (Stretch(self.design, self.basis, rows) for rows in stretches(self.n_rows, self.length))

    def ask(self, question: Pass[Any, A]) -> A:
        """The answer for all rows."""
        return question.of(self)


def constant(rows: Answering, family: Family) -> float:
    """The parameter-free part of the log-likelihood."""
    return rows.ask(OverBlocks(_constant, (family,), added))


def _constant(pieces: Iterable[Piece], family: Family) -> float:
    return sum(_total(family.constant(piece.data), piece) for piece in pieces)


def saturated(rows: Answering, family: Family) -> float | None:
    """Log-likelihood of the saturated model, or None where there is none."""
    return rows.ask(OverBlocks(_saturated, (family,), added))


def _saturated(pieces: Iterable[Piece], family: Family) -> float | None:
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


def first_fit(rows: Answering, family: Family, p: int) -> FirstFit:
    """Where the fit without random effects begins."""
    gram, right, total, n = rows.ask(OverBlocks(_first_sums, (family, p), added))
    beta: Vec = np.asarray(np.linalg.lstsq(gram, right, rcond=None)[0], dtype=np.float64) if p else np.empty(0)
    return FirstFit(beta, total / n)


def _first_sums(pieces: Iterable[Piece], family: Family, p: int) -> tuple[Mat, Vec, float, int]:
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
    return gram, right, total, n


def first_levels(rows: Answering, family: Family, beta: Vec) -> list[float]:
    """Predictors of the parameters beyond the mean from moments at the means of beta; of several pieces the mean."""
    total, n = rows.ask(OverBlocks(_level_sums, (family, beta), added))
    found: list[float] = (total / n).tolist()
    return found


def _level_sums(pieces: Iterable[Piece], family: Family, beta: Vec) -> tuple[Vec, int]:
    total, n = np.zeros(len(family.parameters) - 1), 0
    for piece in pieces:
        eta = beta @ piece.x if len(beta) else np.zeros(len(piece.data.y))
        mu = family.mean(eta if piece.offset is None else eta + piece.offset)
        total += len(mu) * np.array(family.start_further(piece.data, mu))
        n += len(mu)
    return total, n


def category_counts(rows: Answering, n_categories: int) -> Vec:
    """Observations in each category, (C,)."""
    return rows.ask(OverBlocks(_category_counts, (n_categories,), added))


def _category_counts(pieces: Iterable[Piece], n_categories: int) -> Vec:
    total = np.zeros(n_categories)
    for piece in pieces:
        total += np.bincount(piece.data.y.astype(np.intp), piece.frequency, n_categories)
    return total


def remoteness(rows: Answering, family: Family) -> float:
    """What bounds the distance to the limit of a family, times phi or 1/phi."""
    return rows.ask(OverBlocks(_remoteness, (family,), added))


def _remoteness(pieces: Iterable[Piece], family: Family) -> float:
    return sum(float(family.remoteness(piece.data).sum()) for piece in pieces)


def response_moments(rows: Answering) -> tuple[float, float]:
    """Mean and variance of y."""
    n, mean, squares = rows.ask(OverBlocks(_moments, (), _all_moments))
    return mean, squares / n


def _moments(pieces: Iterable[Piece]) -> tuple[int, float, float]:
    own = ((len(y), float(np.mean(y)), float(np.var(y)) * len(y)) for y in (piece.data.y for piece in pieces))
    return _all_moments(own)


def _all_moments(parts: Iterable[tuple[int, float, float]]) -> tuple[int, float, float]:
    """Number, mean and sum of squares about it, of several sets together (Chan, Golub & LeVeque 1983)."""
    n, mean, squares = 0, 0.0, 0.0
    for m, own, away in parts:
        squares += away + (own - mean) ** 2 * n * m / (n + m)
        mean += (own - mean) * m / (n + m)
        n += m
    return n, mean, squares


def predictor_size(rows: Answering, beta: Vec) -> float:
    """Root mean square of Xβ."""
    total, n = rows.ask(OverBlocks(_squares, (beta,), added))
    return float(np.sqrt(total / n))


def _squares(pieces: Iterable[Piece], beta: Vec) -> tuple[float, int]:
    total, n = 0.0, 0
    for piece in pieces:
        eta = beta @ piece.x
        total += float(eta @ eta)
        n += len(eta)
    return total, n
