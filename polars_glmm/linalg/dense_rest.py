"""The dense remainder: the leading factor is eliminated, all others are left in one dense Schur complement."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from weakref import finalize

import numpy as np
import scipy.sparse as sp
from scipy.linalg import blas, lapack

from polars_glmm.linalg import cholesky
from polars_glmm.linalg.pattern import Blocks, Pattern, sum_by
from polars_glmm.linalg.row_pairs import Pairs, at_entries, gram, products_in_passing, row_norms, row_pairs
from polars_glmm.linalg.threads import all_blas_threads
from polars_glmm.typing import Cube, IntVec, Mat, Vec

_GATHER_NS, _FLOP_NS = 15.0, 0.02  # measured cost of one sparse pair and of one dense flop; only their ratio matters
_COSTLY = 150  # order of a dense remainder from which a factorisation costs far more than a solution
_PAIRS_KEPT = 40_000_000  # up to here the pairs are found once and kept, 12 bytes each


@dataclass(frozen=True, eq=False)
class DenseRest:
    """The leading factor is crossed with another: S is dense over all remaining levels.

    W = L₁⁻¹C is held by rows (one per random effect of the lead); column numbers run over the remaining factors.
    """

    pattern: Pattern
    offsets: list[int] = field(init=False)
    _spare: list[Vec] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        widths = [g * r for g, r in zip(self.pattern.n_levels, self.pattern.sizes, strict=True)]
        object.__setattr__(self, "offsets", [0, 0, *np.cumsum(widths[1:]).tolist()])

    @property
    def width(self) -> int:
        return self.offsets[-1]

    @property
    def order(self) -> int:
        return self.width

    @property
    def costly(self) -> bool:
        return self.width > _COSTLY

    @cached_property
    def entries(self) -> tuple[IntVec, IntVec, IntVec, IntVec]:
        """Order that sorts the entries of W by row, their columns, row pointers, and rows."""
        rows, columns = [], []
        lead_levels, lead_size = self.pattern.n_levels[0], self.pattern.sizes[0]
        for g in range(1, self.pattern.n_factors):
            pair, size, levels = self.pattern.pairs[0, g], self.pattern.sizes[g], self.pattern.n_levels[g]
            shape = (lead_size, size, len(pair.left))
            a, b, _ = np.ogrid[: shape[0], : shape[1], : shape[2]]
            rows.append(np.broadcast_to(a * lead_levels + pair.left, shape).ravel())
            columns.append(np.broadcast_to(self.offsets[g] + b * levels + pair.right, shape).ravel())
        row, column = np.concatenate(rows), np.concatenate(columns)
        order = np.lexsort((column, row))
        pointers = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=lead_levels * lead_size))])
        return order, column[order], pointers, row[order]

    @cached_property
    def keeps_pairs(self) -> bool:
        """Whether the pairs of entries of W that share a row are few enough to be found once and kept."""
        return int((np.diff(self.entries[2]).astype(np.int64) ** 2).sum()) <= _PAIRS_KEPT

    @cached_property
    def pairs(self) -> Pairs:
        """Those pairs."""
        _, columns, pointers, _ = self.entries
        return row_pairs(columns, pointers, self.width)

    @cached_property
    def on_diagonal(self) -> IntVec:
        """Place in S of (c, c) for the column c of every entry of W."""
        return self.entries[1] * (self.width + 1)

    def buffer(self) -> Vec:
        """Room for S: that of a factorisation nobody needs any more, or fresh."""
        return self._spare.pop() if self._spare else np.empty(self.width**2)

    @cached_property
    def room(self) -> Mat:
        """Room for S⁻¹, one at a time."""
        return np.empty((self.width, self.width), order="F")

    @cached_property
    def dense_w(self) -> bool:
        """Whether a dense W'W is cheaper than the pairs of entries that share a row."""
        counts = np.diff(self.entries[2]).astype(float)
        return float((counts**2).sum()) * _GATHER_NS > len(counts) * float(self.width) ** 2 * _FLOP_NS

    def positions(self, g: int, h: int) -> tuple[Cube, Cube]:
        """Row and column numbers in S of the blocks of factors g ≤ h, shaped as those blocks."""
        n, r = self.pattern.n_levels, self.pattern.sizes
        if g == h:
            left = right = np.arange(n[g])
        else:
            left, right = self.pattern.pairs[g, h].left, self.pattern.pairs[g, h].right
        a, b, _ = np.ogrid[: r[g], : r[h], : len(left)]
        return self.offsets[g] + a * n[g] + left + 0 * b, self.offsets[h] + b * n[h] + right + 0 * a

    @cached_property
    def rest_positions(self) -> dict[tuple[int, int], tuple[Cube, Cube]]:
        factors = range(1, self.pattern.n_factors)
        return {(g, h): self.positions(g, h) for g in factors for h in factors if g <= h}

    def factorise(self, h: Blocks) -> DenseFactorised | None:
        low = cholesky.factor(h.diagonal[0])
        log_det = float(cholesky.log_determinant(low).sum())
        if not np.isfinite(log_det):
            return None
        order, columns, pointers, rows = self.entries
        data = np.concatenate(
            [
                cholesky.forward(low[..., self.pattern.pairs[0, g].left], h.cross[0, g]).ravel()
                for g in range(1, self.pattern.n_factors)
            ]
        )[order]
        shape = (len(pointers) - 1, self.width)
        w: Mat | sp.csr_matrix
        room = self.buffer()
        s, products = room.reshape(self.width, self.width), None
        if self.dense_w:
            w = np.zeros(shape)
            w[rows, columns] = data
            np.negative(np.matmul(w.T, w, out=s), out=s)
        else:
            w = sp.csr_matrix((data, columns, pointers), shape=shape)
            if self.keeps_pairs:
                products = gram(data, self.pairs, room)
            else:
                s[:] = -(w.T @ w).toarray()
        for (f, g), (row, column) in self.rest_positions.items():
            block = h.diagonal[f] if f == g else h.cross[f, g]
            s[row, column] += block
            if f != g:
                s[column, row] += block
        with all_blas_threads(self.width):
            s_low, failed = lapack.dpotrf(s.T, lower=1, overwrite_a=1, clean=0)
        if failed:
            self._spare.append(room)
            return None
        log_det += 2.0 * float(np.log(np.diag(s_low)).sum())
        done = DenseFactorised(self, low, w, data, products, s_low, log_det)
        finalize(done, self._spare.append, room).atexit = False
        return done


@dataclass(frozen=True, eq=False)
class DenseFactorised:
    """L of the lead's block, W = L⁻¹C with its entries row by row in `data`, and the Cholesky factor of S.

    products of the entries that share a row, where they are few
    """

    symbolic: DenseRest
    low: Cube
    w: Mat | sp.csr_matrix
    data: Mat
    products: Vec | None
    s_low: Mat
    log_determinant: float

    def solve(self, b: list[Cube]) -> list[Cube]:
        pattern, offsets = self.symbolic.pattern, self.symbolic.offsets
        middle = b[0].shape[1:-1]

        def flat(x: Cube) -> Mat:
            return np.moveaxis(x.reshape(len(x), -1, x.shape[-1]), 1, -1).reshape(-1, int(np.prod(middle, dtype=int)))

        def shaped(x: Mat, size: int, levels: int) -> Cube:
            return np.moveaxis(x.reshape(size, levels, -1), -1, 1).reshape(size, *middle, levels)

        y = flat(cholesky.forward(self.low, b[0]))
        below = np.concatenate([flat(x) for x in b[1:]]) - self.w.T @ y
        x, _ = lapack.dpotrs(self.s_low, below, lower=1)
        y = y - self.w @ x
        lead = cholesky.backward(self.low, shaped(y, pattern.sizes[0], pattern.n_levels[0]))
        rest = [
            shaped(x[offsets[g] : offsets[g + 1]], pattern.sizes[g], pattern.n_levels[g])
            for g in range(1, pattern.n_factors)
        ]
        return [lead, *rest]

    def _rest_inverse(self) -> Vec:
        """S⁻¹ by rows (width²,), the upper triangle; valid until the next one is asked for."""
        room = self.symbolic.room
        room[:] = self.s_low
        with all_blas_threads(self.symbolic.width):
            inverse, _ = lapack.dpotri(room, lower=1, overwrite_c=1)
        return np.asarray(inverse.T.reshape(-1))

    def inverse_diagonal(self) -> list[Cube]:
        symbolic = self.symbolic
        if isinstance(self.w, np.ndarray) or not symbolic.keeps_pairs or symbolic.pattern.sizes[0] > 1:
            return self.inverse().diagonal
        flat, pointers = self._rest_inverse(), symbolic.entries[2]
        norms = row_norms(self.data, symbolic.pairs, flat, symbolic.on_diagonal, pointers, self.products)
        own = [symbolic.rest_positions[g, g] for g in range(1, symbolic.pattern.n_factors)]
        rest = [flat[np.minimum(i, j) * symbolic.width + np.maximum(i, j)] for i, j in own]
        return [(1.0 + norms) / self.low**2, *rest]

    def inverse(self) -> Blocks:
        return self._inverse

    @cached_property
    def _inverse(self) -> Blocks:
        symbolic, pattern = self.symbolic, self.symbolic.pattern
        order, columns, pointers, rows = symbolic.entries
        flat = self._rest_inverse()
        if isinstance(self.w, np.ndarray):
            s_inv = flat.reshape(symbolic.width, symbolic.width).T
            t_sorted = blas.dsymm(1.0, s_inv, self.w.T, lower=1).T[rows, columns]
        elif symbolic.keeps_pairs:
            t_sorted = at_entries(self.data, symbolic.pairs, flat, symbolic.on_diagonal)
        else:
            t_sorted = products_in_passing(self.data, columns, pointers, flat, symbolic.width)
        t = np.empty_like(t_sorted)
        t[order] = t_sorted
        w_data = np.empty_like(t)
        w_data[order] = self.data
        lead = cholesky.inverse(self.low)
        middle = np.zeros_like(lead)
        cross: dict[tuple[int, int], Cube] = {}
        start = 0
        for g in range(1, pattern.n_factors):
            pair = pattern.pairs[0, g]
            shape = (pattern.sizes[0], pattern.sizes[g], len(pair.left))
            stop = start + int(np.prod(shape))
            t_g, w_g = t[start:stop].reshape(shape), w_data[start:stop].reshape(shape)
            start = stop
            middle += sum_by(pair.left, np.einsum("iaP,jaP->ijP", t_g, w_g), pattern.n_levels[0])
            cross[0, g] = -cholesky.backward(self.low[..., pair.left], t_g)
        half = cholesky.backward(self.low, middle)
        lead = lead + cholesky.backward(self.low, half.swapaxes(0, 1))
        diagonal = [lead]
        for (f, g), (row, column) in symbolic.rest_positions.items():
            block = flat[np.minimum(row, column) * symbolic.width + np.maximum(row, column)]
            if f == g:
                diagonal.append(block)
            else:
                cross[f, g] = block
        return Blocks(diagonal, cross)
