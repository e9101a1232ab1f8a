"""Exact ML and REML of many gaussian mixed models from cross-products: likelihood.products.profile for one factor each.

The formulae are those of likelihood.products and likelihood.products.profile; sums end at the models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.many.engine import BatchModes, SearchLayout, theta_information
from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.likelihood.many.rows import BatchLevels, starts
from polars_glmm.likelihood.many.value import BatchValue
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.level_factors import scaled_plus_identity, times, transposed_times
from polars_glmm.linalg.scaling import reduction
from polars_glmm.optimize.many import BatchEvaluation
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchProducts:
    """Products of random columns z, fixed columns and response, w = [x_c, y_c], in the bases used for computing.

    zz (r, r, G), zw (r, p+1, G) per level; ww (p+1, p+1, M); n, log_weights, y_shift (M,) as in likelihood.products
    """

    levels: BatchLevels
    zz: Cube
    zw: Cube
    ww: Cube
    n: IntVec
    log_weights: Vec
    y_shift: Vec

    def take(self, keep: BoolVec) -> BatchProducts:
        levels = np.repeat(keep, self.levels.model_levels)
        return BatchProducts(
            self.levels.take(keep), self.zz[..., levels], self.zw[..., levels], self.ww[..., keep], self.n[keep],
            self.log_weights[keep], self.y_shift[keep],
        )  # fmt: skip


def batch_products(model: BatchModel) -> BatchProducts:
    """The products of the rows of all models."""
    rows = model.rows
    precision, frequency = rows.data.precision, rows.frequency
    weights, log_weights = frequency, np.zeros(rows.n_models)
    if precision is not None:
        weights = precision if frequency is None else precision * frequency
        log_weights = rows.totals(np.log(precision))
    y = rows.data.y if rows.offset is None else rows.data.y - rows.offset
    shift = np.zeros(rows.n_models)
    if model.constant is not None:
        shift = rows.row_totals(y) / rows.model_rows
    w = [*rows.x, y - rows.per_row(shift)]
    z = [np.ones_like(y)] if rows.z is None else list(rows.z)
    first = starts(rows.level_rows)

    def level_sums(v: Vec) -> Vec:
        return np.add.reduceat(v, first)

    weighted = w if weights is None else [c * weights for c in w]
    ww = _symmetric([[rows.row_totals(weighted[i] * w[j]) for j in range(i + 1)] for i in range(len(w))])
    zw = np.array([[level_sums(c if rows.z is None else c * k) for c in weighted] for k in z])
    heavy = z if weights is None else [c * weights for c in z]
    zz = _symmetric([[level_sums(heavy[i] * z[j]) for j in range(i + 1)] for i in range(len(z))])
    return BatchProducts(BatchLevels(rows.model_levels), zz, zw, ww, rows.observations(), log_weights, shift)


def _symmetric(rows: list[list[Vec]]) -> Cube:
    """A symmetric stack from its lower triangle by rows."""
    n = len(rows)
    return np.array([[rows[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)])


class BatchProfile(NamedTuple):
    """As products.profile.Profile: log_h, log_m, rss (M,); beta (p, M); m_inverse (p, p, M); b, e (r, p+1, G);

    derivatives in Λ (r, r, M); h_inverse (r, r, G). A model that is not positive definite has NaN.
    """

    log_h: Vec
    log_m: Vec
    rss: Vec
    beta: Mat
    m_inverse: Cube
    b: Cube
    e: Cube
    h_inverse: Cube
    d_log_h: Cube
    d_log_m: Cube
    d_rss: Cube


def profile_all(stats: BatchProducts, lam: Cube) -> BatchProfile:
    """All pieces at relative factors Λ (r, r, M)."""
    p, at = len(stats.ww) - 1, stats.levels
    lam_levels = lam[..., at.of_level]
    low = cholesky.factor(scaled_plus_identity(lam_levels, stats.zz))
    right = transposed_times(lam_levels, stats.zw)
    b = cholesky.solve(low, right)
    core = stats.ww - at.level_totals(np.einsum("rvG,rwG->vwG", right, b))
    beta, m_inverse, log_m, rss = least_squares(core)
    e = stats.zw - np.einsum("jkG,kwG->jwG", stats.zz, times(lam_levels, b))
    c = np.concatenate([-beta, np.ones((1, at.n_models))])[:, at.of_level]
    ec, bc = np.einsum("dwG,wG->dG", e, c), np.einsum("rwG,wG->rG", b, c)
    h_inverse = cholesky.inverse(low)
    weighted = np.einsum("dpG,pqG->dqG", e[:, :p], m_inverse[..., at.of_level])
    return BatchProfile(
        log_h=at.level_totals(cholesky.log_determinant(low)),
        log_m=log_m,
        rss=rss,
        beta=beta,
        m_inverse=m_inverse,
        b=b,
        e=e,
        h_inverse=h_inverse,
        d_log_h=2.0 * at.level_totals(np.einsum("jkG,krG->jrG", stats.zz, times(lam_levels, h_inverse))),
        d_log_m=-2.0 * at.level_totals(np.einsum("dqG,rqG->drG", weighted, b[:, :p])),
        d_rss=-2.0 * at.level_totals(ec[:, None] * bc[None]),
    )


def least_squares(core: Cube) -> tuple[Mat, Cube, Vec, Vec]:
    """β̂ (p, M), (X'V⁻¹X)⁻¹ (p, p, M), log|X'V⁻¹X| and the residual sum of squares (M,) of [X y]'V⁻¹[X y]."""
    p = len(core) - 1
    if not p:
        none = np.zeros((0, 0, core.shape[2]))
        return none[:, 0], none, np.zeros(core.shape[2]), core[0, 0]
    low = cholesky.factor(core[:p, :p])
    beta = cholesky.solve(low, core[:p, p])
    rss = core[p, p] - (core[:p, p] * beta).sum(0)
    return beta, cholesky.inverse(low), cholesky.log_determinant(low), rss


@dataclass(slots=True, eq=False)
class BatchProductEngine:
    """Exact gaussian ML or REML of many models over θ, σ profiled out; the face that settling and searching ask for."""

    stats: BatchProducts
    layout: SearchLayout
    reml: bool

    @property
    def of_level(self) -> IntVec:
        return self.stats.levels.of_level

    @property
    def nu(self) -> Vec:
        """Degrees of freedom of the residuals: n, or n − p under REML."""
        return np.asarray(self.stats.n - (len(self.stats.ww) - 1.0 if self.reml else 0.0), dtype=float)

    def take(self, keep: BoolVec) -> BatchProductEngine:
        return replace(self, stats=self.stats.take(keep))

    def pieces(self, theta: Mat) -> BatchProfile:
        return profile_all(self.stats, self.layout.lam(theta))

    def minus_two(self, pieces: BatchProfile) -> Vec:
        """Profiled −2ℓ in the computing basis."""
        log_m = pieces.log_m if self.reml else 0.0
        return pieces.log_h + log_m + self.nu * (1.0 + np.log(2.0 * np.pi * pieces.rss / self.nu))

    def gradients(self, pieces: BatchProfile) -> Cube:
        """∂(−2ℓ)/∂Λ at σ² = rss/ν."""
        reml = 1.0 if self.reml else 0.0
        return pieces.d_log_h + reml * pieces.d_log_m + pieces.d_rss * (self.nu / pieces.rss)

    def at_factors(self, models: BoolVec, x: Mat, factors: Cube, modes: Mat | None) -> BatchValue:  # noqa: ARG002
        """ℓ profiled over β and σ, with its gradient in Λ, for some of the models at any factors (r, r, m)."""
        some = self if models.all() else self.take(models)
        pieces = profile_all(some.stats, factors)
        value = -0.5 * some.minus_two(pieces)
        none = np.empty((0, len(value)))
        return BatchValue(
            np.where(np.isfinite(value), value, -np.inf), none, -0.5 * some.gradients(pieces), None, none, none, None
        )

    def of_group(self, models: BoolVec, layout: SearchLayout) -> BatchProductEngine:
        """The engine of some of the models in another layout."""
        return replace(self if models.all() else self.take(models), layout=layout)

    def __call__(self, x: Mat, warm: BatchModes | None, *, curvature: bool) -> BatchEvaluation:  # noqa: ARG002
        at = self.layout
        with np.errstate(all="ignore"):
            pieces = self.pieces(x)
            value = 0.5 * self.minus_two(pieces)
            g = 0.5 * self.gradients(pieces)[at.rows, at.columns].T
            b = None
            if curvature:
                b = theta_information(at, at.lam(x), reduction(pieces.h_inverse), self.stats.levels)
        out = ~np.isfinite(value)
        g[out] = 0.0
        modes = BatchModes(np.zeros((0, self.stats.levels.n_levels)), self.stats.levels.model_levels)
        return BatchEvaluation(np.where(out, np.inf, value), g, b, modes)
