"""The products at one γ without rows: Σ_k a_k(x)[Z W]'A_k[Z W] / φ², the K products summed once.

An evaluation costs K times the numbers of the cells, however many rows there are. It needs one φ, and a correlation
whose inverse is made of few matrices (module combinations): ar1 and car1 at few distinct distances, cs of groups of few
sizes, others at few sets of places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.likelihood.residual.arrangement import Combined
from polars_glmm.likelihood.residual.inner import Adjoint
from polars_glmm.likelihood.residual.series import SeriesRows
from polars_glmm.typing import Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class SeriesSums:
    """[Z W]'A_k[Z W] with rows divided by 1/√weight, and log|D| at φ = 1.

    cells (K, d·(d + m)·C) flat, of [Z'A_kZ, Z'A_kW] within cells;  ww (K, m·m) flat
    """

    rows: SeriesRows
    cells: Mat
    ww: Mat
    log_scale: float

    def at(self, gamma: Vec, *, random: bool) -> SumProducts | None:
        found, per_phi = self.rows.combination.at(gamma[1:]), np.exp(-2.0 * gamma[0])
        if found is None or not 0.0 < per_phi < np.inf:
            return None
        return SumProducts(self, found, float(per_phi), float(gamma[0]), random)

    def shaped(self, a: Vec) -> tuple[Cube, Cube, Mat]:
        """Σ_k a_k of [Z'A_kZ] (d, d, C), [Z'A_kW] (d, m, C), and [W'A_kW] (m, m)."""
        d, m = len(self.rows.z), len(self.rows.w)
        both = (a @ self.cells).reshape(d, d + m, -1)
        return both[:, :d], both[:, d:], (a @ self.ww).reshape(m, m)


@dataclass(frozen=True, slots=True, eq=False)
class SumProducts:
    """The products at one γ: C⁻¹ = Σ a_kA_k there, and 1/φ²."""

    sums: SeriesSums
    combined: Combined
    per_phi: float
    log_phi: float
    random: bool

    def products(self) -> CrossProducts:
        zz, zw, ww = self.sums.shaped(self.per_phi * self.combined.values)
        return self.sums.rows.gathered(zz, zw, ww) if self.random else self.sums.rows.alone(ww)

    @property
    def log_r(self) -> float:
        return 2.0 * (self.sums.rows.n * self.log_phi + self.sums.log_scale) + self.combined.log_determinant

    @property
    def noise(self) -> float:
        return float(np.exp(self.log_phi + self.sums.log_scale / self.sums.rows.n))

    def slopes(self, adjoint: Adjoint) -> Vec:
        """Σ_q q'A_kq is Σ(KK' + Bvv'B')·Z'A_kZ − 2Bvv'·Z'A_kW over cells, and vv'·W'A_kW, B for ΛB."""
        between, through, v = adjoint
        each = self.sums.ww @ (v @ v.T).ravel()
        if between is not None and through is not None:
            half = np.einsum("dmC,mc->dcC", through, v)
            zz = between + np.einsum("acC,bcC->abC", half, half)
            zw = np.einsum("dcC,mc->dmC", -2.0 * half, v)
            each = each + self.sums.cells @ np.concatenate([zz, zw], axis=1).ravel()
        each *= self.per_phi
        by_phi = 2.0 * (self.sums.rows.n - self.combined.values @ each)
        return np.append(by_phi, self.combined.log_determinant_slopes + self.combined.slopes @ each)

    def forms(self, through: Cube | None) -> Cube:
        found = []
        for a in (-2.0 * self.combined.values, *self.combined.slopes):
            zz, zw, ww = self.sums.shaped(self.per_phi * a)
            if through is not None:
                crossed = np.einsum("dmC,dnC->mn", through, zw)
                ww = ww - crossed - crossed.T + np.einsum("amC,abC,bnC->mn", through, zz, through, optimize=True)
            found.append(ww[:-1, :-1])
        return np.array(found)


def few(rows: SeriesRows) -> bool:
    """Whether sums hold fewer numbers than the rows."""
    d, m, n_cells = _shape(rows)
    return rows.combination.count * (d * (d + m) * n_cells + m * m) <= (d + m) * rows.n


def summed(rows: SeriesRows) -> SeriesSums:
    """The sums of rows that have one φ, but for their weights."""
    combination, (d, _, n_cells) = rows.combination, _shape(rows)
    q = np.vstack([rows.z, rows.w]) * np.exp(-rows.offset)
    cells, ww = [], []
    for f, g, at in combination.terms(q):
        ww.append(_both(f[d:] @ g[d:].T).ravel())
        if rows.cells is not None:
            cells.append(_within(f, g, rows.cells.of_row[at], d, n_cells).ravel())
    within = np.array(cells) if rows.cells is not None else np.empty((combination.count, 0))
    return SeriesSums(rows, within, np.array(ww), float(rows.offset.sum()))


def _shape(rows: SeriesRows) -> tuple[int, int, int]:
    """d, m and C."""
    return len(rows.z), len(rows.w), 0 if rows.cells is None else len(rows.cells.starts)


def _both(one: Mat) -> Mat:
    return np.asarray(0.5 * (one + one.T))


def _within(f: Mat, g: Mat, of_row: IntVec, d: int, n_cells: int) -> Cube:
    """½ Σ(fg' + gf') within cells, of the first d columns beside all, (d, d + m, C)."""
    out = np.empty((d, len(f), n_cells))
    for i in range(d):
        for j in range(len(f)):
            product = f[i] * g[j] if f is g else 0.5 * (f[i] * g[j] + g[i] * f[j])
            out[i, j] = np.bincount(of_row, product, n_cells)
    return out
