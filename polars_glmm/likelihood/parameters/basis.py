"""The columns of X in a basis fit for computing: centred where the constant is in their span, and scaled.

x_c = A x, so β = A'β_c; the change is exact and undone exactly (numerics: means of 1e8 cost no digits). The columns are
made for the rows that are worked on: a second array of the size of X would cost more than making them again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polars_glmm.linalg.columns import cross_products_about, stretches
from polars_glmm.typing import IntVec, Mat, Vec

_SPAN_TOLERANCE = 1e-9
_NO_VARIANCE = 1e-13
"""Smallest eigenvalue of a correlation matrix that rounding leaves of a combination without variance."""
_NO_SHARE = 1e-6
_ALIKE = 1e-6
"""Smallest eigenvalue of the cross-product of unit columns below which they are taken apart."""
_LOOK = 10_000
"""Rows of many that are looked at first."""


@dataclass(frozen=True, slots=True, eq=False)
class Basis:
    """x_c = a·x = mix·(x − shift)/scale, with constant'x = 1 or None.

    x (p, n), as the user named them; empty where only moments are known;  shift, scale, constant (p,);  a (p, p)
    mix (p, p)   where columns are nearly alike: takes them apart, so that their products keep the digits; else None
    carried (p,) what is taken from columns that make no constant, because the coefficients of another predictor make
                 up for it: x_c = a·(x − carried); else None
    beside (p, m)  what the coefficients here take up of the m named ones of the mean: named = a'·β_c + beside·named
                 ones of the mean; else None
    """

    x: Mat
    shift: Vec
    scale: Vec
    a: Mat
    constant: Vec | None
    mix: Mat | None = None
    carried: Vec | None = None
    beside: Mat | None = None

    def columns(self, rows: slice | IntVec) -> Mat:
        """The columns in this basis for some rows: (p, m), contiguous, not to be written to."""
        x = self.x[:, rows] if isinstance(rows, slice) else self.x.take(rows, axis=1)
        if self._as_they_stand:
            return np.ascontiguousarray(x)
        made = x - self.shift[:, None]
        made /= self.scale[:, None]
        return made if self.mix is None else self.mix @ made

    @property
    def _as_they_stand(self) -> bool:
        return bool((self.scale == 1.0).all()) and not self.shift.any()

    def holding(self, columns: Mat) -> Basis:
        """The same basis for rows of which the columns in it are given."""
        nothing = plain(columns)
        return replace(self, x=columns, shift=nothing.shift, scale=nothing.scale, mix=None)

    def outward(self, beta_c: Vec) -> Vec:
        """Coefficients of the columns the user named, but for what they take up of others."""
        return self.a.T @ beta_c

    def inward(self, beta: Vec) -> Vec:
        """Coefficients in this basis, but for what they take up of others."""
        return np.asarray(np.linalg.solve(self.a.T, beta), dtype=np.float64) if len(beta) else beta

    def outward_covariance(self, vcov_c: Mat) -> Mat:
        return self.a.T @ vcov_c @ self.a

    def centre(self, mean: Vec) -> Vec:
        """Means of the computing columns from those of the columns as named, (p,)."""
        return self.a @ (mean if self.carried is None else mean - self.carried)

    @property
    def log_determinant(self) -> float:
        """log|det A|: what log|X'V⁻¹X| gains by the change."""
        return float(np.linalg.slogdet(self.a)[1])


def plain(x: Mat) -> Basis:
    """The columns x (p, n) as they stand."""
    p = len(x)
    return Basis(x, np.zeros(p), np.ones(p), np.eye(p), None)


def centred(x: Mat, *, elsewhere: bool = False) -> Basis:
    """The columns of x (p, n), centred on their means where possible, with unit root mean square.

    elsewhere   another predictor makes up for the means of columns that make no constant
    """
    p, n = x.shape
    if p == 0:
        return plain(x)
    constant = _constant(x)
    a, means = np.eye(p), np.zeros(p)
    if constant is not None:
        means = np.where(constant != 0.0, 0.0, x.mean(1))
        a -= np.outer(means, constant)
    carried = x.mean(1) if elsewhere and constant is None else None
    means = means if carried is None else carried
    square = np.zeros(p)
    for rows in stretches(n):
        part = x[:, rows] - means[:, None]
        square += np.einsum("pn,pn->p", part, part)
    scale = np.sqrt(square / n)
    scale[scale == 0.0] = 1.0
    return _told_apart(Basis(x, means, scale, a / scale[:, None], constant, carried=carried))


def centred_moments(mean: Vec, second: Mat, *, elsewhere: bool = False) -> Basis:
    """The same basis from means (p,) and second moments about them (p, p), without columns."""
    p = len(mean)
    nothing = np.empty((p, 0))
    if p == 0:
        return plain(nothing)
    constant = _constant_of(mean, second)
    a, shift, square = np.eye(p), np.zeros(p), np.diag(second) + mean**2
    if constant is not None:
        shift = np.where(constant != 0.0, 0.0, mean)
        a -= np.outer(shift, constant)
        square = np.where(constant != 0.0, square, np.diag(second))
    carried = mean if elsewhere and constant is None else None
    if carried is not None:
        shift, square = carried, np.diag(second)
    scale = np.sqrt(square)
    scale[scale == 0.0] = 1.0
    return Basis(nothing, shift, scale, a / scale[:, None], constant, carried=carried)


def _told_apart(basis: Basis) -> Basis:
    """The basis with columns mixed where some are nearly alike, as powers of a variable far from zero."""
    p, n = basis.x.shape
    if p - (basis.constant is not None) < 2 or not _alike(basis.columns(slice(None, None, max(n // _LOOK, 1)))):
        return basis
    if n > _LOOK:
        gram = np.zeros((p, p))
        for rows in stretches(n):
            part = basis.columns(rows)
            gram += part @ part.T
        if _distinct(gram / n):
            return basis
    return mixed(basis, np.linalg.qr(basis.columns(slice(None)).T, mode="r") / np.sqrt(n))


def mixed(basis: Basis, r: Mat) -> Basis:
    """The basis whose columns are orthogonal, for the triangle r of its present ones at unit root mean square.

    Any r makes an exact change of basis; the nearer the columns come to being orthogonal, the better. Ones stay ones.
    """
    p = len(basis.shift)
    if r.shape[0] < p or not np.diagonal(r).all():
        return basis
    ones = np.flatnonzero((basis.scale == 1.0) & (basis.shift == 0.0) & np.all(basis.a == np.eye(p), axis=1))
    if basis.constant is not None and np.count_nonzero(basis.constant) == 1:
        r[ones] = r[:, ones] = 0.0
        r[ones, ones] = 1.0
    mix = np.ascontiguousarray(np.linalg.inv(r).T, dtype=np.float64)
    return replace(basis, mix=mix, a=mix @ basis.a)


def told_apart_by(basis: Basis, second: Mat, mean: Vec) -> Basis:
    """The same from moments (p, p) and means (p,) of the columns as the user named them."""
    p = len(mean)
    if p - (basis.constant is not None) < 2:
        return basis
    centre = basis.centre(mean)
    gram = basis.a @ second @ basis.a.T + np.outer(centre, centre)
    if _distinct(gram):
        return basis
    values, vectors = np.linalg.eigh(gram)
    root = np.sqrt(np.maximum(values, _NO_VARIANCE * values[-1]))[:, None] * vectors.T
    return mixed(basis, np.asarray(np.linalg.qr(root, mode="r"), dtype=np.float64))


def _alike(columns: Mat) -> bool:
    return not _distinct(columns @ columns.T / columns.shape[1])


def _distinct(gram: Mat) -> bool:
    """Whether the smallest eigenvalue of the products of unit columns is above _ALIKE, by a shifted Cholesky."""
    scale = np.sqrt(np.diag(gram))
    if not scale.all():
        return False
    try:
        np.linalg.cholesky(gram / np.outer(scale, scale) - _ALIKE * np.eye(len(gram)))
    except np.linalg.LinAlgError:
        return False
    return True


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
    weights = _constant_of(mean, cross_products_about(x, mean))
    return weights if weights is not None and bool((np.abs(weights @ x - 1.0) < _SPAN_TOLERANCE).all()) else None
