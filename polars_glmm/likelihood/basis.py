"""The columns of X in a basis fit for computing: centred where the constant is in their span, and scaled.

x_c = A x, so β = A'β_c; the change is exact and undone exactly (numerics: means of 1e8 cost no digits).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.typing import Mat, Vec

_SPAN_TOLERANCE = 1e-9
_NO_VARIANCE = 1e-13
"""Smallest eigenvalue of a correlation matrix that rounding leaves of a combination without variance."""
_NO_SHARE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """columns (p, n) = a · x;  a (p, p);  constant (p,) with constant'x = 1, or None."""

    columns: Mat
    a: Mat
    constant: Vec | None

    def outward(self, beta_c: Vec) -> Vec:
        """Coefficients of the columns the user named."""
        return self.a.T @ beta_c

    def inward(self, beta: Vec) -> Vec:
        """Coefficients in this basis."""
        return np.asarray(np.linalg.solve(self.a.T, beta), dtype=np.float64) if len(beta) else beta

    def outward_covariance(self, vcov_c: Mat) -> Mat:
        return self.a.T @ vcov_c @ self.a

    @property
    def log_determinant(self) -> float:
        """log|det A|: what log|X'V⁻¹X| gains by the change."""
        return float(np.linalg.slogdet(self.a)[1])


def centred(x: Mat) -> Basis:
    """The columns of x (p, n), centred on their means where possible, with unit root mean square."""
    p, n = x.shape
    if p == 0:
        return Basis(x, np.zeros((0, 0)), None)
    constant = _constant(x)
    a = np.eye(p)
    columns = x
    if constant is not None:
        means = x.mean(1)
        means[constant != 0.0] = 0.0
        if means.any():
            a -= np.outer(means, constant)
            columns = x - means[:, None]
    scale = np.sqrt(np.einsum("pn,pn->p", columns, columns) / n)
    scale[scale == 0.0] = 1.0
    if (scale == 1.0).all():
        return Basis(columns, a, constant)
    return Basis(columns / scale[:, None], a / scale[:, None], constant)


def centred_moments(mean: Vec, second: Mat) -> Basis:
    """The same basis from means (p,) and second moments about them (p, p), without columns."""
    p = len(mean)
    nothing = np.empty((p, 0))
    if p == 0:
        return Basis(nothing, np.zeros((0, 0)), None)
    constant = _constant_of(mean, second)
    a, square = np.eye(p), np.diag(second) + mean**2
    if constant is not None:
        means = np.where(constant != 0.0, 0.0, mean)
        a -= np.outer(means, constant)
        square = np.where(constant != 0.0, square, np.diag(second))
    scale = np.sqrt(square)
    scale[scale == 0.0] = 1.0
    return Basis(nothing, a / scale[:, None], constant)


def _constant_of(mean: Vec, second: Mat) -> Vec | None:
    """As `_constant`: the combination without variance, scaled to mean 1."""
    p = len(mean)
    for j in range(p):
        if mean[j] == 1.0 and second[j, j] == 0.0:
            return np.asarray(np.eye(p)[j])
    spread = np.sqrt(np.diag(second))
    if not spread.all():
        return None
    values, vectors = np.linalg.eigh(second / np.outer(spread, spread))
    if values[0] > _NO_VARIANCE:
        return None
    weights = np.where(np.abs(vectors[:, 0]) < _NO_SHARE, 0.0, vectors[:, 0]) / spread
    total = float(weights @ mean)
    seen = abs(total) > _NO_SHARE * float(np.abs(weights) @ np.abs(mean))
    return np.asarray(weights / total) if seen else None


def _constant(x: Mat) -> Vec | None:
    """Weights that make the constant from the columns: an intercept, or e.g. all dummies of one factor."""
    p = len(x)
    for j in range(p):
        if x[j, 0] == 1.0 and x[j, -1] == 1.0 and (x[j] == 1.0).all():
            return np.asarray(np.eye(p)[j])
    mean = x.mean(1)
    away = x - mean[:, None]
    weights = _constant_of(mean, away @ away.T)
    return weights if weights is not None and bool((np.abs(weights @ x - 1.0) < _SPAN_TOLERANCE).all()) else None
