"""What is left after the leading factor: a symmetric matrix S, and how it is kept where it is dense."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol
from weakref import finalize

import numpy as np
from scipy.linalg import lapack

from polars_glmm.linalg.threads import all_blas_threads
from polars_glmm.typing import IntVec, Mat, Vec

COSTLY = 150  # order of a dense block from which a factorisation costs far more than a solution
CUBE_NS, CALL_NS = 0.033, 30_000.0  # measured: n³ of a factorisation with its inverse, and the calls of a block


class FactorisedRemainder(Protocol):
    """A factorised S."""

    @property
    def log_determinant(self) -> float: ...

    def solve(self, b: Mat) -> Mat:
        """S⁻¹b, b (m, k)."""

    def inverse(self) -> Vec:
        """S⁻¹ at the places of S; valid until the next one is asked for."""


class Remainder(Protocol):
    """Where the entries of S stand in one vector; its upper triangle is enough.

    width          m, the order of S
    size           of the vector
    order          of the largest dense block that is factorised
    dense_entries  of all such blocks
    """

    @property
    def width(self) -> int: ...

    @property
    def order(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def dense_entries(self) -> int: ...

    @property
    def costly(self) -> bool: ...

    def place(self, row: IntVec, column: IntVec) -> IntVec:
        """Where entry (row, column) stands, row ≤ column."""

    def room(self) -> Vec:
        """Room for S, not cleared."""

    def factorise(self, s: Vec) -> FactorisedRemainder | None:
        """The factorised S, or None where it is not positive definite; what `room` gave is used up."""


@dataclass(frozen=True, eq=False)
class BlockRemainder:
    """S block diagonal: the unknowns of one component (component (m,), from 0) make a dense block.

    Blocks follow one another, each by rows; LAPACK sees their transposes. Room is used again from one factorisation to
    the next: fresh memory can cost more than the arithmetic.
    """

    component: IntVec
    _spare: list[Vec] = field(init=False, default_factory=list)

    @property
    def width(self) -> int:
        return len(self.component)

    @cached_property
    def blocks(self) -> list[IntVec]:
        """The unknowns of each block, rising."""
        counts = np.bincount(self.component)
        return np.split(np.argsort(self.component, kind="stable"), np.cumsum(counts)[:-1]) if self.width else []

    @cached_property
    def sizes(self) -> list[int]:
        """The order of each block."""
        return [len(block) for block in self.blocks]

    @cached_property
    def starts(self) -> list[int]:
        """Where each block begins, and where the last one ends."""
        return [0, *itertools.accumulate(n**2 for n in self.sizes)]

    @property
    def size(self) -> int:
        return self.starts[-1]

    @property
    def order(self) -> int:
        return max(self.sizes, default=0)

    @property
    def dense_entries(self) -> int:
        return self.size

    @property
    def costly(self) -> bool:
        return self.order > COSTLY

    @property
    def nanoseconds(self) -> float:
        """What a factorisation with its inverse costs, about."""
        return sum(CUBE_NS * n**3 + CALL_NS for n in self.sizes)

    @cached_property
    def local(self) -> IntVec:
        """The number of each unknown in its block."""
        out = np.empty(self.width, dtype=np.intp)
        for block in self.blocks:
            out[block] = np.arange(len(block))
        return out

    @cached_property
    def row_start(self) -> IntVec:
        """Where the row of each unknown begins."""
        out = np.empty(self.width, dtype=np.intp)
        for block, start in zip(self.blocks, self.starts[:-1], strict=True):
            out[block] = start + np.arange(len(block)) * len(block)
        return out

    def place(self, row: IntVec, column: IntVec) -> IntVec:
        return self.row_start[row] + self.local[column]

    def room(self) -> Vec:
        return self._spare.pop() if self._spare else np.empty(self.size)

    @cached_property
    def inverse_room(self) -> Vec:
        """Room for S⁻¹, one at a time."""
        return np.empty(self.size)

    def views(self, s: Vec) -> list[Mat]:
        """The blocks of `s`, each transposed, so that LAPACK works on them where they are."""
        return [s[a : a + n**2].reshape(n, n).T for a, n in zip(self.starts[:-1], self.sizes, strict=True)]

    def factorise(self, s: Vec) -> BlockFactor | None:
        lows, log_det = [], 0.0
        for view in self.views(s):
            with all_blas_threads(len(view)):
                low, failed = lapack.dpotrf(view, lower=1, overwrite_a=1, clean=0)
            if failed:
                self._spare.append(s)
                return None
            lows.append(low)
            log_det += 2.0 * float(np.log(np.diag(low)).sum())
        done = BlockFactor(self, lows, log_det)
        finalize(done, self._spare.append, s).atexit = False
        return done


@dataclass(frozen=True, eq=False)
class BlockFactor:
    """S = LL' block by block, L in the lower triangles of `lows`."""

    remainder: BlockRemainder
    lows: list[Mat]
    log_determinant: float

    def solve(self, b: Mat) -> Mat:
        x = np.empty_like(b)
        for block, low in zip(self.remainder.blocks, self.lows, strict=True):
            x[block] = lapack.dpotrs(low, b[block], lower=1)[0]
        return x

    def inverse(self) -> Vec:
        room = self.remainder.inverse_room
        for view, low in zip(self.remainder.views(room), self.lows, strict=True):
            view[:] = low
            with all_blas_threads(len(low)):
                lapack.dpotri(view, lower=1, overwrite_c=1)
        return room
