"""Rows in several levels of one factor: what a row takes of each level as a sparse matrix, and which levels meet in it.

A row of levels c_1 … c_m with weights w_1 … w_m has η = … + Σ_s w_s z'b[c_s] (multiple membership; Hill & Goldstein
1998; Browne, Goldstein & Rasbash 2001). Rows that take the same of the same levels are one *set*.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from polars_glmm.typing import CodeVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, eq=False)
class Membership:
    """Sets (or cells, or rows) of levels: shares (S, G), what each has of every level, no entry stored twice."""

    shares: sp.csr_array

    @classmethod
    def of_slots(cls, codes: IntVec, weights: Mat, n_levels: int) -> Membership:
        """From m slots of n rows: levels (m, n), anything where the weight is 0, and weights (m, n).

        Weights of slots that hold the same level are added.
        """
        m, n = codes.shape
        there = weights.T.reshape(-1) != 0.0
        rows = np.repeat(np.arange(n), m)[there]
        made = sp.coo_array((weights.T.reshape(-1)[there], (rows, codes.T.reshape(-1)[there])), shape=(n, n_levels))
        return cls(_plain(made.tocsr()))

    @property
    def n_sets(self) -> int:
        return int(self.shares.shape[0])

    @property
    def n_levels(self) -> int:
        return int(self.shares.shape[1])

    @property
    def single(self) -> bool:
        """Whether no set has more than one level, so that nothing couples levels."""
        return bool((np.diff(self.shares.indptr) <= 1).all())

    def at(self, places: IntVec | CodeVec) -> Membership:
        """The sets at some places, in that order."""
        return Membership(_plain(self.shares[places]))

    def met(self) -> Membership:
        """The same with the levels alone that some set has, in their order."""
        return Membership(_plain(self.shares[:, np.unique(self.shares.indices)]))

    def distinct(self) -> tuple[Membership, IntVec]:
        """The sets that differ, and which of them each one is (S,)."""
        shares = self.shares
        keys: dict[bytes, int] = {}
        codes, first = np.empty(self.n_sets, dtype=np.intp), list[int]()
        for s, (a, z) in enumerate(zip(shares.indptr[:-1], shares.indptr[1:], strict=True)):
            key = shares.indices[a:z].tobytes() + shares.data[a:z].tobytes()
            if (found := keys.setdefault(key, len(keys))) == len(first):
                first.append(s)
            codes[s] = found
        return self.at(np.array(first, dtype=np.intp)), codes

    @cached_property
    def squared(self) -> Membership:
        """The same with the squares of all shares."""
        return Membership(sp.csr_array(self.shares.power(2)))

    @property
    def sizes(self) -> Vec:
        """Sums of the squares of every set, (S,): its variance, were that of a level one."""
        return np.asarray(self.squared.shares.sum(axis=1), dtype=np.float64).reshape(-1)

    def sums(self, values: Cube) -> Cube:
        """Σ over sets of shares times values (…, S): (…, G)."""
        return _times(values, self.shares)

    def spread(self, values: Cube) -> Cube:
        """Σ over levels of shares times values (…, G): (…, S)."""
        return _times(values, self.shares.T)

    def counts(self, values: Vec) -> Vec:
        """Sums of values (S,) of the sets that every level is in, (G,)."""
        there = sp.csr_array((np.ones(self.shares.nnz), self.shares.indices, self.shares.indptr), self.shares.shape)
        return np.asarray(there.T @ values, dtype=np.float64)


class MeetingLevels(NamedTuple):
    """Pairs of levels that share a set, sorted by (left, right), each (P,); shares (S, P): products of their shares."""

    left: IntVec
    right: IntVec
    shares: Membership


def meetings(a: Membership, b: Membership, *, own: bool) -> MeetingLevels:
    """Which levels of two factors meet in the same cells; `own`: a is b, and of the pairs those with left < right."""
    x, y = a.shares, b.shares
    row_of = np.repeat(np.arange(a.n_sets), np.diff(x.indptr))
    repeats = np.diff(y.indptr)[row_of]
    i = np.repeat(np.arange(x.nnz), repeats)
    k = y.indptr[row_of[i]] + np.arange(len(i)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    if own:
        kept = x.indices[i] < y.indices[k]
        i, k = i[kept], k[kept]
    keys, of_pair = np.unique(x.indices[i].astype(np.int64) * b.n_levels + y.indices[k], return_inverse=True)
    left, right = np.divmod(keys, b.n_levels)
    shares = sp.coo_array((x.data[i] * y.data[k], (row_of[i], of_pair.reshape(-1))), shape=(a.n_sets, len(keys)))
    return MeetingLevels(left, right, Membership(_plain(shares.tocsr())))


def level_sums(codes: IntVec | CodeVec, sets: Membership | None, values: Vec | None, n_levels: int) -> Vec:
    """Sums of values of rows (n,), None for ones, over levels by what each row has of them: (G,).

    codes   of levels, or of sets where there are some
    """
    if sets is None:
        return np.bincount(codes, values, n_levels).astype(np.float64, copy=False)
    return sets.sums(np.bincount(codes, values, sets.n_sets).astype(np.float64, copy=False))


def whole(codes: IntVec | CodeVec, n_levels: int) -> Membership:
    """Cells that are each in one level, and wholly."""
    n = len(codes)
    return Membership(sp.csr_array((np.ones(n), codes, np.arange(n + 1)), shape=(n, n_levels)))


def _plain(shares: sp.csr_array) -> sp.csr_array:
    shares = sp.csr_array(shares)
    shares.sum_duplicates()
    shares.eliminate_zeros()
    return shares


def _times(values: Cube, matrix: sp.csr_array | sp.csc_array) -> Cube:
    """values (…, n) times a sparse matrix (n, k)."""
    flat = np.asarray(values).reshape(-1, matrix.shape[0])
    return np.ascontiguousarray((matrix.T @ flat.T).T).reshape(*np.shape(values)[:-1], matrix.shape[1])
