"""Parameters on the way from a search to a report: factors of any rank, and the directions that keep their ranks.

A covariance matrix on the boundary of its cone (a zero variance, a correlation of ±1) is an answer, not a failure; but
derivatives across the boundary mean nothing. So Λ is replaced by a factor F of Σ of full column rank, rotated so that
rows in pivoted order are lower trapezoidal, and only its free entries are differentiated: r·k − k(k−1)/2 of them, the
dimension of the rank-k matrices (Vandereycken, Absil & Vandewalle 2009). An effect without variance is a row of zeros,
a point of that set like any other: its entries are free too, because a covariance may turn it either way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.linalg as sl

from polars_glmm.covariance.structures import STRUCTURES, canonical_factor
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap, TermMap
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

NO_VARIANCE = 1e-12
"""Share of what an effect could show that counts as a variance of zero."""


Tolerances: TypeAlias = "list[float | Vec]"
"""Per term, or for a "diag" term per standard deviation."""


class FreeEntries(NamedTuple):
    """Free entries of one factor's F (r_f, r_f): rows and columns."""

    rows: IntVec
    columns: IntVec


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """beta in the computing basis; factors F_f (r_f, r_f) with zero columns beyond their rank; free entries.

    The vector of a state is [beta, free entries of F_1, F_2, …].
    """

    beta: Vec
    factors: tuple[Mat, ...]
    free: tuple[FreeEntries, ...]

    def vector(self) -> Vec:
        return np.concatenate(
            [self.beta, *(f[e.rows, e.columns] for f, e in zip(self.factors, self.free, strict=True))]
        )

    def moved(self, x: Vec) -> State:
        """The state at another vector."""
        p = len(self.beta)
        at, factors = p, []
        for f, e in zip(self.factors, self.free, strict=True):
            new = f.copy()
            new[e.rows, e.columns] = x[at : at + len(e.rows)]
            at += len(e.rows)
            factors.append(new)
        return replace(self, beta=x[:p], factors=tuple(factors))

    def pull(self, beta: Vec, factors: list[Mat]) -> Vec:
        """Gradient in the vector, from gradients in beta and F_f."""
        return np.concatenate([beta, *(g[e.rows, e.columns] for g, e in zip(factors, self.free, strict=True))])

    def held(self, effects: Effects, beta: BoolVec, theta: BoolVec) -> BoolVec:
        """Marks on the state's vector from marks on beta and θ; only diagonal entries of Λ can be held."""
        marks = [beta]
        for f, e in zip(effects.factors, self.free, strict=True):
            mark = np.zeros((f.r, f.r), dtype=bool)
            for t in f.terms:
                rows, columns = STRUCTURES[t.structure].entries(t.r)
                mark[t.start + rows, t.start + columns] = theta[t.theta]
            marks.append(mark[e.rows, e.columns])
        return np.concatenate(marks)

    def theta(self, effects: Effects) -> Vec:
        """θ of the same covariances, by Cholesky factors."""
        out = np.zeros(effects.n_theta)
        for f, factor in zip(effects.factors, self.factors, strict=True):
            for t in f.terms:
                block = factor[t.start : t.stop, t.start : t.stop]
                triangular = np.asarray(np.linalg.qr(block.T, mode="r")).T
                out[t.theta] = triangular[STRUCTURES[t.structure].entries(t.r)]
        return out

    def factor_slice(self, f: int) -> slice:
        start = len(self.beta) + sum(len(e.rows) for e in self.free[:f])
        return slice(start, start + len(self.free[f].rows))


class Rank(NamedTuple):
    """Rank of one term's Σ."""

    factor: int
    term: int
    rank: int


def settle(effects: Effects, beta: Vec, lambdas: list[Mat], tolerances: Tolerances) -> tuple[State, list[Rank]]:
    """The state of given factors, eigenvalues of each term's scaled Σ up to its tolerance set to zero.

    Below zero a tolerance leaves a term as it is, of a "diag" term single standard deviations.
    """
    factors, free, ranks = [], [], []
    position = 0
    for number, (f, lam) in enumerate(zip(effects.factors, lambdas, strict=True)):
        full = np.zeros_like(lam)
        rows: list[IntVec] = []
        columns: list[IntVec] = []
        for t_number, t in enumerate(f.terms):
            block, entries, rank = settle_term(t, lam[t.start : t.stop, t.start : t.stop], tolerances[position])
            position += 1
            full[t.start : t.stop, t.start : t.stop] = block
            rows.append(entries.rows + t.start)
            columns.append(entries.columns + t.start)
            ranks.append(Rank(number, t_number, rank))
        factors.append(full)
        free.append(FreeEntries(np.concatenate(rows), np.concatenate(columns)))
    return State(beta, tuple(factors), tuple(free)), ranks


def settle_term(t: TermMap, lam: Mat, tolerance: float | Vec) -> tuple[Mat, FreeEntries, int]:
    """F (r, r) of one term's Λ, its free entries, and its rank."""
    r = t.r
    if not STRUCTURES[t.structure].correlated:
        diag = np.abs(np.diag(lam)).copy()
        diag[diag**2 <= tolerance] = 0.0
        keep = np.flatnonzero(diag)
        return np.diag(diag), FreeEntries(keep, keep), len(keep)
    if np.any(tolerance < 0.0):
        return lam, FreeEntries(*STRUCTURES[t.structure].entries(r)), r
    sigma = lam @ lam.T
    factor, rank = canonical_factor(sigma, float(tolerance))
    full = np.zeros((r, r))
    if rank == 0:
        return full, FreeEntries(np.empty(0, np.intp), np.empty(0, np.intp)), 0
    order = np.arange(r) if rank == r else sl.qr(factor.T, pivoting=True, mode="r")[1]
    rotation = np.linalg.qr(factor[order].T)[0]
    factor = factor @ rotation
    lead = order[:rank]
    signs = np.sign(factor[lead, np.arange(rank)])
    factor = factor * np.where(signs == 0, 1.0, signs)
    rows, columns = [], []
    for place, i in enumerate(order):
        for j in range(rank):
            if j <= place:
                rows.append(i)
                columns.append(j)
            else:
                factor[i, j] = 0.0
    full[:, :rank] = factor
    return full, FreeEntries(np.array(rows, np.intp), np.array(columns, np.intp)), rank


def scaled_sigma(lam: Mat, t: TermMap) -> Mat:
    """Σ of a term in units of the linear predictor."""
    block = lam[t.start : t.stop, t.start : t.stop]
    return block @ block.T


def natural_sigma(f: FactorMap, t: TermMap, factor: Mat) -> Mat:
    """Σ of a term on the scale of its columns; a variance that is rounding error is zero."""
    own = slice(t.start, t.stop)
    return natural_sigmas(f.outward[own, own], factor[own, own])


def natural_sigmas(outward: Mat | Cube, block: Mat | Cube) -> Mat:
    """Σ (…, r, r) of b = outward · F u; its effects whose variance is rounding error of what they could show: zero."""
    half = outward @ block
    sigma: Mat = np.asarray(half @ half.swapaxes(-1, -2), dtype=np.float64)
    most = (np.abs(outward) @ np.sqrt((block**2).sum(-1))[..., None])[..., 0] ** 2
    lives = np.einsum("...ii->...i", sigma) > NO_VARIANCE * most
    return np.asarray(np.where(lives[..., :, None] & lives[..., None, :], sigma, 0.0))
