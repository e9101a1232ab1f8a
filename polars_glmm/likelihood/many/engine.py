"""Objectives of many small models for the batched search: −ℓ over [β_c, θ, log φ], with random effects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import Term
from polars_glmm.likelihood.many.value import BatchInformation, BatchMarginal, BatchPoint, BatchValue
from polars_glmm.likelihood.parameters.curvature import SMALL_PIVOT
from polars_glmm.linalg.side_by_side import LevelsOf
from polars_glmm.optimize.many import BatchEvaluation, newton_steps
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchModes:
    """Modes u_f (r_f, G_f) of all models, where the next evaluation starts; levels: of each factor."""

    u: list[Mat]
    levels: tuple[LevelsOf, ...]

    def of(self, models: BoolVec) -> list[Mat]:
        """The modes of some models."""
        return [v[:, models[at.model]] for v, at in zip(self.u, self.levels, strict=True)]

    def take(self, keep: BoolVec) -> BatchModes:
        return BatchModes(self.of(keep), tuple(at.take(keep) for at in self.levels))

    def where(self, mask: BoolVec, other: BatchModes) -> BatchModes:
        """The other's modes where the mask says so."""
        both = zip(self.u, other.u, self.levels, strict=True)
        return replace(self, u=[np.where(mask[at.model], new, old) for old, new, at in both])

    def put(self, index: IntVec, other: BatchModes) -> BatchModes:
        """The other's modes, which are those of the models at `index`."""
        mask = np.zeros(self.levels[0].n_models, dtype=bool)
        mask[index] = True
        u = [v.copy() for v in self.u]
        for v, new, at in zip(u, other.u, self.levels, strict=True):
            v[:, mask[at.model]] = new
        return replace(self, u=u)


@dataclass(frozen=True, slots=True, eq=False)
class SearchLayout:
    """Where parameters stand in the search vector [β_c (p), θ (q), γ (s)], and the entries of Λ that θ fills.

    terms, factors: the rows of Λ that belong to each
    """

    p: int
    r: int
    rows: IntVec
    columns: IntVec
    s: int
    terms: tuple[slice, ...] = ()
    factors: tuple[slice, ...] = ()

    @classmethod
    def of(cls, p: int, terms: tuple[Term, ...], *, has_gamma: bool, factors: tuple[slice, ...] = ()) -> SearchLayout:
        rows, columns = [], []
        for t in terms:
            i, j = STRUCTURES[t.structure].entries(t.stop - t.start)
            rows.append(i + t.start)
            columns.append(j + t.start)
        r = terms[-1].stop if terms else 0
        none = np.empty(0, dtype=np.intp)
        own = tuple(slice(t.start, t.stop) for t in terms)
        return cls(p, r, np.concatenate([none, *rows]), np.concatenate([none, *columns]), int(has_gamma), own,
                   factors or (slice(0, r),))  # fmt: skip

    def within(self, own: slice) -> IntVec:
        """Places in θ of the entries in some rows of Λ."""
        return np.flatnonzero((self.rows >= own.start) & (self.rows < own.stop))

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
    def levels(self) -> tuple[LevelsOf, ...]:
        """The levels of each factor."""
        return self.marginal.levels

    def take(self, keep: BoolVec) -> BatchRowEngine:
        cap = None if self.gamma_cap is None else self.gamma_cap[keep]
        return BatchRowEngine(self.marginal.take(keep), self.layout, cap, self.passes[keep])

    def evaluate(
        self, x: Mat, warm: list[Mat] | None, *, information: bool = False, rough: bool = False
    ) -> BatchValue:
        value = self.marginal.evaluate(self.layout.point(x), warm, information=information, rough=rough)
        self.passes += value.passes
        return value

    def at_factors(self, models: BoolVec, x: Mat, factors: Cube, modes: BatchModes | None) -> BatchValue:
        """ℓ and its gradient for some of the models at factors (r, r, m) that need not be of the layout."""
        some = self.marginal if models.all() else self.marginal.take(models)
        warm = None if modes is None else modes.of(models)
        return some.evaluate(self.layout.point(x)._replace(lam=factors), warm)

    def of_group(self, models: BoolVec, layout: SearchLayout) -> BatchRowEngine:
        """The engine of some of the models in another layout."""
        return replace(self if models.all() else self.take(models), layout=layout)

    def __call__(self, x: Mat, warm: BatchModes | None, *, curvature: bool) -> BatchEvaluation:
        capped = None
        if self.gamma_cap is not None:
            capped = x[:, -1] > self.gamma_cap
            x = np.column_stack([x[:, :-1], np.minimum(x[:, -1], self.gamma_cap)])
        v = self.evaluate(x, None if warm is None else warm.u, information=curvature, rough=True)
        gradient = -self.layout.pull(v)
        if capped is not None:
            gradient[capped, -1] = 0.0
        out = ~np.isfinite(v.value)
        gradient[out] = 0.0
        modes = BatchModes([np.nan_to_num(u) for u in v.modes], self.levels)
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
            b[:, theta, theta] = theta_information(at, at.lam(x[:, theta]), info.levels, self.levels)
        return b


def bending(layout: SearchLayout, lam: Cube, gradient: Cube, step: Mat) -> Cube:
    """As parameters.curvature.bending, of every model: lam and gradient (r, r, M), step (M, q); (M, q, q)."""
    out = np.zeros((lam.shape[-1], layout.q, layout.q))
    change = layout.lam(step)
    for own in layout.terms:
        mine = layout.within(own)
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


def theta_information(layout: SearchLayout, lam: Cube, reduction: list[Cube], levels: tuple[LevelsOf, ...]) -> Cube:
    """As likelihood.parameters.curvature.theta_information, of every model: ½ Σ_l tr(G ∂Σ_j G ∂Σ_k), (M, q, q)."""
    out = np.zeros((lam.shape[-1], layout.q, layout.q))
    for own, taken, at in zip(layout.factors, reduction, levels, strict=True):
        mine = layout.within(own)
        if len(mine):
            entries = (layout.rows[mine] - own.start, layout.columns[mine] - own.start)
            out[:, mine[:, None], mine] = _information_of_factor(entries, lam[own, own], taken, at)
    return out


def _information_of_factor(entries: tuple[IntVec, IntVec], lam: Cube, reduction: Cube, levels: LevelsOf) -> Cube:
    """The same in some entries of Λ (r, r, M) of one factor."""
    q = len(entries[0])
    if len(lam) == 1:
        square = levels.totals(reduction[0, 0] ** 2)
        with np.errstate(all="ignore"):
            value = np.where(lam[0, 0] == 0.0, 0.0, 2.0 * square / lam[0, 0] ** 2)
        return value[:, None, None]
    back = np.linalg.pinv(np.nan_to_num(lam).transpose(2, 0, 1), rcond=SMALL_PIVOT)[levels.model]
    own = back.swapaxes(1, 2) @ reduction.transpose(2, 0, 1) @ back
    lam_levels = lam.transpose(2, 0, 1)[levels.model]
    products = []
    for i, j in zip(*entries, strict=True):
        change = np.zeros_like(own)
        change[:, i] += lam_levels[:, :, j]
        change[:, :, i] += lam_levels[:, :, j]
        products.append(change @ own)
    out = np.empty((levels.n_models, q, q))
    for a, pa in enumerate(products):
        for b in range(a + 1):
            each = 0.5 * np.einsum("gij,gji->g", pa, products[b])
            out[:, a, b] = out[:, b, a] = levels.totals(each)
    return out
