"""The leading factor is crossed with another: it is eliminated, and S over all other levels is what remains.

A row is in one level of the leading factor; of the others it may be in several.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from polars_glmm.linalg import cholesky
from polars_glmm.linalg.pattern import Blocks, Pattern, distinct, sum_by
from polars_glmm.linalg.remainder import BlockRemainder, FactorisedRemainder, Remainder
from polars_glmm.linalg.row_products import PAIRS_KEPT, RowProducts, pairs_within
from polars_glmm.linalg.stages import Graph, StagedRemainder
from polars_glmm.typing import Cube, IntVec, Mat, Vec

_SPARSE, _FEW = 1.0 / 34.0, 20
"""Share of S, or pairs for each unknown, that may meet where stages are thought of: beyond, not even the first pays."""
_LOOK = 3
"""So many times that number of pairs are looked at before all are."""
_WORTH = 0.5
"""Share of the cost of dense blocks below which stages are worth it."""


@dataclass(frozen=True, eq=False)
class CrossedLead:
    """The leading factor is crossed with another.

    W = L₁⁻¹C is held by rows (one per random effect of the lead); column numbers run over the remaining factors.
    """

    pattern: Pattern
    offsets: list[int] = field(init=False)

    def __post_init__(self) -> None:
        widths = [g * r for g, r in zip(self.pattern.n_levels, self.pattern.sizes, strict=True)]
        object.__setattr__(self, "offsets", [0, 0, *np.cumsum(widths[1:]).tolist()])

    @property
    def order(self) -> int:
        return self.remainder.order

    @property
    def dense_entries(self) -> int:
        return self.remainder.dense_entries

    @property
    def costly(self) -> bool:
        return self.remainder.costly

    @cached_property
    def entries(self) -> tuple[IntVec, IntVec, IntVec]:
        """Order that sorts the entries of W by row, their columns, and row pointers."""
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
        return order, column[order], pointers

    @cached_property
    def remainder(self) -> Remainder:
        """S: dense within the components of its graph, or sparse where elimination in stages is cheaper."""
        dense, width = BlockRemainder(self.components), self.offsets[-1]
        limit = max(int(_SPARSE * dense.size), _FEW * width)
        pairs = pairs_within(np.diff(self.entries[2]))
        some = np.random.default_rng(0).permutation(len(pairs))
        some = some[: int(np.searchsorted(np.cumsum(pairs[some]), _LOOK * limit)) + 1]
        if pairs.sum() > PAIRS_KEPT or self._meeting(some).nnz // 2 > limit:
            return dense
        staged = StagedRemainder(self.graph)
        return staged if staged.nanoseconds < _WORTH * dense.nanoseconds else dense

    def _meeting(self, rows: IntVec | slice) -> sp.csr_matrix:
        """Which remaining effects meet in these rows of W, both triangles."""
        _, columns, pointers = self.entries
        there = np.ones(len(columns), dtype=bool)
        w = sp.csr_matrix((there, columns, pointers), shape=(len(pointers) - 1, self.offsets[-1]))[rows]
        return sp.csr_matrix(w.T @ w)

    @property
    def components(self) -> IntVec:
        """The component of each remaining effect: those meet, directly or by others, that share a row of W."""
        _, columns, pointers = self.entries
        width, own = self.offsets[-1], [*self._positions.values(), *self._shared.values()]
        i = np.concatenate([np.repeat(columns[pointers[:-1]], np.diff(pointers)), *(row.ravel() for row, _ in own)])
        j = np.concatenate([columns, *(column.ravel() for _, column in own)])
        meets = sp.coo_matrix((np.ones(len(i), dtype=bool), (i, j)), shape=(width, width))
        return np.asarray(connected_components(meets, directed=False)[1], dtype=np.intp)

    @property
    def graph(self) -> Graph:
        """Which remaining effects meet in S."""
        width, meeting = self.offsets[-1], self._meeting(slice(None)).tocoo()
        keys = [meeting.row.astype(np.int64) * width + meeting.col]
        own = [*self._positions.values(), *self._shared.values()]
        keys += [np.minimum(i, j).ravel() * width + np.maximum(i, j).ravel() for i, j in own]
        left, right = np.divmod(distinct(np.concatenate(keys)), width)
        return Graph(width, left[left < right], right[left < right])

    @cached_property
    def rows(self) -> RowProducts:
        """Sums over the rows of W."""
        _, columns, pointers = self.entries
        return RowProducts(columns, pointers, self.remainder)

    @cached_property
    def _positions(self) -> dict[tuple[int, int], tuple[Cube, Cube]]:
        """Row and column numbers in S of the blocks of factors g ≤ h, shaped as those blocks."""
        n, r, found = self.pattern.n_levels, self.pattern.sizes, {}
        for g in range(1, self.pattern.n_factors):
            for h in range(g, self.pattern.n_factors):
                left = np.arange(n[g]) if g == h else self.pattern.pairs[g, h].left
                right = left if g == h else self.pattern.pairs[g, h].right
                a, b, _ = np.ogrid[: r[g], : r[h], : len(left)]
                found[g, h] = (self.offsets[g] + a * n[g] + left + 0 * b, self.offsets[h] + b * n[h] + right + 0 * a)
        return found

    @cached_property
    def _shared(self) -> dict[int, tuple[Cube, Cube]]:
        """The same of pairs of levels of one factor g that share rows, shaped as their blocks."""
        n, r, found = self.pattern.n_levels, self.pattern.sizes, {}
        for (g, h), pair in self.pattern.pairs.items():
            if g == h:
                a, b, _ = np.ogrid[: r[g], : r[g], : len(pair.left)]
                start = self.offsets[g]
                found[g] = (start + a * n[g] + pair.left + 0 * b, start + b * n[g] + pair.right + 0 * a)
        return found

    @cached_property
    def shared_places(self) -> dict[int, IntVec]:
        """Places in S of pairs of levels of one factor, shaped as their blocks."""
        place = self.remainder.place
        return {g: place(np.minimum(i, j), np.maximum(i, j)) for g, (i, j) in self._shared.items()}

    @cached_property
    def places(self) -> dict[tuple[int, int], IntVec]:
        """Places in S of the blocks of factors g ≤ h, shaped as those blocks; the triangles of one share theirs."""
        place = self.remainder.place
        return {at: place(np.minimum(i, j), np.maximum(i, j)) for at, (i, j) in self._positions.items()}

    @cached_property
    def upper(self) -> dict[int, IntVec]:
        """Of each remaining factor, the numbers of the entries of its own blocks that are not below their diagonal."""
        own = {g: self._positions[g, g] for g in range(1, self.pattern.n_factors)}
        return {g: np.flatnonzero((i <= j).ravel()) for g, (i, j) in own.items()}

    def factorise(self, h: Blocks) -> CrossedFactorised | None:
        low = cholesky.factor(h.diagonal[0])
        log_det = float(cholesky.log_determinant(low).sum())
        if not np.isfinite(log_det):
            return None
        data = np.concatenate(
            [
                cholesky.forward(low[..., self.pattern.pairs[0, g].left], h.cross[0, g]).ravel()
                for g in range(1, self.pattern.n_factors)
            ]
        )[self.entries[0]]
        s = self.remainder.room()
        products = self.rows.gram(data, s)
        for (f, g), place in self.places.items():
            if f == g:
                chosen = self.upper[g]
                s[place.ravel()[chosen]] += h.diagonal[g].ravel()[chosen]
            else:
                s[place] += h.cross[f, g]
        for g, place in self.shared_places.items():
            s[place] += h.cross[g, g]
        rest = self.remainder.factorise(s)
        return None if rest is None else CrossedFactorised(self, low, data, products, rest)


@dataclass(frozen=True, eq=False)
class CrossedFactorised:
    """L of the lead's block, W = L⁻¹C with its entries row by row in `data`, and the factorised S.

    products  what the rows left behind when they were summed
    """

    symbolic: CrossedLead
    low: Cube
    data: Vec
    products: Vec | None
    rest: FactorisedRemainder

    @property
    def log_determinant(self) -> float:
        return float(cholesky.log_determinant(self.low).sum()) + self.rest.log_determinant

    @cached_property
    def w(self) -> sp.csr_matrix:
        """W, (effects of the lead, order of S)."""
        _, columns, pointers = self.symbolic.entries
        return sp.csr_matrix((self.data, columns, pointers), shape=(len(pointers) - 1, self.symbolic.offsets[-1]))

    def solve(self, b: list[Cube]) -> list[Cube]:
        pattern, offsets = self.symbolic.pattern, self.symbolic.offsets
        middle = b[0].shape[1:-1]
        right = int(np.prod(middle, dtype=int))

        def flat(x: Cube) -> Mat:
            return np.moveaxis(x.reshape(len(x), right, x.shape[-1]), 1, -1).reshape(len(x) * x.shape[-1], right)

        def shaped(x: Mat, size: int, levels: int) -> Cube:
            return np.moveaxis(x.reshape(size, levels, right), -1, 1).reshape(size, *middle, levels)

        y = flat(cholesky.forward(self.low, b[0]))
        x = self.rest.solve(np.concatenate([flat(x) for x in b[1:]]) - self.w.T @ y)
        y = y - self.w @ x
        lead = cholesky.backward(self.low, shaped(y, pattern.sizes[0], pattern.n_levels[0]))
        rest = [
            shaped(x[offsets[g] : offsets[g + 1]], pattern.sizes[g], pattern.n_levels[g])
            for g in range(1, pattern.n_factors)
        ]
        return [lead, *rest]

    def inverse_diagonal(self) -> list[Cube]:
        symbolic = self.symbolic
        if symbolic.pattern.sizes[0] > 1:
            return self.inverse().diagonal
        inverse = self.rest.inverse()
        norms = symbolic.rows.row_norms(self.data, self.rest, inverse, self.products)
        rest = [inverse[symbolic.places[g, g]] for g in range(1, symbolic.pattern.n_factors)]
        return [(1.0 + norms) / self.low**2, *rest]

    def inverse(self) -> Blocks:
        return self._inverse

    def between(self, g: int) -> Cube:
        """H⁻¹ between all levels of a factor other than the lead, (r, G, r, G)."""
        own, pattern = slice(*self.symbolic.offsets[g : g + 2]), self.symbolic.pattern
        size, levels = pattern.sizes[g], pattern.n_levels[g]
        columns = np.zeros((self.symbolic.offsets[-1], size * levels), order="F")
        columns[own] = np.eye(size * levels)
        return self.rest.solve(columns)[own].reshape(size, levels, size, levels)

    @cached_property
    def _inverse(self) -> Blocks:
        symbolic, pattern = self.symbolic, self.symbolic.pattern
        order = symbolic.entries[0]
        inverse = self.rest.inverse()
        t, w = np.empty_like(self.data), np.empty_like(self.data)
        t[order] = symbolic.rows.at_entries(self.data, inverse)
        w[order] = self.data
        lead = cholesky.inverse(self.low)
        middle = np.zeros_like(lead)
        cross: dict[tuple[int, int], Cube] = {}
        start = 0
        for g in range(1, pattern.n_factors):
            pair = pattern.pairs[0, g]
            shape = (pattern.sizes[0], pattern.sizes[g], len(pair.left))
            stop = start + int(np.prod(shape))
            t_g, w_g = t[start:stop].reshape(shape), w[start:stop].reshape(shape)
            start = stop
            middle += sum_by(pair.left, np.einsum("iaP,jaP->ijP", t_g, w_g), pattern.n_levels[0])
            cross[0, g] = -cholesky.backward(self.low[..., pair.left], t_g)
        half = cholesky.backward(self.low, middle)
        lead = lead + cholesky.backward(self.low, half.swapaxes(0, 1))
        blocks = {at: inverse[place] for at, place in symbolic.places.items()}
        cross.update({(f, g): block for (f, g), block in blocks.items() if f != g})
        cross.update({(g, g): inverse[place] for g, place in symbolic.shared_places.items()})
        return Blocks([lead, *(blocks[g, g] for g in range(1, pattern.n_factors))], cross)
