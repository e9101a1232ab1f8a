"""The rows of a model with correlated residuals, in the order of their groups, and their products at one γ by passes.

Residuals have covariance R = DCD, D = diag(φ_i/√weight_i). Rows are whitened within their groups: L⁻¹D⁻¹ before [Z W].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Factor
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.likelihood.residual.arrangement import Arranged, FixedParts, Whitening, Whitenings, arrange
from polars_glmm.likelihood.residual.inner import Adjoint
from polars_glmm.likelihood.residual.whitening import whitenings
from polars_glmm.linalg.elimination import Eliminator
from polars_glmm.linalg.pattern import Blocks, Pattern, find_pattern, gather_blocks
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class CellRuns(NamedTuple):
    """Runs of arranged rows of one combination of levels: where each starts (C,), and which each row is in (n,)."""

    starts: IntVec
    of_row: IntVec


@dataclass(frozen=True, slots=True, eq=False)
class SeriesRows:
    """All rows in the order of their groups, ready for whitening.

    combination             C⁻¹ as a sum of fixed matrices
    z (d, n), w (p+1, n)    distinct random columns; fixed columns in the computing basis and y
    x_phi (s, n), offset    log φ = γ_c'x_phi + offset − ½ log weight
    """

    whitenings: Whitenings
    combination: FixedParts
    z: Mat
    w: Mat
    x_phi: Mat
    offset: Vec
    pattern: Pattern | None
    eliminator: Eliminator | None
    cells: CellRuns | None
    y_shift: float

    @property
    def n(self) -> int:
        return int(self.w.shape[1])

    @property
    def one_to_one(self) -> bool:
        """Whether cells are the levels of the only factor."""
        pattern, cells = self.pattern, self.cells
        if pattern is None or cells is None:
            return False
        return pattern.n_factors == 1 and not pattern.sets and len(cells.starts) == pattern.n_levels[0]

    def at(self, gamma: Vec, *, random: bool) -> WhiteProducts | None:
        s = len(self.x_phi)
        law = self.whitenings.at(gamma[s:])
        scale = np.exp(gamma[:s] @ self.x_phi + self.offset)
        if law is None or not (np.isfinite(scale).all() and (scale > 0.0).all()):
            return None
        return WhiteProducts(self, law, scale, random)

    def gathered(self, zz: Cube, zw: Cube, ww: Mat) -> CrossProducts:
        """Products of levels and of pairs that meet from those of cells (d, d, C), (d, m, C)."""
        pattern = self.pattern
        assert pattern is not None  # there are random effects
        levels = [zw] if self.one_to_one else [pattern.to_levels(f, zw) for f in range(pattern.n_factors)]
        blocks = gather_blocks(pattern, zz)
        return CrossProducts(pattern, self.eliminator, blocks, levels, ww, self.n, 0.0, self.y_shift)

    def alone(self, ww: Mat) -> CrossProducts:
        """Products without random effects."""
        return CrossProducts(None, None, Blocks([], {}), [], ww, self.n, 0.0, self.y_shift)


@dataclass(frozen=True, slots=True, eq=False)
class WhiteProducts:
    """The products of whitened rows at one γ: the law, and the rows' φ_i (n,)."""

    rows: SeriesRows
    law: Whitening
    scale: Vec
    random: bool

    def products(self) -> CrossProducts:
        rows = self.rows
        w = self.law.whiten(rows.w / self.scale)
        if not self.random or rows.cells is None:
            return rows.alone(w @ w.T)
        z, starts = self.law.whiten(rows.z / self.scale), rows.cells.starts
        zz, zw = np.empty((len(z), len(z), len(starts))), np.empty((len(z), len(w), len(starts)))
        for i in range(len(z)):
            for j in range(i + 1):
                zz[i, j] = zz[j, i] = np.add.reduceat(z[i] * z[j], starts)
            zw[i] = np.add.reduceat(z[i] * w, starts, axis=1)
        return rows.gathered(zz, zw, w @ w.T)

    @property
    def log_r(self) -> float:
        return 2.0 * float(np.log(self.scale).sum()) + float(self.law.log_variances.sum())

    @property
    def noise(self) -> float:
        return float(np.exp(np.log(self.scale).mean()))

    def slopes(self, adjoint: Adjoint) -> Vec:
        q = np.concatenate([adjoint.v.T @ self.left(adjoint.through), self.random_columns(adjoint.between)])
        by_row = 1.0 - np.einsum("cn,cn->n", q, self.law.solve(q))
        return np.append(2.0 * (self.rows.x_phi @ by_row), self.law.log_determinant_slopes + self.law.form_traces(q))

    def forms(self, through: Cube | None) -> Cube:
        x = self.left(through)[:-1]
        solved = self.law.solve(x)
        by_phi = [-2.0 * (x * row) @ solved.T for row in self.rows.x_phi]
        return np.concatenate([[0.5 * (one + one.T) for one in by_phi], self.law.forms(x)])

    def left(self, through: Cube | None) -> Mat:
        """W − ZΛB in every row, divided by φ: (m, n)."""
        left = self.rows.w.copy()
        if through is not None and self.rows.cells is not None:
            for i, own in enumerate(through):
                left -= self.rows.z[i] * own[:, self.rows.cells.of_row]
        return np.asarray(left / self.scale)

    def random_columns(self, between: Cube | None) -> Mat:
        """The row's part of ZK, KK' = `between`, divided by φ: (d, n)."""
        if between is None or self.rows.cells is None:
            return np.empty((0, self.rows.n))
        values, vectors = np.linalg.eigh(np.moveaxis(between, -1, 0))
        roots = np.moveaxis(vectors * np.sqrt(np.maximum(values, 0.0))[:, None], 0, -1)
        return np.asarray(np.einsum("dn,dcn->cn", self.rows.z / self.scale, roots[..., self.rows.cells.of_row]))


def series_rows(model: Model) -> SeriesRows:
    """The rows of a model. Raises ModelError where a group of correlated rows lies in several levels of a factor."""
    design, effects = model.held_in_memory(), model.effects
    residual = design.residual
    assert residual is not None  # else there is nothing to whiten
    require_nested(residual.codes.astype(np.intp), effects.factors)
    levels = [f.codes for f in effects.factors]
    arranged = arrange(residual, levels)
    order = arranged.order
    y = design.y if design.mu.offset is None else design.y - design.mu.offset
    shift = float(y.mean()) if model.x.constant is not None else 0.0
    w = np.vstack([model.x.columns(order), y[order] - shift])
    weights = np.ones(design.n_rows) if design.precision is None else design.precision[order]
    z = np.ones((1, design.n_rows)) if effects.columns is None else effects.columns[:, order]
    if design.phi is None:
        x_phi, offset = np.ones((1, design.n_rows)), np.zeros(design.n_rows)
    else:
        x_phi = model.bases[1].columns(order)
        offset = np.zeros(design.n_rows) if design.phi.offset is None else design.phi.offset[order]
    offset = offset - 0.5 * np.log(weights)
    pattern, cells = _cells(arranged, effects)
    found = None if pattern is None else effects.eliminator(pattern)
    made = whitenings(residual, arranged)
    return SeriesRows(made, made.combination, z, w, x_phi, offset, pattern, found, cells, shift)


def require_nested(codes: IntVec, factors: Sequence[FactorMap] | Sequence[Factor]) -> None:
    """Raise ModelError unless every factor has one level, or one set of levels, in each group of correlated rows."""
    for f in factors:
        lowest, highest = np.full(int(codes.max()) + 1, int(f.codes.max())), np.zeros(int(codes.max()) + 1, dtype=int)
        np.minimum.at(lowest, codes, f.codes)
        np.maximum.at(highest, codes, f.codes)
        if (lowest < highest).any():
            if f.sets is not None:
                msg = (
                    f"residual= correlates rows of different levels of {f.name!r}: the rows of each of its groups must "
                    "be in the same levels, by the same weights. Correlate within smaller groups, or leave out one."
                )
                raise ModelError(msg)
            msg = (
                f"residual= correlates rows of several levels of {f.name!r}: each of its groups must lie within one "
                "level of every grouping factor, which is never so with crossed factors. Correlate within smaller "
                f"groups, as in residual='ar1(time | {f.name})', or take the random effects of {f.name!r} out."
            )
            raise ModelError(msg)


def _cells(arranged: Arranged, effects: Effects) -> tuple[Pattern | None, CellRuns | None]:
    if not effects.factors:
        return None, None
    codes = [f.codes[arranged.order] for f in effects.factors]
    new = np.append(True, np.any([np.diff(c) != 0 for c in codes], axis=0))
    starts = np.flatnonzero(new)
    of_cell = tuple(np.asarray(c[starts], dtype=np.intp) for c in codes)
    sizes, counts = tuple(f.r for f in effects.factors), tuple(f.n_levels for f in effects.factors)
    pattern = find_pattern(of_cell, counts, sizes, effects.sets)
    return pattern, CellRuns(starts, np.cumsum(new) - 1)
