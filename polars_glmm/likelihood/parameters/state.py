"""Parameters on the way from a search to a report: factors of any rank, and the directions that keep their ranks.

A covariance matrix on the boundary of its cone (a zero variance, a correlation of ±1) is an answer, not a failure; but
derivatives across the boundary mean nothing. So Λ is replaced by a factor F of Σ of full column rank, rotated so that
rows in pivoted order are lower trapezoidal, and only its free entries are differentiated: r·k − k(k−1)/2 of them, the
dimension of the rank-k matrices (Vandereycken, Absil & Vandewalle 2009). An effect without variance is a row of zeros,
a point of that set like any other: its entries are free too, because a covariance may turn it either way. Of a
structure that bends the parameters themselves are free, but for those at a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.linalg as sl

from polars_glmm.covariance.factors import canonical_factor
from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES, units
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap, TermMap
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

NO_VARIANCE = 1e-12
"""Share of what an effect could show that counts as a variance of zero."""


_SHARE = 1e-10
"""Singular value of F, as a share of the largest standard deviation, that counts as zero."""


Tolerances: TypeAlias = "list[float | Vec]"
"""Per term, or for a "diag" term per standard deviation."""


class BentTerm(NamedTuple):
    """A term whose F bends in its parameters, rows start..stop of its factor: θ of it, and marks of what is free."""

    start: int
    stop: int
    structure: str
    theta: Vec
    free: BoolVec

    @property
    def scaled(self) -> Scaled:
        """Its structure."""
        found = STRUCTURES[self.structure]
        assert isinstance(found, Scaled)  # no other bends
        return found

    @property
    def own(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def block(self) -> Mat:
        """F (r, r) of the term."""
        return self.scaled.factor(self.theta, self.stop - self.start)

    @property
    def tangents(self) -> Cube:
        """∂F/∂(free parameters) (k, r, r)."""
        return self.scaled.tangent(self.theta, self.stop - self.start)[self.free]


class FreeEntries(NamedTuple):
    """What of one factor's F (r_f, r_f) is free: entries by rows and columns, and behind them parameters of curves."""

    rows: IntVec
    columns: IntVec
    curves: tuple[BentTerm, ...] = ()

    @property
    def size(self) -> int:
        """Number of free parameters."""
        return len(self.rows) + sum(int(c.free.sum()) for c in self.curves)

    @property
    def owners(self) -> IntVec:
        """The effect that each parameter belongs to, of an angle the first of its term."""
        parts = [self.rows]
        for c in self.curves:
            own = np.where(c.scaled.angles(c.stop - c.start), 0, np.arange(len(c.theta)))
            parts.append((c.start + own)[c.free])
        return np.concatenate(parts)

    def vector(self, factor: Mat) -> Vec:
        """The free parameters at F."""
        entries = factor[self.rows, self.columns]
        return np.concatenate([entries, *(c.theta[c.free] for c in self.curves)]) if self.curves else entries

    def put(self, factor: Mat, x: Vec) -> tuple[Mat, FreeEntries]:
        """F at other values of the free parameters, and what is free there."""
        new, at = factor.copy(), len(self.rows)
        new[self.rows, self.columns] = x[:at]
        curves = []
        for c in self.curves:
            theta = c.theta.copy()
            theta[c.free] = x[at : at + int(c.free.sum())]
            at += int(c.free.sum())
            moved = c._replace(theta=theta)
            new[c.own, c.own] = moved.block
            curves.append(moved)
        return new, self._replace(curves=tuple(curves)) if curves else self

    def pull(self, values: Cube | Mat) -> Mat:
        """Derivatives (k, …) in the free parameters from those in the entries of F (r_f, r_f, …)."""
        entries = np.asarray(values[self.rows, self.columns])
        if not self.curves:
            return entries
        bent = [np.tensordot(c.tangents, values[c.own, c.own], 2) for c in self.curves]
        return np.concatenate([entries, *bent])

    def changes(self, r: int) -> Cube:
        """∂F/∂(free parameters) (k, r, r)."""
        out = [units(self.rows, self.columns, r)]
        for c in self.curves:
            own = np.zeros((int(c.free.sum()), r, r))
            own[:, c.own, c.own] = c.tangents
            out.append(own)
        return np.concatenate(out) if self.curves else out[0]

    def sizes(self, of_rows: Vec) -> Vec:
        """The scale of each parameter: of an entry, or of a standard deviation, that of its row; of an angle 1."""
        entries = of_rows[self.rows]
        if not self.curves:
            return np.asarray(entries)
        bent = []
        for c in self.curves:
            k = c.scaled.scales(c.stop - c.start)
            own = of_rows[c.own]
            scales = np.array([own.max()]) if c.scaled.equal else c.scaled.roots(own)
            bent.append(np.append(scales, np.ones(len(c.theta) - k))[c.free])
        return np.concatenate([entries, *bent])


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """beta in the computing basis; factors F_f (r_f, r_f) with zero columns beyond their rank; free entries.

    The vector of a state is [beta, free entries of F_1, F_2, …].
    """

    beta: Vec
    factors: tuple[Mat, ...]
    free: tuple[FreeEntries, ...]

    def vector(self) -> Vec:
        return np.concatenate([self.beta, *(e.vector(f) for f, e in zip(self.factors, self.free, strict=True))])

    @property
    def n_free(self) -> int:
        """Parameters of the factors."""
        return sum(e.size for e in self.free)

    def moved(self, x: Vec) -> State:
        """The state at another vector."""
        p = len(self.beta)
        at, factors, free = p, [], []
        for f, e in zip(self.factors, self.free, strict=True):
            size = e.size
            new, there = e.put(f, x[at : at + size])
            at += size
            factors.append(new)
            free.append(there)
        return replace(self, beta=x[:p], factors=tuple(factors), free=tuple(free))

    def directions(self, keep: BoolVec) -> Iterator[tuple[Vec, list[Mat]]]:
        """How beta and F_f move with each entry of the vector that is to be kept."""
        p, still = len(self.beta), [np.zeros_like(f) for f in self.factors]
        for e in np.eye(p)[keep[:p]]:
            yield e, still
        at = p
        for number, (f, free) in enumerate(zip(self.factors, self.free, strict=True)):
            for change in free.changes(len(f))[keep[at : at + free.size]]:
                yield np.zeros(p), [*still[:number], change, *still[number + 1 :]]
            at += free.size

    def pull(self, beta: Vec, factors: list[Mat]) -> Vec:
        """Gradient in the vector, from gradients in beta and F_f."""
        return np.concatenate([beta, *(e.pull(g) for g, e in zip(factors, self.free, strict=True))])

    def held(self, effects: Effects, beta: BoolVec, theta: BoolVec) -> BoolVec:
        """Marks on the state's vector from marks on beta and θ; only diagonal entries of Λ can be held."""
        marks = [beta]
        for f, e in zip(effects.factors, self.free, strict=True):
            mark = np.zeros((f.r, f.r), dtype=bool)
            for t in f.terms:
                if not STRUCTURES[t.structure].bends:
                    rows, columns = STRUCTURES[t.structure].entries(t.r)
                    mark[t.start + rows, t.start + columns] = theta[t.theta]
            marks.append(mark[e.rows, e.columns])
            bent = [t for t in f.terms if STRUCTURES[t.structure].bends]
            marks += [theta[t.theta][c.free] for t, c in zip(bent, e.curves, strict=True)]
        return np.concatenate(marks)

    def theta(self, effects: Effects) -> Vec:
        """θ of the same covariances, by Cholesky factors."""
        out = np.zeros(effects.n_theta)
        for f, factor, e in zip(effects.factors, self.factors, self.free, strict=True):
            bent = {c.start: c.theta for c in e.curves}
            for t in f.terms:
                if t.start in bent:
                    out[t.theta] = bent[t.start]
                    continue
                block = factor[t.start : t.stop, t.start : t.stop]
                triangular = np.asarray(np.linalg.qr(block.T, mode="r")).T
                out[t.theta] = triangular[STRUCTURES[t.structure].entries(t.r)]
        return out

    def factor_slice(self, f: int) -> slice:
        start = len(self.beta) + sum(e.size for e in self.free[:f])
        return slice(start, start + self.free[f].size)


class Rank(NamedTuple):
    """Rank of one term's Σ."""

    factor: int
    term: int
    rank: int


def lost_rank(effects: Effects, rank: Rank) -> bool:
    """Whether a term's Σ is on the boundary of its structure."""
    t = effects.factors[rank.factor].terms[rank.term]
    return rank.rank < STRUCTURES[t.structure].rank(t.r)


def settle(effects: Effects, beta: Vec, theta: Vec, tolerances: Tolerances) -> tuple[State, list[Rank]]:
    """The state of given parameters, eigenvalues of each term's scaled Σ up to its tolerance set to zero.

    Below zero a tolerance leaves a term as it is, of a "diag" term single standard deviations.
    """
    factors, free, ranks = [], [], []
    position = 0
    for number, (f, lam) in enumerate(zip(effects.factors, effects.lambdas(theta), strict=True)):
        full = np.zeros_like(lam)
        rows: list[IntVec] = [np.empty(0, np.intp)]
        columns: list[IntVec] = [np.empty(0, np.intp)]
        curves: list[BentTerm] = []
        for t_number, t in enumerate(f.terms):
            own = lam[t.start : t.stop, t.start : t.stop]
            if STRUCTURES[t.structure].bends:
                curve, rank = settle_curve(t, theta[t.theta], tolerances[position])
                position += 1
                full[curve.own, curve.own] = curve.block
                curves.append(curve)
                ranks.append(Rank(number, t_number, rank))
                continue
            block, entries, rank = settle_term(t, own, tolerances[position])
            position += 1
            full[t.start : t.stop, t.start : t.stop] = block
            rows.append(entries.rows + t.start)
            columns.append(entries.columns + t.start)
            ranks.append(Rank(number, t_number, rank))
        factors.append(full)
        free.append(FreeEntries(np.concatenate(rows), np.concatenate(columns), tuple(curves)))
    return State(beta, tuple(factors), tuple(free)), ranks


def settle_curve(t: TermMap, theta: Vec, tolerance: float | Vec) -> tuple[BentTerm, int]:
    """A term that bends with what is at its limits held there, and the rank of its Σ.

    From its θ: a Σ near its limits does not give all of it back.
    """
    structure = STRUCTURES[t.structure]
    assert isinstance(structure, Scaled)  # no other bends
    theta, held = structure.settled(theta, t.r, tolerance)
    curve = BentTerm(t.start, t.stop, t.structure, theta, ~held)
    largest = float(structure.sds(theta[: structure.scales(t.r)]).max())
    rank = int(np.linalg.matrix_rank(curve.block, tol=_SHARE * largest))
    return curve, t.r if not held.any() else rank


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
