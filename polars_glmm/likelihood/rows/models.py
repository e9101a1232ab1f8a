"""Where sums over rows and levels end: in one model, or in each of many side by side.

The kernels of `marginal` are written once against this face. With one model β is (p,) and Λ_f (d, r_f); with many, all
of one grouping factor and sorted by model and level, β is (p, m) and Λ stands once for every level, (r, r, G): what
belongs to a model has the models on its trailing axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from polars_glmm.likelihood.rows.picked import Picked
from polars_glmm.linalg import cholesky, level_factors
from polars_glmm.linalg.elimination import Eliminator, Factorised, OneFactorised
from polars_glmm.linalg.pattern import Blocks, Pattern
from polars_glmm.linalg.scaling import scaled_plus_identity, trace_blocks
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Models(Protocol):
    """The sums and products that know how many models there are; values are floats or (m,)."""

    alone: bool

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

    def products(self, a: Mat, b: Mat) -> Cube:
        """Σ ab' over levels for a (d, G), b (r, G): (d, r) or (d, r, m)."""

    def crossed(self, a: Cube, b: Cube) -> Cube:
        """Σ a'b over levels for a (r, p, G), b (r, q, G): (p, q) or (p, q, m)."""

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

    def products(self, a: Mat, b: Mat) -> Cube:
        return np.asarray(a @ b.T)

    def crossed(self, a: Cube, b: Cube) -> Cube:
        return np.asarray(np.einsum("rpG,rqG->pq", a, b))

    def curvature(self, w: Blocks, factors: list[Cube]) -> Blocks:
        return scaled_plus_identity(w, factors)

    def factorise(self, solver: Eliminator, h: Blocks) -> Factorised | None:
        return solver.factorise(h)

    def leverage(self, pattern: Pattern | None, factors: list[Cube], hat: Blocks) -> Cube:
        own = [cholesky.quadratic(lam.T, block, lam.T) for lam, block in zip(factors, hat.diagonal, strict=True)]
        if pattern is None:
            return own[0]
        total: Cube = pattern.of_own(0, own[0])
        for f in range(1, len(own)):
            total = total + pattern.of_own(f, own[f])
        for (f, g), block in hat.cross.items():
            k = cholesky.quadratic(factors[f].T, block, factors[g].T)
            total = total + pattern.pairs[f, g].spread(k + k.swapaxes(0, 1))
        return total

    def trace(self, w: Blocks, factors: list[Cube], hat: Blocks) -> list[Cube]:
        return trace_blocks(w, factors, hat)


ONE = OneModel()


@dataclass(frozen=True, slots=True, eq=False)
class ManyModels:
    """Whole models of one factor side by side, each with at least one row and one level.

    place              slice of the models of the batch
    of_level (G,)      the model of every level, counted within the unit
    rows_of (m,)       rows per model;  first_row, first_level (m,): where each model begins
    """

    place: slice
    of_level: IntVec
    rows_of: IntVec
    first_row: IntVec
    first_level: IntVec

    alone = False

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
        return np.add.reduceat(v, self.first_level, axis=-1)

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

    def products(self, a: Mat, b: Mat) -> Cube:
        return self.level_totals(a[:, None] * b[None, :])

    def crossed(self, a: Cube, b: Cube) -> Cube:
        return self.level_totals(np.einsum("rpG,rqG->pqG", a, b))

    def curvature(self, w: Blocks, factors: list[Cube]) -> Blocks:
        return Blocks([level_factors.scaled_plus_identity(factors[0], w.diagonal[0])], {})

    def factorise(self, solver: Eliminator, h: Blocks) -> OneFactorised:  # noqa: ARG002  # nothing couples levels
        low = cholesky.factor(h.diagonal[0])
        return OneFactorised(low, self.level_totals(cholesky.log_determinant(low)))

    def leverage(self, pattern: Pattern | None, factors: list[Cube], hat: Blocks) -> Cube:  # noqa: ARG002  # one factor
        return level_factors.outer(factors[0], hat.diagonal[0])

    def trace(self, w: Blocks, factors: list[Cube], hat: Blocks) -> list[Cube]:
        return [self.level_totals(level_factors.trace(w.diagonal[0], factors[0], hat.diagonal[0]))]
