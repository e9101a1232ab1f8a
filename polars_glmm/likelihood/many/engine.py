"""Objectives of many small models for the batched search: −ℓ over [β_c, θ, log φ], with random effects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import Term
from polars_glmm.likelihood.many.rows import BatchLevels
from polars_glmm.likelihood.many.value import BatchInformation, BatchMarginal, BatchPoint, BatchValue
from polars_glmm.likelihood.parameters.curvature import SMALL_PIVOT
from polars_glmm.optimize.many import BatchEvaluation, newton_steps
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchModes:
    """Modes u (r, G) of all models, where the next evaluation starts; model_levels (M,) how many each has."""

    u: Mat
    model_levels: IntVec

    def _levels(self, mask: BoolVec) -> BoolVec:
        return np.repeat(mask, self.model_levels)

    def take(self, keep: BoolVec) -> BatchModes:
        return BatchModes(self.u[:, self._levels(keep)], self.model_levels[keep])

    def where(self, mask: BoolVec, other: BatchModes) -> BatchModes:
        """The other's modes where the mask says so."""
        return replace(self, u=np.where(self._levels(mask), other.u, self.u))

    def put(self, index: IntVec, other: BatchModes) -> BatchModes:
        """The other's modes, which are those of the models at `index`."""
        mask = np.zeros(len(self.model_levels), dtype=bool)
        mask[index] = True
        u = self.u.copy()
        u[:, self._levels(mask)] = other.u
        return replace(self, u=u)


@dataclass(frozen=True, slots=True, eq=False)
class SearchLayout:
    """Where parameters stand in the search vector [β_c (p), θ (q), γ (s)], and the entries of Λ that θ fills.

    terms: the rows of Λ that belong to each
    """

    p: int
    r: int
    rows: IntVec
    columns: IntVec
    s: int
    terms: tuple[slice, ...] = ()

    @classmethod
    def of(cls, p: int, terms: tuple[Term, ...], *, has_gamma: bool) -> SearchLayout:
        rows, columns = [], []
        for t in terms:
            i, j = STRUCTURES[t.structure].entries(t.stop - t.start)
            rows.append(i + t.start)
            columns.append(j + t.start)
        r = terms[-1].stop if terms else 0
        none = np.empty(0, dtype=np.intp)
        own = tuple(slice(t.start, t.stop) for t in terms)
        return cls(p, r, np.concatenate([none, *rows]), np.concatenate([none, *columns]), int(has_gamma), own)

    @property
    def q(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        return self.p + self.q + self.s

    @property
    def diagonal(self) -> BoolVec:
        """Entries of θ on the diagonal of Λ."""
        return np.asarray(self.rows == self.columns)

    def lam(self, theta: Mat) -> Cube:
        """Λ (r, r, M) of θ (M, q)."""
        out = np.zeros((self.r, self.r, len(theta)))
        out[self.rows, self.columns] = theta.T
        return out

    def point(self, x: Mat) -> BatchPoint:
        p, q = self.p, self.q
        zeta = np.ascontiguousarray(x[:, p + q]) if self.s else None
        return BatchPoint(np.ascontiguousarray(x[:, :p].T), self.lam(x[:, p : p + q]), zeta)

    def pull(self, value: BatchValue) -> Mat:
        """The gradient in the search vector, (M, P)."""
        parts = [value.beta, value.lam[self.rows, self.columns]]
        if value.zeta is not None:
            parts.append(value.zeta[None])
        return np.concatenate(parts).T


@dataclass(slots=True, eq=False)
class BatchRowEngine:
    """Laplace or quadrature over the rows of many models."""

    marginal: BatchMarginal
    layout: SearchLayout
    gamma_cap: Vec | None
    passes: Vec = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.passes):
            self.passes = np.zeros(self.marginal.rows.n_models)

    @property
    def of_level(self) -> IntVec:
        """The model of every level, (G,)."""
        return self.marginal.rows.of_level

    def take(self, keep: BoolVec) -> BatchRowEngine:
        cap = None if self.gamma_cap is None else self.gamma_cap[keep]
        return BatchRowEngine(self.marginal.take(keep), self.layout, cap, self.passes[keep])

    def evaluate(self, x: Mat, warm: Mat | None, *, information: bool = False) -> BatchValue:
        value = self.marginal.evaluate(self.layout.point(x), warm, information=information)
        self.passes += value.passes
        return value

    def at_factors(self, models: BoolVec, x: Mat, factors: Cube, modes: Mat | None) -> BatchValue:
        """ℓ and its gradient for some of the models at factors (r, r, m) that need not be of the layout."""
        some = self.marginal if models.all() else self.marginal.take(models)
        warm = None if modes is None else modes[:, models[self.of_level]]
        return some.evaluate(self.layout.point(x)._replace(lam=factors), warm)

    def of_group(self, models: BoolVec, layout: SearchLayout) -> BatchRowEngine:
        """The engine of some of the models in another layout."""
        return replace(self if models.all() else self.take(models), layout=layout)

    def __call__(self, x: Mat, warm: BatchModes | None, *, curvature: bool) -> BatchEvaluation:
        capped = None
        if self.gamma_cap is not None:
            capped = x[:, -1] > self.gamma_cap
            x = np.column_stack([x[:, :-1], np.minimum(x[:, -1], self.gamma_cap)])
        v = self.evaluate(x, None if warm is None else warm.u, information=curvature)
        gradient = -self.layout.pull(v)
        if capped is not None:
            gradient[capped, -1] = 0.0
        out = ~np.isfinite(v.value)
        gradient[out] = 0.0
        modes = BatchModes(np.nan_to_num(v.modes), self.marginal.rows.model_levels)
        b = None
        if v.information is not None:
            b = self._curvature(v.information, x)
            own = slice(self.layout.p, self.layout.p + self.layout.q)
            if self.layout.q:
                step = newton_steps(b, gradient)[0][:, own]
                b[:, own, own] += bending(self.layout, self.layout.lam(x[:, own]), -v.lam, step)
        return BatchEvaluation(np.where(out, np.inf, -v.value), gradient, b, modes)

    def _curvature(self, info: BatchInformation, x: Mat) -> Cube:
        at, n = self.layout, len(x)
        b = np.zeros((n, at.size, at.size))
        coefficients = np.concatenate([np.arange(at.p), np.arange(at.p + at.q, at.size)])
        b[:, coefficients[:, None], coefficients] = info.beta.transpose(2, 0, 1)
        if at.q:
            theta = slice(at.p, at.p + at.q)
            b[:, theta, theta] = theta_information(at, at.lam(x[:, theta]), info.levels, self.marginal.rows.levels)
        return b


def bending(layout: SearchLayout, lam: Cube, gradient: Cube, step: Mat) -> Cube:
    """As parameters.curvature.bending, of every model: lam and gradient (r, r, M), step (M, q); (M, q, q)."""
    out = np.zeros((lam.shape[-1], layout.q, layout.q))
    change = layout.lam(step)
    for own in layout.terms:
        mine = np.flatnonzero((layout.rows >= own.start) & (layout.rows < own.stop))
        if len(mine) == 1:
            with np.errstate(all="ignore"):
                value = gradient[own.start, own.start] / lam[own.start, own.start]
                leaves = 1.0 + 2.0 * step[:, mine[0]] / lam[own.start, own.start] <= 0.0
            out[:, mine[0], mine[0]] = np.where(leaves & (value > 0.0) & np.isfinite(value), value, 0.0)
            continue
        back = np.linalg.pinv(np.nan_to_num(lam[own, own]).transpose(2, 0, 1))
        relative = back @ np.nan_to_num(change[own, own]).transpose(2, 0, 1)
        leaving = np.linalg.eigvalsh(np.eye(own.stop - own.start) + relative + relative.swapaxes(1, 2))[:, 0] <= 0.0
        half = 0.5 * np.nan_to_num(gradient[own, own]).transpose(2, 0, 1) @ back
        values, vectors = np.linalg.eigh(0.5 * (half + half.swapaxes(1, 2)))
        score = (vectors * np.maximum(values, 0.0)[:, None]) @ vectors.swapaxes(1, 2)
        rows, columns = layout.rows[mine] - own.start, layout.columns[mine]
        block = 2.0 * score[:, rows[:, None], rows] * (columns[:, None] == columns)
        out[:, mine[:, None], mine] = block * leaving[:, None, None]
    return out


def theta_information(layout: SearchLayout, lam: Cube, reduction: Cube, levels: BatchLevels) -> Cube:
    """As likelihood.parameters.curvature.theta_information, of every model: ½ Σ_l tr(G ∂Σ_j G ∂Σ_k), (M, q, q)."""
    r, q = layout.r, layout.q
    if r == 1:
        square = levels.level_totals(reduction[0, 0] ** 2)
        with np.errstate(all="ignore"):
            value = np.where(lam[0, 0] == 0.0, 0.0, 2.0 * square / lam[0, 0] ** 2)
        return value[:, None, None]
    back = np.linalg.pinv(lam.transpose(2, 0, 1), rcond=SMALL_PIVOT)[levels.of_level]
    own = back.swapaxes(1, 2) @ reduction.transpose(2, 0, 1) @ back
    lam_levels = lam.transpose(2, 0, 1)[levels.of_level]
    products = []
    for i, j in zip(layout.rows, layout.columns, strict=True):
        change = np.zeros_like(own)
        change[:, i] += lam_levels[:, :, j]
        change[:, :, i] += lam_levels[:, :, j]
        products.append(change @ own)
    out = np.empty((levels.n_models, q, q))
    for a, pa in enumerate(products):
        for b in range(a + 1):
            each = 0.5 * np.einsum("gij,gji->g", pa, products[b])
            out[:, a, b] = out[:, b, a] = levels.level_totals(each)
    return out
