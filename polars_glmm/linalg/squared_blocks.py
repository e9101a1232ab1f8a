"""Sums of squares of the blocks of Z'V⁻¹Z over all pairs of levels, without any matrix of rows by rows.

With A = Z'Z in blocks over levels and V = I + ZΨZ', Ψ one matrix per factor, B = Z'V⁻¹Z = (I + AΨ)⁻¹A. Wanted are, over
all pairs of levels a of factor f and b of factor g, whether they meet or not,

    squares[f, g][i, k, j, l] = Σ_ab B_fg^ab[i, k] B_fg^ab[j, l]          sums[f] = Σ_a B_ff^aa

which make every tr(V⁻¹∂V_iV⁻¹∂V_j). One factor has B block diagonal. Of several the leading one is eliminated: with
Δ = (I + A₁₁Ψ₁)⁻¹A₁₁ and C = (I + A₁₁Ψ₁)⁻¹A₁₂ by its levels, N = A₂₂ − A₂₁Ψ₁C over the other factors,
J = (I + Ψ₂N)⁻¹ and R = JΨ₂,

    B₂₂ = NJ        B₁₂ = CJ        B₁₁ = Δ − CRC'

so that ‖B₁₁‖² is Σ‖Δ‖² − 2 Σ_a ⟨Δ_a, (CRC')_aa⟩ + tr(R C'C R C'C): matrices over the other factors only, dense within
each set of levels that meet, directly or by others (nested factors: one set per coarsest level).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from polars_glmm.linalg.pattern import Blocks, Pattern
from polars_glmm.typing import Cube, IntVec, Mat

COPIES = 6
"""Dense matrices over the other factors that are held at once, besides one for each pair of effects of the lead."""


class BlockSquares(NamedTuple):
    """sums[f] (r_f, r_f) and squares[f, g] (r_f, r_g, r_f, r_g) for f ≤ g, as above."""

    sums: list[Mat]
    squares: dict[tuple[int, int], Mat]


def within_levels(a: Cube, psi: Mat) -> Cube:
    """B = (I + AΨ)⁻¹A of one factor, level by level: (r, r, G). Nothing is subtracted."""
    return solve_levels(a, psi, a)


def solve_levels(a: Cube, psi: Mat, right: Cube) -> Cube:
    """(I + AΨ)⁻¹ right, level by level: a (r, r, G), right (r, m, G)."""
    if len(a) == 1:
        return np.asarray(right / (1.0 + a * psi[:, :, None]))
    left = np.moveaxis(np.einsum("ijG,jk->ikG", a, psi), -1, 0) + np.eye(len(a))
    return np.ascontiguousarray(np.moveaxis(np.linalg.solve(left, np.moveaxis(right, -1, 0)), 0, -1))


def squared_blocks(pattern: Pattern, a: Blocks, psi: list[Mat], room: Callable[[int], None]) -> BlockSquares:
    """Sums and squares of B for A in blocks (r_f, r_g, ·) and Ψ_f (r_f, r_f).

    room   called with the number of dense entries before they are made; raises where they are too many
    """
    if pattern.n_factors == 1:
        b = within_levels(a.diagonal[0], psi[0])
        return BlockSquares([b.sum(-1)], {(0, 0): np.einsum("ikG,jlG->ikjl", b, b)})
    others = _Others.of(pattern)
    room(others.entries * (COPIES + pattern.sizes[0] ** 2))
    return _several(_Eliminated.of(pattern, a, psi, others), psi, others)


@dataclass(frozen=True, eq=False)
class _Others:
    """Effects of all factors but the lead, in sets whose levels meet.

    offsets   where the effects of each factor begin; effect i of level a of factor g is offsets[g] + i·G_g + a
    members   per kind of set, by how many levels of each factor it has: (sets, effects) of effects in rising order
    shapes    per kind, the levels of each factor
    """

    pattern: Pattern
    offsets: list[int]
    members: list[IntVec]
    shapes: list[tuple[int, ...]]
    width: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.offsets[-1])

    @property
    def entries(self) -> int:
        """Entries of all dense blocks."""
        return sum(places.shape[0] * places.shape[1] ** 2 for places in self.members)

    @classmethod
    def of(cls, pattern: Pattern) -> _Others:
        n, r = pattern.n_levels, pattern.sizes
        offsets = [0, 0]
        for g in range(1, pattern.n_factors):
            offsets.append(offsets[-1] + n[g] * r[g])
        component = _components(pattern)
        kinds: dict[tuple[int, ...], list[IntVec]] = {}
        starts = np.cumsum([0, *n[1:]])
        order = np.argsort(component, kind="stable")
        for levels in np.split(order, np.cumsum(np.bincount(component))[:-1]):
            own = [levels[(levels >= starts[g - 1]) & (levels < starts[g])] - starts[g - 1] for g in range(1, len(n))]
            effects = [
                offsets[g] + np.arange(r[g])[:, None] * n[g] + own[g - 1] for g in range(1, len(n)) if len(own[g - 1])
            ]
            shape = tuple(len(found) for found in own)
            kinds.setdefault(shape, []).append(np.concatenate([one.ravel() for one in effects]))
        return cls(pattern, offsets, [np.array(found, dtype=np.intp) for found in kinds.values()], list(kinds))

    def dense(self, matrix: sp.csr_matrix) -> Iterator[Cube]:
        """A matrix over the effects, zero between sets, as dense blocks (sets, effects, effects) per kind."""
        coo = matrix.tocoo()
        for places in self.members:
            which = np.full(self.width, -1, dtype=np.intp)
            local = np.zeros(self.width, dtype=np.intp)
            which[places] = np.arange(len(places))[:, None]
            local[places] = np.arange(places.shape[1])
            out = np.zeros((len(places), places.shape[1], places.shape[1]))
            own = which[coo.row] >= 0
            row, column = coo.row[own], coo.col[own]
            np.add.at(out, (which[row], local[row], local[column]), coo.data[own])
            yield out

    def slices(self, kind: int) -> list[slice]:
        """Where the effects of each factor but the lead stand in a set of a kind."""
        stops = np.cumsum([0, *(m * r for m, r in zip(self.shapes[kind], self.pattern.sizes[1:], strict=True))])
        return [slice(int(a), int(b)) for a, b in pairwise(stops)]


def _components(pattern: Pattern) -> IntVec:
    """The set of each level of the factors but the lead: levels meet in a row, or in a level of the lead."""
    n = pattern.n_levels
    starts = np.cumsum([0, *n[1:]])
    left = [np.empty(0, dtype=np.intp)]
    right = [np.empty(0, dtype=np.intp)]
    for (f, g), pair in pattern.pairs.items():
        if f == 0:  # a node for every level of the lead ties together those that meet it
            left.append(pair.left + starts[-1])
            right.append(pair.right + starts[g - 1])
        else:
            left.append(pair.left + starts[f - 1])
            right.append(pair.right + starts[g - 1])
    i, j = np.concatenate(left), np.concatenate(right)
    size = int(starts[-1]) + n[0]
    meets = sp.coo_matrix((np.ones(len(i), dtype=bool), (i, j)), shape=(size, size))
    found = connected_components(meets, directed=False)[1][: starts[-1]]
    return np.unique(found, return_inverse=True)[1].astype(np.intp)


class _Eliminated(NamedTuple):
    """What the lead leaves: Δ (r, r, G), rows C_i (G, m) for each of its effects, N (m, m)."""

    delta: Cube
    c: list[sp.csr_matrix]
    n: sp.csr_matrix

    @classmethod
    def of(cls, pattern: Pattern, a: Blocks, psi: list[Mat], others: _Others) -> _Eliminated:
        lead = a.diagonal[0]
        blocks = {g: a.cross[0, g] for g in range(1, pattern.n_factors)}
        solved = {g: solve_levels(lead[..., pattern.pairs[0, g].left], psi[0], block) for g, block in blocks.items()}
        plain, c = _rows(pattern, blocks, others), _rows(pattern, solved, others)
        n = _symmetric(pattern, a, others)
        for i, row in enumerate(plain):
            for j, column in enumerate(c):
                if psi[0][i, j] != 0.0:
                    n = n - psi[0][i, j] * (row.T @ column)
        return cls(solve_levels(lead, psi[0], lead), c, sp.csr_matrix(0.5 * (n + n.T)))


def _rows(pattern: Pattern, blocks: dict[int, Cube], others: _Others) -> list[sp.csr_matrix]:
    """Blocks between the lead and the other factors as one sparse matrix (G, m) for each effect of the lead."""
    out = []
    for i in range(pattern.sizes[0]):
        rows, columns, values = [], [], []
        for g, block in blocks.items():
            pair, size = pattern.pairs[0, g], pattern.sizes[g]
            rows.append(np.tile(pair.left, size))
            columns.append((others.offsets[g] + np.arange(size)[:, None] * pattern.n_levels[g] + pair.right).ravel())
            values.append(block[i].ravel())
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        out.append(sp.csr_matrix(entries, shape=(pattern.n_levels[0], others.width)))
    return out


def _symmetric(pattern: Pattern, a: Blocks, others: _Others) -> sp.csr_matrix:
    """A over the other factors."""
    rows, columns, values = [], [], []
    n = pattern.n_levels

    def add(g: int, h: int, left: IntVec, right: IntVec, block: Cube) -> None:
        i, j = np.arange(block.shape[0])[:, None, None], np.arange(block.shape[1])[None, :, None]
        row = np.broadcast_to(others.offsets[g] + i * n[g] + left, block.shape).ravel()
        column = np.broadcast_to(others.offsets[h] + j * n[h] + right, block.shape).ravel()
        rows.append(row)
        columns.append(column)
        values.append(block.ravel())
        if g != h:
            rows.append(column)
            columns.append(row)
            values.append(block.ravel())

    for g in range(1, pattern.n_factors):
        add(g, g, np.arange(n[g]), np.arange(n[g]), a.diagonal[g])
        for h in range(g + 1, pattern.n_factors):
            add(g, h, pattern.pairs[g, h].left, pattern.pairs[g, h].right, a.cross[g, h])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sp.csr_matrix(entries, shape=(others.width, others.width))


def _several(left: _Eliminated, psi: list[Mat], others: _Others) -> BlockSquares:
    """The sums of squares from what the lead leaves, kind by kind of set."""
    pattern = others.pattern
    r, count = pattern.sizes, pattern.n_factors
    squares = {(f, g): np.zeros((r[f], r[g], r[f], r[g])) for f in range(count) for g in range(f, count)}
    sums = [np.zeros((size, size)) for size in r]
    squares[0, 0] += np.einsum("ikG,jlG->ikjl", left.delta, left.delta)
    sums[0] += left.delta.sum(-1)
    lead = range(r[0])
    grams = {(i, j): sp.csr_matrix(left.c[i].T @ left.c[j]) for i in lead for j in lead}
    dense = zip(others.dense(left.n), *(others.dense(gram) for gram in grams.values()), strict=True)
    r_sparse = []
    for kind, (n, *own) in enumerate(dense):
        gram = dict(zip(grams, own, strict=True))
        spread = _diagonal(psi, others, kind)
        j = np.linalg.inv(np.eye(n.shape[-1]) + spread @ n)
        b, middle = n @ j, j @ spread
        r_sparse.append(middle)
        turned = {at: middle @ one for at, one in gram.items()}
        for i in lead:
            for k in lead:
                sums[0][i, k] -= float(np.vdot(middle, gram[i, k]))
                for p in lead:
                    for q in lead:  # tr(R G_kq R G_pi)
                        square = np.einsum("sab,sba->", turned[k, q], turned[p, i])
                        squares[0, 0][i, k, p, q] += float(square)
        slices = others.slices(kind)
        for g, own_g in enumerate(slices, 1):
            levels = others.shapes[kind][g - 1]
            if not levels:
                continue
            for (i, p), one in gram.items():
                half = one @ j[:, :, own_g]
                columns = j[:, :, own_g].reshape(*j.shape[:2], r[g], levels)
                found = np.einsum("saqc,sakc->kq", half.reshape(*half.shape[:2], r[g], levels), columns)
                squares[0, g][i, :, p, :] += found
            for h in range(g, count):
                if not others.shapes[kind][h - 1]:
                    continue
                block = b[:, own_g, slices[h - 1]].reshape(len(b), r[g], levels, r[h], others.shapes[kind][h - 1])
                squares[g, h] += np.einsum("siakb,sjalb->ikjl", block, block)
                if g == h:
                    sums[g] += np.einsum("siaka->ik", block)
    _subtract_mixed(squares[0, 0], left, others, r_sparse)
    return BlockSquares(sums, squares)


def _subtract_mixed(square: Mat, left: _Eliminated, others: _Others, middle: list[Cube]) -> None:
    """Take Σ_a Δ_a[i, k] (CRC')_aa[j, l] and its mirror image from the squares of the lead."""
    lead = range(len(left.c))
    for i in lead:
        for k in lead:
            weight = sp.diags(left.delta[i, k])
            for j in lead:
                for p in lead:
                    gram = sp.csr_matrix(left.c[j].T @ (weight @ left.c[p]))
                    found = sum(float(np.vdot(own, one)) for own, one in zip(middle, others.dense(gram), strict=True))
                    square[i, k, j, p] -= found
                    square[j, p, i, k] -= found


def _diagonal(psi: list[Mat], others: _Others, kind: int) -> Mat:
    """Ψ₂ of one set of a kind, dense."""
    own = others.slices(kind)
    out = np.zeros((own[-1].stop, own[-1].stop))
    for g, place in enumerate(own, 1):
        out[place, place] = np.kron(psi[g], np.eye(others.shapes[kind][g - 1]))
    return out
