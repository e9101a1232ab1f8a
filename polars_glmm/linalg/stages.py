"""A sparse S eliminated in stages: in each, many unknowns that do not meet one another go at once.

The unknowns of a stage are an independent set of low degree in the graph of S, so that a stage is a handful of array
operations; what each leaves behind connects its neighbours (Rose 1970, the elimination game; the choice is that of
multiple minimum degree, Liu 1985). The stages end where fill makes them dearer than dense algebra: what is left of
each connected component is factorised by LAPACK. The selected inverse comes back stage by stage (Takahashi, Fagan &
Chin 1973): every entry of the inverse that a stage needs lies on the pattern, fill included, of the stages after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from polars_glmm.linalg.pattern import distinct
from polars_glmm.linalg.remainder import CALL_NS, CUBE_NS, BlockFactor, BlockRemainder
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

_SLACK, _MEAN = 8, 0.75
"""Degree that is eliminated at any time; above, only up to twice the least or this part of the mean degree."""
PAIR_NS, _STAGE_NS = 60.0, 300_000.0
"""Measured: a pair carried through a stage with its share of the analysis, and the calls of a stage."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Unknowns 0..n-1 and the pairs (left < right) that meet, sorted by left·n + right."""

    n: int
    left: IntVec
    right: IntVec

    @property
    def degree(self) -> IntVec:
        """How many others each unknown meets."""
        return np.bincount(self.left, minlength=self.n) + np.bincount(self.right, minlength=self.n)

    @property
    def components(self) -> IntVec:
        """The connected component of each unknown, from 0."""
        meets = sp.coo_matrix((np.ones(len(self.left), dtype=bool), (self.left, self.right)), shape=(self.n, self.n))
        return connected_components(meets, directed=False)[1].astype(np.intp)


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """Which unknowns go, and where the numbers of the others stand afterwards.

    pivots, others   unknowns of this stage that go, and that stay (and become 0, 1, … of the next)
    spokes           pairs of a pivot and one that stays, sorted by pivot: places among this stage's pairs
    hub, rim         of each spoke: its pivot (0..), and the one that stays, as numbered in the next stage
    a, b, joins      pairs of spokes b < a of one pivot, and the pair of the next stage that their ends are
    kept, to         pairs between others: places among this stage's pairs, and among the next's
    after            number of pairs of the next stage
    """

    pivots: IntVec
    others: IntVec
    spokes: IntVec
    hub: IntVec
    rim: IntVec
    a: IntVec
    b: IntVec
    joins: IntVec
    kept: IntVec
    to: IntVec
    after: int


def next_stage(graph: Graph, goes: BoolVec) -> tuple[Stage, Graph]:
    """The stage in which these unknowns go, no two of which meet, and the graph without them."""
    pivots, others = np.flatnonzero(goes), np.flatnonzero(~goes)
    number = np.empty(graph.n, dtype=np.intp)
    number[pivots], number[others] = np.arange(len(pivots)), np.arange(len(others))
    left_goes, right_goes = goes[graph.left], goes[graph.right]
    spokes = np.flatnonzero(left_goes | right_goes)
    hub = number[np.where(left_goes, graph.left, graph.right)[spokes]]
    rim = number[np.where(left_goes, graph.right, graph.left)[spokes]]
    order = np.lexsort((rim, hub))
    spokes, hub, rim = spokes[order], hub[order], rim[order]
    a, b = _pairs_within(np.bincount(hub, minlength=len(pivots)))
    n = len(others)
    kept = np.flatnonzero(~(left_goes | right_goes))
    key_kept = number[graph.left[kept]] * n + number[graph.right[kept]]
    key_joined = rim[b] * n + rim[a]
    keys = distinct(np.concatenate([key_kept, key_joined]))
    joins, to = np.searchsorted(keys, key_joined), np.searchsorted(keys, key_kept)
    left, right = np.divmod(keys, max(n, 1))
    return Stage(pivots, others, spokes, hub, rim, a, b, joins, kept, to, len(keys)), Graph(n, left, right)


def plan(graph: Graph) -> tuple[list[Stage], Graph, IntVec]:
    """The stages, what they leave, and the components of that.

    Elimination never parts a component, so each is left alone from where its stages would cost more than they save.
    """
    component = graph.components
    active = np.ones(int(component.max(initial=-1)) + 1, dtype=bool)
    stages: list[Stage] = []
    while True:
        goes = _independent(graph, component, active)
        saved = _saved(graph, goes, component, len(active))
        active &= saved > 0.0
        if saved[active].sum() <= _STAGE_NS:
            return stages, graph, component
        goes &= active[component]
        stage, graph = next_stage(graph, goes)
        component = component[stage.others]
        stages.append(stage)


def _independent(graph: Graph, component: IntVec, active: BoolVec) -> BoolVec:
    """Unknowns of low degree that come before all whom they meet, by degree and then by a fixed shuffle."""
    degree, n = graph.degree, len(active)
    rank = np.empty(graph.n, dtype=np.intp)
    rank[np.lexsort((np.random.default_rng(0).permutation(graph.n), degree))] = np.arange(graph.n)
    least = np.full(n, graph.n)
    np.minimum.at(least, component, degree)
    mean = np.bincount(component, degree, n) / np.maximum(np.bincount(component, minlength=n), 1)
    goes = active[component] & (degree <= np.maximum(np.maximum(_SLACK, 2 * least), _MEAN * mean)[component])
    eager = np.where(goes, rank, graph.n)
    goes[np.where(eager[graph.left] < eager[graph.right], graph.right, graph.left)] = False
    return np.asarray(goes)


def _saved(graph: Graph, goes: BoolVec, component: IntVec, n: int) -> Vec:
    """Nanoseconds that a stage saves in each component, beside dense algebra on it."""
    degree = graph.degree[goes]
    size = np.maximum(np.bincount(component, minlength=n), 1).astype(float)
    gone = np.bincount(component[goes], minlength=n)
    carried = np.bincount(component[graph.left], minlength=n)
    carried = carried + np.bincount(component[goes], degree * (degree - 1) / 2, minlength=n)
    return np.asarray(gone * (3.0 * CUBE_NS * size**2 + CALL_NS / size) - PAIR_NS * carried)


def _pairs_within(counts: IntVec) -> tuple[IntVec, IntVec]:
    """All pairs b < a of items of one run, for runs of these lengths."""
    earlier = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    a = np.repeat(np.arange(len(earlier)), earlier)
    b = (
        np.arange(len(a))
        - np.repeat(np.cumsum(earlier) - earlier, earlier)
        + np.repeat(np.arange(len(earlier)) - earlier, earlier)
    )
    return a, b


@dataclass(frozen=True, eq=False)
class StagedRemainder:
    """S on a sparse pattern: its diagonal, then its pairs (row < column) sorted by row·m + column."""

    graph: Graph

    @property
    def width(self) -> int:
        return self.graph.n

    @property
    def size(self) -> int:
        return self.graph.n + len(self.graph.left)

    @property
    def order(self) -> int:
        return self.last.order

    @property
    def dense_entries(self) -> int:
        return self.last.dense_entries

    @property
    def costly(self) -> bool:
        return True

    @property
    def nanoseconds(self) -> float:
        """What a factorisation with its inverse costs, about."""
        carried = sum(len(stage.a) + len(stage.spokes) + len(stage.kept) for stage in self.stages)
        return PAIR_NS * carried + _STAGE_NS * len(self.stages) + self.last.nanoseconds

    @cached_property
    def _plan(self) -> tuple[list[Stage], Graph, IntVec]:
        return plan(self.graph)

    @property
    def stages(self) -> list[Stage]:
        return self._plan[0]

    @property
    def rest(self) -> Graph:
        """What the stages leave."""
        return self._plan[1]

    @cached_property
    def last(self) -> BlockRemainder:
        """Its components, dense."""
        return BlockRemainder(np.unique(self._plan[2], return_inverse=True)[1])

    @cached_property
    def last_places(self) -> tuple[IntVec, IntVec]:
        """Places of the diagonal and of the pairs of the rest."""
        every = np.arange(self.rest.n)
        return self.last.place(every, every), self.last.place(self.rest.left, self.rest.right)

    @cached_property
    def _keys(self) -> IntVec:
        return self.graph.left * self.width + self.graph.right

    def place(self, row: IntVec, column: IntVec) -> IntVec:
        between = self.width + np.searchsorted(self._keys, row * self.width + column)
        return np.where(row == column, row, between)

    def room(self) -> Vec:
        return np.empty(self.size)

    def factorise(self, s: Vec) -> StagedFactor | None:
        diagonal, pairs = s[: self.width], s[self.width :]
        log_det, roots, spokes = 0.0, [], []
        for stage in self.stages:
            pivot = diagonal[stage.pivots]
            if not (pivot > 0.0).all():  # nan included
                return None
            root = np.sqrt(pivot)
            log_det += 2.0 * float(np.log(root).sum())
            w = pairs[stage.spokes] / root[stage.hub]
            roots.append(root)
            spokes.append(w)
            diagonal = diagonal[stage.others] - np.bincount(stage.rim, w * w, len(stage.others))
            joined: Vec = np.asarray(0.0 - np.bincount(stage.joins, w[stage.a] * w[stage.b], stage.after))
            joined[stage.to] += pairs[stage.kept]
            pairs = joined
        room = self.last.room()
        room[:] = 0.0
        on_diagonal, off = self.last_places
        room[on_diagonal], room[off] = diagonal, pairs
        last = self.last.factorise(room)
        return None if last is None else StagedFactor(self, roots, spokes, last, log_det + last.log_determinant)


@dataclass(frozen=True, eq=False)
class StagedFactor:
    """Square roots of the pivots and w = entry / root of the spokes, stage by stage; then dense factors."""

    remainder: StagedRemainder
    roots: list[Vec]
    spokes: list[Vec]
    last: BlockFactor
    log_determinant: float

    @cached_property
    def _rows(self) -> list[sp.csr_matrix]:
        return [
            sp.csr_matrix((w, (stage.hub, stage.rim)), shape=(len(stage.pivots), len(stage.others)))
            for w, stage in zip(self.spokes, self.remainder.stages, strict=True)
        ]

    def solve(self, b: Mat) -> Mat:
        stages = list(zip(self.remainder.stages, self.roots, self._rows, strict=True))
        done = []
        for stage, root, w in stages:
            y = b[stage.pivots] / root[:, None]
            done.append(y)
            b = b[stage.others] - w.T @ y
        x = self.last.solve(b)
        for (stage, root, w), y in zip(reversed(stages), reversed(done), strict=True):
            whole = np.empty((len(stage.pivots) + len(stage.others), x.shape[1]))
            whole[stage.others] = x
            whole[stage.pivots] = (y - w @ x) / root[:, None]
            x = whole
        return x

    def inverse(self) -> Vec:
        diagonal, pairs = (self.last.inverse()[places] for places in self.remainder.last_places)
        for stage, root, w in zip(
            reversed(self.remainder.stages), reversed(self.roots), reversed(self.spokes), strict=True
        ):
            met = pairs[stage.joins]
            t = w * diagonal[stage.rim]
            t += np.bincount(stage.a, w[stage.b] * met, len(w))
            t += np.bincount(stage.b, w[stage.a] * met, len(w))
            above = np.empty(len(stage.pivots) + len(stage.others))
            across = np.empty(len(stage.spokes) + len(stage.kept))
            above[stage.others] = diagonal
            above[stage.pivots] = (1.0 + np.bincount(stage.hub, w * t, len(root))) / root**2
            across[stage.kept] = pairs[stage.to]
            across[stage.spokes] = -t / root[stage.hub]
            diagonal, pairs = above, across
        return np.concatenate([diagonal, pairs])
