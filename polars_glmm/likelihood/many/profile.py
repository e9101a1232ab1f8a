"""Exact ML and REML of many gaussian mixed models from cross-products: likelihood.products.profile side by side.

The formulae are those of likelihood.products and likelihood.products.profile; sums end at the models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.many.engine import SearchLayout, theta_information
from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.likelihood.many.plain import NoModes
from polars_glmm.likelihood.many.value import BatchValue
from polars_glmm.likelihood.rows.models import effective_factors, inward_factors
from polars_glmm.linalg import cholesky, level_factors
from polars_glmm.linalg.between import BetweenFactors, between_factors
from polars_glmm.linalg.elimination import Eliminator, Factorised
from polars_glmm.linalg.pattern import Blocks, Pattern, gather_blocks, times
from polars_glmm.linalg.scaling import reduction
from polars_glmm.linalg.side_by_side import LevelsOf, ManyOne, eliminator_of_many, some_of_many
from polars_glmm.optimize.many import BatchEvaluation
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchProducts:
    """Products of random columns z, fixed columns and response, w = [x_c, y_c], in the bases used for computing.

    levels       of each factor;  pattern, solver: which meet, and how they are eliminated
    zz           blocks over levels and meeting pairs, (d, d, ·);  zw[f] (d, p+1, G_f)
    uses         per factor its columns among the d, where there are several
    ww (p+1, p+1, M); n, log_weights, y_shift (M,) as in likelihood.products
    """

    levels: tuple[LevelsOf, ...]
    pattern: Pattern | None
    solver: Eliminator
    uses: tuple[tuple[int, ...], ...]
    zz: Blocks
    zw: list[Cube]
    ww: Cube
    n: IntVec
    log_weights: Vec
    y_shift: Vec

    @property
    def n_models(self) -> int:
        return len(self.n)

    def take(self, keep: BoolVec) -> BatchProducts:
        keeps = [keep[own.model] for own in self.levels]
        levels = tuple(own.take(keep) for own in self.levels)
        pattern: Pattern | None = None
        solver: Eliminator = ManyOne(levels[0])
        cross: dict[tuple[int, int], Cube] = {}
        if self.pattern is not None:
            pairs = self.pattern.pairs
            cross = {at: block[..., keeps[at[0]][pairs[at].left]] for at, block in self.zz.cross.items()}
            pattern = some_of_many(self.pattern, keeps)
            solver = eliminator_of_many(pattern, levels)
        zz = Blocks([block[..., own] for block, own in zip(self.zz.diagonal, keeps, strict=True)], cross)
        zw = [block[..., own] for block, own in zip(self.zw, keeps, strict=True)]
        return BatchProducts(
            levels, pattern, solver, self.uses, zz, zw, self.ww[..., keep], self.n[keep], self.log_weights[keep],
            self.y_shift[keep],
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
    cells = rows.cells

    def cell_sums(v: Vec) -> Vec:
        return np.add.reduceat(v, cells.first)

    weighted = w if weights is None else [c * weights for c in w]
    ww = _symmetric([[rows.row_totals(weighted[i] * w[j]) for j in range(i + 1)] for i in range(len(w))])
    zw = np.array([[cell_sums(c if rows.z is None else c * k) for c in weighted] for k in z])
    heavy = z if weights is None else [c * weights for c in z]
    zz = _symmetric([[cell_sums(heavy[i] * z[j]) for j in range(i + 1)] for i in range(len(z))])
    levels, pattern, own = rows.levels, rows.pattern(cells), (rows.observations(), log_weights, shift)
    if pattern is None:
        return BatchProducts(
            levels, None, ManyOne(levels[0]), (tuple(range(len(z))),), Blocks([zz], {}), [zw], ww, *own
        )
    by_level = [pattern.to_levels(f, zw) for f in range(pattern.n_factors)]
    solver = eliminator_of_many(pattern, levels)
    return BatchProducts(levels, pattern, solver, rows.uses, gather_blocks(pattern, zz), by_level, ww, *own)


def _symmetric(rows: list[list[Vec]]) -> Cube:
    """A symmetric stack from its lower triangle by rows."""
    n = len(rows)
    return np.array([[rows[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)])


class BatchProfile(NamedTuple):
    """As products.profile.Profile: log_h, log_m, rss (M,); beta (p, M); m_inverse (p, p, M);

    b (r_f, p+1, G_f), e (d, p+1, G_f) and h_inverse (r_f, r_f, G_f) per factor; derivatives in Λ (r, r, M) of all
    factors. A model that is not positive definite has NaN.
    """

    log_h: Vec
    log_m: Vec
    rss: Vec
    beta: Mat
    m_inverse: Cube
    b: list[Cube]
    e: list[Cube]
    h_inverse: list[Cube]
    d_log_h: Cube
    d_log_m: Cube
    d_rss: Cube


def profile_all(stats: BatchProducts, effective: list[Cube]) -> BatchProfile:
    """All pieces at effective factors (d, r_f, M)."""
    p = len(stats.ww) - 1
    h, on_levels = factorised(stats, effective)
    right = [level_factors.transposed_times(lam, zw) for lam, zw in zip(on_levels, stats.zw, strict=True)]
    b = h.solve(right)
    core = stats.ww
    for at, own, solved in zip(stats.levels, right, b, strict=True):
        core = core - at.totals(np.einsum("rvG,rwG->vwG", own, solved))
    beta, m_inverse, log_m, rss = least_squares(core)
    taken = times(stats.zz, stats.pattern, [level_factors.times(lam, x) for lam, x in zip(on_levels, b, strict=True)])
    e = [zw - x for zw, x in zip(stats.zw, taken, strict=True)]
    hat = h.inverse()
    c = np.concatenate([-beta, np.ones((1, len(stats.n)))])
    d_log_h, d_log_m, d_rss = [], [], []
    traces = level_factors.trace_terms(stats.zz, on_levels, hat, stats.pattern)
    for at, own_b, own_e, terms in zip(stats.levels, b, e, traces, strict=True):
        ec, bc = np.einsum("dwG,wG->dG", own_e, c[:, at.model]), np.einsum("rwG,wG->rG", own_b, c[:, at.model])
        weighted = np.einsum("dpG,pqG->dqG", own_e[:, :p], m_inverse[..., at.model])
        d_log_h.append(2.0 * np.sum([at.sums(*term) for term in terms], axis=0))
        d_log_m.append(-2.0 * at.totals(np.einsum("dqG,rqG->drG", weighted, own_b[:, :p])))
        d_rss.append(-2.0 * at.totals(ec[:, None] * bc[None]))
    return BatchProfile(
        h.log_determinant, log_m, rss, beta, m_inverse, b, e, hat.diagonal,
        *(inward_factors(parts, stats.uses) for parts in (d_log_h, d_log_m, d_rss)),
    )  # fmt: skip


def factorised(stats: BatchProducts, effective: list[Cube]) -> tuple[Factorised, list[Cube]]:
    """H at effective factors (d, r_f, M), and these at every level (d, r_f, G_f)."""
    on_levels = [lam[..., at.model] for at, lam in zip(stats.levels, effective, strict=True)]
    h = stats.solver.factorise(level_factors.curvature(stats.zz, on_levels, stats.pattern))
    assert h is not None  # of many models it never is
    return h, on_levels


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
    def nu(self) -> Vec:
        """Degrees of freedom of the residuals: n, or n − p under REML."""
        return np.asarray(self.stats.n - (len(self.stats.ww) - 1.0 if self.reml else 0.0), dtype=float)

    def take(self, keep: BoolVec) -> BatchProductEngine:
        return replace(self, stats=self.stats.take(keep))

    def pieces(self, theta: Mat) -> BatchProfile:
        return self.at_lambda(self.layout.lam(theta))

    def at_lambda(self, lam: Cube) -> BatchProfile:
        """All pieces at factors Λ (r, r, M)."""
        return profile_all(self.stats, self._effective(lam))

    def between(self, lam: Cube, size: Vec) -> BetweenFactors:
        """H⁻¹ between the levels of different factors, at Λ (r, r, M), times a number of each model (M,)."""
        with np.errstate(all="ignore"):
            found = between_factors(factorised(self.stats, self._effective(lam))[0], self.stats.levels)
        return found.times([size[at.model] for at in self.stats.levels])

    def _effective(self, lam: Cube) -> list[Cube]:
        return effective_factors(lam, self.stats.uses, len(self.stats.zz.diagonal[0]))

    def minus_two(self, pieces: BatchProfile) -> Vec:
        """Profiled −2ℓ in the computing basis."""
        log_m = pieces.log_m if self.reml else 0.0
        return pieces.log_h + log_m + self.nu * (1.0 + np.log(2.0 * np.pi * pieces.rss / self.nu))

    def gradients(self, pieces: BatchProfile) -> Cube:
        """∂(−2ℓ)/∂Λ at σ² = rss/ν."""
        reml = 1.0 if self.reml else 0.0
        return pieces.d_log_h + reml * pieces.d_log_m + pieces.d_rss * (self.nu / pieces.rss)

    def at_factors(self, models: BoolVec, x: Mat, factors: Cube, modes: Any) -> BatchValue:  # noqa: ARG002
        """ℓ profiled over β and σ, with its gradient in Λ, for some of the models at any factors (r, r, m)."""
        some = self if models.all() else self.take(models)
        pieces = some.at_lambda(factors)
        value = -0.5 * some.minus_two(pieces)
        none = np.empty((0, len(value)))
        return BatchValue(
            np.where(np.isfinite(value), value, -np.inf), none, -0.5 * some.gradients(pieces), None, [], none, None
        )

    def of_group(self, models: BoolVec, layout: SearchLayout) -> BatchProductEngine:
        """The engine of some of the models in another layout."""
        return replace(self if models.all() else self.take(models), layout=layout)

    def __call__(self, x: Mat, warm: NoModes | None, *, curvature: bool) -> BatchEvaluation:  # noqa: ARG002
        at = self.layout
        with np.errstate(all="ignore"):
            pieces = self.pieces(x)
            value = 0.5 * self.minus_two(pieces)
            g = 0.5 * self.gradients(pieces)[at.rows, at.columns].T
            b = None
            if curvature:
                b = theta_information(at, at.lam(x), [reduction(h) for h in pieces.h_inverse], self.stats.levels)
        out = ~np.isfinite(value)
        g[out] = 0.0
        return BatchEvaluation(np.where(out, np.inf, value), g, b, NoModes())
