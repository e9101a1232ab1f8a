"""The elimination of several grouping factors for many models at once, none of which meets another.

Levels of a factor follow one another model by model, and the pattern is that of all. The formulae are those of
linalg.elimination; log determinants end at the models, and a matrix that is not positive definite makes NaN in its own
model only. What a crossed lead leaves is one dense matrix a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from polars_glmm.linalg import cholesky
from polars_glmm.linalg.elimination import Eliminator, LevelByLevel, NestedFactorised, NestedLead
from polars_glmm.linalg.pattern import Blocks, Pairs, Pattern, sum_by
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


class LevelsOf(NamedTuple):
    """The levels of one factor in many models: the model of each (G,), and how many each model has (M,)."""

    model: IntVec
    counts: IntVec

    @classmethod
    def of(cls, counts: IntVec) -> LevelsOf:
        """Levels by how many each model has."""
        return cls(np.repeat(np.arange(len(counts)), counts), counts)

    @property
    def n_models(self) -> int:
        return len(self.counts)

    @property
    def n_levels(self) -> int:
        return len(self.model)

    @property
    def first(self) -> IntVec:
        """The first level of each model (M,)."""
        return np.cumsum(self.counts) - self.counts

    @property
    def within(self) -> IntVec:
        """The number of each level in its model (G,)."""
        return np.arange(len(self.model)) - np.repeat(self.first, self.counts)

    def totals(self, v: Cube) -> Cube:
        """Sums over the levels of each model, (…, M)."""
        return np.add.reduceat(v, self.first, axis=-1)

    def sums(self, v: Cube, levels: IntVec | None) -> Cube:
        """Sums over each model of what belongs to levels (P,) of this factor, None: one for each, (…, M)."""
        return self.totals(v) if levels is None else sum_by(self.model[levels], v, self.n_models)

    def take(self, keep: BoolVec) -> LevelsOf:
        """The levels of some of the models."""
        return LevelsOf.of(self.counts[keep])


def of_model(counts: IntVec, k: int) -> slice:
    """The levels of model k, where the models have so many each (M,)."""
    stop = int(counts[: k + 1].sum())
    return slice(stop - int(counts[k]), stop)


def eliminator_of_many(pattern: Pattern, levels: tuple[LevelsOf, ...]) -> Eliminator:
    """The elimination that suits the pattern of many models."""
    if pattern.n_factors == 1:
        return ManyOne(levels[0])
    if pattern.nested_lead():
        return ManyNested(pattern, levels)
    return ManyCrossed(pattern, levels)


class Crossed(NamedTuple):
    """What is crossed in many models, (M,) each.

    first   factor with a level that meets several of a later one; the last where there is none
    room    entries of the dense arrays that the elimination makes of what is left there; 0 where there is none
    """

    first: IntVec
    room: IntVec


def crossed_in(pattern: Pattern, levels: tuple[LevelsOf, ...]) -> Crossed:
    """What is crossed in each of many models."""
    last = pattern.n_factors - 1
    first = np.full(levels[0].n_models, last)
    for f in reversed(range(last)):
        for g in range(f + 1, last + 1):
            left = pattern.pairs[f, g].left
            met = levels[f].sums(np.ones(len(left)), left)
            first[met > levels[f].counts] = f
    sizes = np.array([own.counts * r for own, r in zip(levels, pattern.sizes, strict=True)])
    lead = np.take_along_axis(sizes, first[None], 0)[0]
    rest = np.where(np.arange(last + 1)[:, None] > first, sizes, 0).sum(0)
    return Crossed(first, rest * (lead + rest))


def some_of_many(pattern: Pattern, keeps: list[BoolVec]) -> Pattern:
    """The pattern of some of the models, whose levels are marked per factor; cells are forgotten."""
    number = [np.cumsum(keep) - 1 for keep in keeps]
    pairs = {}
    for (f, g), pair in pattern.pairs.items():
        own = keeps[f][pair.left]
        pairs[f, g] = Pairs(number[f][pair.left[own]], number[g][pair.right[own]], None)
    n_levels = tuple(int(keep.sum()) for keep in keeps)
    return Pattern(n_levels, pattern.sizes, tuple(codes[:0] for codes in pattern.codes), pairs)


@dataclass(frozen=True, slots=True)
class ManyOne:
    """Block-diagonal H."""

    levels: LevelsOf
    costly = False
    order = 0
    dense_entries = 0

    def factorise(self, h: Blocks) -> ManyOneFactorised:
        return ManyOneFactorised(cholesky.factor(h.diagonal[0]), self.levels)


@dataclass(frozen=True, slots=True)
class ManyOneFactorised(LevelByLevel):
    """H = LL' level by level of many models; NaN where one is not definite."""

    levels: LevelsOf

    @property
    def log_determinant(self) -> Vec:
        """Per model (m,); it is asked at the modes only, once for many steps towards them."""
        return self.levels.totals(cholesky.log_determinant(self.low))


@dataclass(frozen=True, eq=False)
class ManyNested(NestedLead):
    """The leading factor is nested in every other."""

    levels: tuple[LevelsOf, ...]

    @property
    def costly(self) -> bool:
        return False

    @cached_property
    def rest(self) -> Eliminator:
        return eliminator_of_many(self.rest_pattern, self.levels[1:])

    def factorise(self, h: Blocks) -> NestedFactorised | None:
        low = cholesky.factor(h.diagonal[0])
        w, left = self.without_lead(h, low)
        rest = self.rest.factorise(left)
        if rest is None:
            return None
        log_determinant = self.levels[0].totals(cholesky.log_determinant(low)) + rest.log_determinant
        return NestedFactorised(self, low, w, rest, log_determinant)


@dataclass(frozen=True, eq=False)
class ManyCrossed:
    """The leading factor is crossed with another: S is dense over the other levels of each model, (M, K, K).

    Models with fewer levels have rows of the identity for those that they lack.
    """

    pattern: Pattern
    levels: tuple[LevelsOf, ...]
    costly = False
    order = 0
    dense_entries = 0

    @property
    def n_models(self) -> int:
        return len(self.levels[0].counts)

    @cached_property
    def most(self) -> list[int]:
        """Levels of each factor in the model that has most."""
        return [int(own.counts.max(initial=0)) for own in self.levels]

    @cached_property
    def offsets(self) -> list[int]:
        """Where the effects of each factor begin in S; entry 0 is unused."""
        widths = [n * r for n, r in zip(self.most, self.pattern.sizes, strict=True)]
        return [0, 0, *np.cumsum(widths[1:]).tolist()]

    @property
    def width(self) -> int:
        return self.offsets[-1]

    @cached_property
    def within(self) -> list[IntVec]:
        """Per factor the number of each level in its model."""
        return [own.within for own in self.levels]

    def lead_rows(self, levels: IntVec) -> tuple[IntVec, IntVec]:
        """Model, and row in W, of effects of lead levels: (1, P), (r, P)."""
        a = np.arange(self.pattern.sizes[0])[:, None]
        return self.levels[0].model[levels][None], a * self.most[0] + self.within[0][levels]

    def columns(self, g: int, levels: IntVec) -> IntVec:
        """Places in S of effects of levels of factor g: (r_g, P)."""
        b = np.arange(self.pattern.sizes[g])[:, None]
        return np.asarray(self.offsets[g] + b * self.most[g] + self.within[g][levels])

    def at(self, g: int, h: int) -> tuple[IntVec, IntVec, IntVec]:
        """Model, row and column in S of the blocks of factors g ≤ h, shaped as those blocks."""
        n = np.arange(self.pattern.n_levels[g])
        left, right = (n, n) if g == h else self.pattern.pairs[g, h][:2]
        model = self.levels[g].model[left][None, None]
        return model, self.columns(g, left)[:, None], self.columns(h, right)[None]

    @cached_property
    def absent(self) -> BoolVec:
        """Which unknowns of S a model has not, (M, K)."""
        there = np.zeros((self.n_models, self.width), dtype=bool)
        for g in range(1, self.pattern.n_factors):
            n = np.arange(self.pattern.n_levels[g])
            there[self.levels[g].model[None], self.columns(g, n)] = True
        return np.asarray(~there)

    def factorise(self, h: Blocks) -> ManyCrossedFactorised:
        low = cholesky.factor(h.diagonal[0])
        m, k, others = self.n_models, self.width, range(1, self.pattern.n_factors)
        w = np.zeros((m, self.pattern.sizes[0] * self.most[0], k))
        for g in others:
            left, right = self.pattern.pairs[0, g][:2]
            model, row = self.lead_rows(left)
            w[model[:, None], row[:, None], self.columns(g, right)[None]] = cholesky.forward(
                low[..., left], h.cross[0, g]
            )
        s = np.zeros((m, k, k))
        s[:, np.arange(k), np.arange(k)] = self.absent
        for g in others:
            s[self.at(g, g)] = h.diagonal[g]
            for other in range(g + 1, self.pattern.n_factors):
                model, row, column = self.at(g, other)
                s[model, row, column] = h.cross[g, other]
                s[model, column, row] = h.cross[g, other]
        s -= w.swapaxes(1, 2) @ w
        log_determinant = self.levels[0].totals(cholesky.log_determinant(low)) + _log_determinants(s)
        return ManyCrossedFactorised(self, low, w, s, log_determinant)


def _log_determinants(s: Cube) -> Vec:
    """log|S| of each matrix (M, K, K), NaN where it is not positive definite."""
    fine: BoolVec = np.asarray(np.isfinite(s).all((1, 2)))
    s[~fine] = np.eye(s.shape[1])
    try:
        low = np.linalg.cholesky(s)
    except np.linalg.LinAlgError:
        low = np.full_like(s, np.nan)
        for k, one in enumerate(s):
            try:
                low[k] = np.linalg.cholesky(one)
            except np.linalg.LinAlgError:
                fine[k] = False
                s[k] = np.eye(s.shape[1])
    out: Vec = 2.0 * np.log(np.einsum("mkk->mk", low)).sum(1)
    return np.where(fine, out, np.nan)


@dataclass(frozen=True, eq=False)
class ManyCrossedFactorised:
    """L of the lead's blocks, W = L⁻¹C (M, lead effects, K), and S (M, K, K); the identity where it is not definite."""

    symbolic: ManyCrossed
    low: Cube
    w: Cube
    s: Cube
    log_determinant: Vec

    def solve(self, b: list[Cube]) -> list[Cube]:
        own, middle = self.symbolic, b[0].shape[1:-1]
        n = int(np.prod(middle, dtype=int))
        y = self._gathered(cholesky.forward(self.low, b[0]).reshape(len(b[0]), n, -1))
        right = np.zeros((own.n_models, own.width, n))
        for g in range(1, own.pattern.n_factors):
            levels = np.arange(own.pattern.n_levels[g])
            right[own.levels[g].model[None], own.columns(g, levels)] = np.moveaxis(
                b[g].reshape(len(b[g]), n, -1), 1, -1
            )
        x: Cube = np.asarray(np.linalg.solve(self.s, right - self.w.swapaxes(1, 2) @ y), dtype=np.float64)
        y = y - self.w @ x
        out = [cholesky.backward(self.low, self._lead(y).reshape(len(b[0]), *middle, -1))]
        for g in range(1, own.pattern.n_factors):
            levels = np.arange(own.pattern.n_levels[g])
            there = x[own.levels[g].model[None], own.columns(g, levels)]
            out.append(np.asarray(np.moveaxis(there, -1, 1).reshape(b[g].shape), dtype=np.float64))
        return out

    def _gathered(self, v: Cube) -> Cube:
        """Values of lead levels (r, n, G) by model: (M, lead effects, n)."""
        own = self.symbolic
        out = np.zeros((own.n_models, self.w.shape[1], v.shape[1]))
        out[own.lead_rows(np.arange(own.pattern.n_levels[0]))] = np.moveaxis(v, 1, -1)
        return out

    def _lead(self, v: Cube) -> Cube:
        """The same back: (r, n, G)."""
        rows = self.symbolic.lead_rows(np.arange(self.symbolic.pattern.n_levels[0]))
        return np.moveaxis(v[rows], -1, 1)

    def inverse(self) -> Blocks:
        own, pattern = self.symbolic, self.symbolic.pattern
        inverse: Cube = np.asarray(np.linalg.inv(self.s), dtype=np.float64)
        t = self.w @ inverse
        r, most = pattern.sizes[0], own.most[0]
        shape = (own.n_models, r, most, own.width)
        middle = np.einsum("malk,mblk->abml", t.reshape(shape), self.w.reshape(shape))
        half = cholesky.backward(self.low, middle[:, :, own.levels[0].model, own.within[0]])
        lead = cholesky.inverse(self.low) + cholesky.backward(self.low, half.swapaxes(0, 1))
        cross: dict[tuple[int, int], Cube] = {}
        for g in range(1, pattern.n_factors):
            left, right = pattern.pairs[0, g][:2]
            model, row = own.lead_rows(left)
            there = t[model[:, None], row[:, None], own.columns(g, right)[None]]
            cross[0, g] = -cholesky.backward(self.low[..., left], there)
        diagonal: list[Mat] = [lead]
        for g in range(1, pattern.n_factors):
            diagonal.append(inverse[own.at(g, g)])
            for other in range(g + 1, pattern.n_factors):
                cross[g, other] = inverse[own.at(g, other)]
        return Blocks(diagonal, cross)

    def inverse_diagonal(self) -> list[Cube]:
        return self.inverse().diagonal
