"""Where sums over rows and levels end: in one model, or in each of many side by side.

The kernels of `marginal` are written once against this face. With one model β is (p,) and Λ_f (d, r_f); with many,
sorted by model and level, β is (p, m) and Λ_f stands once for every level, (d, r_f, G_f): what belongs to a model has
the models on its trailing axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from polars_glmm.likelihood.rows.picked import Picked
from polars_glmm.linalg import cholesky, level_factors
from polars_glmm.linalg.elimination import Eliminator, Factorised
from polars_glmm.linalg.pattern import Blocks, Pattern
from polars_glmm.linalg.scaling import scaled_plus_identity, trace_blocks
from polars_glmm.linalg.side_by_side import LevelsOf
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Models(Protocol):
    """The sums and products that know how many models there are; values are floats or (m,).

    alone   one model has it all
    """

    alone: bool

    def joint(self, f: Vec, u: list[Mat], weighted: list[Mat]) -> Any:
        """Sums over each model of f (C,) over cells, less half of effects u_f (r_f, G_f) times the same weighted."""

    def dot(self, a: list[Mat], b: list[Mat]) -> Any:
        """Σ a'b over the levels of all factors."""

    def on_levels(self, v: Any, n: int) -> list[Any]:
        """A value of whatever has a joint density of its own on the levels of each of n factors."""

    def on_cells(self, v: Any) -> Any:
        """The same on cells."""

    def linear(self, beta: Mat, x: Mat | Picked | None) -> Any:
        """Xβ per row, (n,), of thresholds (2, n); of a constant, whose x is None, β itself where one model has it."""

    def on_rows(self, v: Any) -> Any:
        """A value of each model on its rows: a float, or (n,)."""

    def row_totals(self, v: Cube) -> Any:
        """Sums over the rows of each model."""

    def level_totals(self, v: Cube) -> Any:
        """Sums over the levels of each model."""

    def x_sums(self, x: Mat | Picked | None, v: Mat) -> Mat:
        """X'v: (p,) or (p, m); a constant's X is one column of ones."""

    def xx_sums(self, xw: Mat, x: Mat | None) -> Cube:
        """X'WX from XW (q, n) and X: (q, p) or (q, p, m); of many models both are of the same X."""

    def times(self, lam: Cube, v: Cube) -> Cube:
        """Λv per level for v (r, …, G): (d, …, G)."""

    def transposed_times(self, lam: Cube, v: Cube) -> Cube:
        """Λ'v per level for v (d, …, G): (r, …, G)."""

    def products(self, a: Mat, b: Mat, f: int) -> Cube:
        """Σ ab' over levels of factor f for a (d, G), b (r, G): (d, r) or (d, r, m)."""

    def crossed(self, a: Cube, b: Cube, f: int) -> Cube:
        """Σ a'b over levels of factor f for a (r, p, G), b (r, q, G): (p, q) or (p, q, m)."""

    def curvature(self, w: Blocks, factors: list[Cube]) -> Blocks:
        """H = Λ'WΛ + I in blocks."""

    def factorise(self, solver: Eliminator, h: Blocks) -> Factorised | None:
        """The factorised H; where it is not positive definite None of one model, NaN in those levels of many."""

    def leverage(self, pattern: Pattern | None, factors: list[Cube], hat: Blocks) -> Cube:
        """ΛĤΛ' summed over the factors that meet in each cell: (d, d, C)."""

    def trace(self, w: Blocks, factors: list[Cube], hat: Blocks) -> list[Cube]:
        """Σ over levels of the diagonal blocks of WΛĤ, per factor (d, r_f) or (d, r, m)."""


@dataclass(frozen=True, slots=True)
class OneModel:
    """All rows and levels are of one model."""

    alone = True

    def joint(self, f: Vec, u: list[Mat], weighted: list[Mat]) -> float:
        return float(f.sum()) - 0.5 * self.dot(u, weighted)

    def dot(self, a: list[Mat], b: list[Mat]) -> float:
        return sum(float(np.vdot(v, w)) for v, w in zip(a, b, strict=True))

    def on_levels(self, v: Any, n: int) -> list[Any]:
        return [v] * n

    def on_cells(self, v: Any) -> Any:
        return v

    def linear(self, beta: Mat, x: Mat | Picked | None) -> Any:
        if isinstance(x, Picked):
            return x.linear(beta)
        return self.on_rows(beta[0]) if x is None else np.asarray(beta @ x)

    def on_rows(self, v: Any) -> float:
        return float(v)

    def row_totals(self, v: Cube) -> Any:
        return v.sum(-1)

    def level_totals(self, v: Cube) -> Any:
        return v.sum(-1)

    def x_sums(self, x: Mat | Picked | None, v: Mat) -> Mat:
        if isinstance(x, Picked):
            return x.sums(v)
        return np.asarray(v.sum(-1))[None] if x is None else np.asarray(x @ v)

    def xx_sums(self, xw: Mat, x: Mat | None) -> Cube:
        return np.asarray(xw.sum(-1)[:, None] if x is None else xw @ x.T)

    def times(self, lam: Cube, v: Cube) -> Cube:
        return np.asarray(lam @ v if v.ndim == 2 else np.tensordot(lam, v, 1))

    def transposed_times(self, lam: Cube, v: Cube) -> Cube:
        return np.asarray(lam.T @ v if v.ndim == 2 else np.tensordot(lam.T, v, 1))

    def products(self, a: Mat, b: Mat, f: int) -> Cube:  # noqa: ARG002  # one model has all levels
        return np.asarray(a @ b.T)

    def crossed(self, a: Cube, b: Cube, f: int) -> Cube:  # noqa: ARG002
        return np.asarray(np.einsum("rpG,rqG->pq", a, b))

    def curvature(self, w: Blocks, factors: list[Cube]) -> Blocks:
        return scaled_plus_identity(w, factors)

    def factorise(self, solver: Eliminator, h: Blocks) -> Factorised | None:
        return solver.factorise(h)

    def leverage(self, pattern: Pattern | None, factors: list[Cube], hat: Blocks) -> Cube:
        own = [cholesky.quadratic(lam.T, block, lam.T) for lam, block in zip(factors, hat.diagonal, strict=True)]
        cross = {(f, g): cholesky.quadratic(factors[f].T, one, factors[g].T) for (f, g), one in hat.cross.items()}
        return _in_cells(pattern, own, cross)

    def trace(self, w: Blocks, factors: list[Cube], hat: Blocks) -> list[Cube]:
        return trace_blocks(w, factors, hat)


ONE = OneModel()


@dataclass(frozen=True, slots=True, eq=False)
class ManyModels:
    """Whole models side by side, each with at least one row and one level of each factor.

    place              slice of the models of the batch
    levels             per factor the model of each level, counted within the unit; without factors a model is a level
    rows_of (m,)       rows per model;  first_row (m,): where each begins
    pattern, first_cell (m,)   of several factors: which levels meet, and where the cells of each model begin
    uses               per factor its columns among the d distinct ones, where there are several
    """

    place: slice
    levels: tuple[LevelsOf, ...]
    rows_of: IntVec
    first_row: IntVec
    pattern: Pattern | None = None
    first_cell: IntVec | None = None
    uses: tuple[tuple[int, ...], ...] = ()

    alone = False

    def effective(self, lam: Cube, d: int) -> list[Cube]:
        """Factors (d, r_f, G_f) for every level from Λ (r, r, M) of all models and factors of the batch."""
        own = effective_factors(lam[..., self.place], self.uses, d)
        return [factor[..., at.model] for factor, at in zip(own, self.levels, strict=False)]

    def joint(self, f: Vec, u: list[Mat], weighted: list[Mat]) -> Vec:
        if self.first_cell is None:
            return np.asarray(self.level_totals(f - 0.5 * np.einsum("rG,rG->G", u[0], weighted[0])))
        return np.asarray(np.add.reduceat(f, self.first_cell) - 0.5 * self.dot(u, weighted))

    def dot(self, a: list[Mat], b: list[Mat]) -> Vec:
        each = (at.totals(np.einsum("rG,rG->G", v, w)) for at, v, w in zip(self.levels, a, b, strict=True))
        return np.asarray(sum(each))

    def on_levels(self, v: Any, n: int) -> list[Any]:
        return [v] * n if self.pattern is None else [v[at.model] for at in self.levels]

    def on_cells(self, v: Any) -> Any:
        return v if self.pattern is None else v[self.levels[0].model[self.pattern.codes[0]]]

    def linear(self, beta: Mat, x: Mat | Picked | None) -> Any:
        if isinstance(x, Picked):
            return x.linear(beta, self._of_row)
        if x is None:
            return self.on_rows(beta[0])
        total = np.zeros(x.shape[1]) if not len(x) else self.on_rows(beta[0]) * x[0]
        for b, column in zip(beta[1:], x[1:], strict=True):
            total += self.on_rows(b) * column
        return total

    @property
    def _of_row(self) -> IntVec:
        """The model of every row, counted within the unit."""
        return np.repeat(np.arange(len(self.rows_of)), self.rows_of)

    def on_rows(self, v: Vec) -> Vec:
        return np.repeat(v, self.rows_of, axis=-1)

    def row_totals(self, v: Cube) -> Cube:
        return np.add.reduceat(v, self.first_row, axis=-1)

    def level_totals(self, v: Cube) -> Cube:
        return self.levels[0].totals(v)

    def x_sums(self, x: Mat | Picked | None, v: Mat) -> Mat:
        if isinstance(x, Picked):
            return x.sums(v, self._of_row, len(self.rows_of))
        if x is None:
            return np.asarray(self.row_totals(v))[None]
        return np.array([self.row_totals(column * v) for column in x]).reshape(len(x), len(self.rows_of))

    def xx_sums(self, xw: Mat, x: Mat | None) -> Cube:
        if x is None:
            return self.row_totals(xw)[:, None]
        p = len(x)
        out = np.empty((p, p, len(self.rows_of)))
        for i in range(p):
            for j in range(i + 1):
                out[i, j] = out[j, i] = self.row_totals(xw[i] * x[j])
        return out

    def times(self, lam: Cube, v: Cube) -> Cube:
        return level_factors.times(lam, v)

    def transposed_times(self, lam: Cube, v: Cube) -> Cube:
        return level_factors.transposed_times(lam, v)

    def products(self, a: Mat, b: Mat, f: int) -> Cube:
        return self.levels[f].totals(a[:, None] * b[None, :])

    def crossed(self, a: Cube, b: Cube, f: int) -> Cube:
        return self.levels[f].totals(np.einsum("rpG,rqG->pqG", a, b))

    def curvature(self, w: Blocks, factors: list[Cube]) -> Blocks:
        return level_factors.curvature(w, factors, self.pattern)

    def factorise(self, solver: Eliminator, h: Blocks) -> Factorised | None:
        return solver.factorise(h)

    def leverage(self, pattern: Pattern | None, factors: list[Cube], hat: Blocks) -> Cube:
        own = [level_factors.outer(lam, block) for lam, block in zip(factors, hat.diagonal, strict=True)]
        cross = {}
        for (f, g), block in hat.cross.items():
            assert pattern is not None  # factors that meet have one
            pair = pattern.pairs[f, g]
            left, right = factors[f][..., pair.left].swapaxes(0, 1), factors[g][..., pair.right].swapaxes(0, 1)
            cross[f, g] = level_factors.quadratic(left, block, right)
        return _in_cells(pattern, own, cross)

    def trace(self, w: Blocks, factors: list[Cube], hat: Blocks) -> list[Cube]:
        terms = level_factors.trace_terms(w, factors, hat, self.pattern)
        return [np.asarray(sum(at.sums(*term) for term in own)) for at, own in zip(self.levels, terms, strict=True)]


def effective_factors(lam: Cube, uses: tuple[tuple[int, ...], ...], d: int) -> list[Cube]:
    """Per factor its rows of Λ (r, r, M) among d columns (d, r_f, M); `uses` is empty where there is one factor."""
    if not uses:
        return [lam] if len(lam) else []
    out, start = [], 0
    for use in uses:
        own = slice(start, start + len(use))
        wide = np.zeros((d, len(use), lam.shape[-1]))
        for row, place in zip(lam[own, own], use, strict=True):
            wide[place] += row
        out.append(wide)
        start += len(use)
    return out


def inward_factors(effective: list[Cube], uses: tuple[tuple[int, ...], ...]) -> Cube:
    """Derivatives in Λ (r, r, M) from those in the effective factors, (d, r_f, M) each."""
    if not uses:
        return effective[0]
    r = sum(len(use) for use in uses)
    out, start = np.zeros((r, r, effective[0].shape[-1])), 0
    for use, own in zip(uses, effective, strict=True):
        at = slice(start, start + len(use))
        out[at, at] = own[list(use)]
        start += len(use)
    return out


def _in_cells(pattern: Pattern | None, own: list[Cube], cross: dict[tuple[int, int], Cube]) -> Cube:
    """Blocks of single levels and of pairs of levels, added up in the cells where they meet: (d, d, C)."""
    if pattern is None:
        return own[0]
    total: Cube = pattern.of_own(0, own[0])
    for f in range(1, len(own)):
        total = total + pattern.of_own(f, own[f])
    for pair, k in cross.items():
        total = total + pattern.pairs[pair].spread(k + k.swapaxes(0, 1))
    return total
