"""Ranks of the covariance matrices of many models: the rules of optimum.boundary, by pattern.

Models whose factors are free in the same entries go on together: one group for those in the interior, one for every
way to be on the boundary. Boundaries that the likelihood rises from are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.design.records import Term
from polars_glmm.likelihood.many.engine import SearchLayout
from polars_glmm.likelihood.many.estimate import among
from polars_glmm.likelihood.many.value import BatchValue
from polars_glmm.likelihood.optimum.boundary import (
    RANK_TOLERANCE,
    RISES,
    SNAP_LOSS,
    SUSPECT,
    null_space,
    steepest_variance,
)
from polars_glmm.likelihood.parameters.effects import TermMap
from polars_glmm.likelihood.parameters.state import FreeEntries, settle_term
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


class Evaluating(Protocol):
    """What settling asks of an engine: ℓ and its gradient in Λ for some of the models, at any factors (r, r, m)."""

    @property
    def layout(self) -> SearchLayout: ...

    def at_factors(self, models: BoolVec, x: Mat, factors: Cube, modes: Any) -> BatchValue: ...


class SettledGroup(NamedTuple):
    """Models (M,) whose factors are free in the same entries, their vectors x (m, P) in `layout`; ranks: by term."""

    models: BoolVec
    layout: SearchLayout
    x: Mat
    ranks: tuple[int, ...]

    @property
    def singular(self) -> bool:
        return sum(self.ranks) < self.layout.r


def settle(engine: Evaluating, terms: tuple[Term, ...], x: Mat, modes: Any, row_variance: Vec) -> list[SettledGroup]:
    """Groups of models by the free entries of their factors."""
    at = engine.layout
    theta = slice(at.p, at.p + at.q)
    lam = at.lam(x[:, theta])
    sizes = [_sizes(t, lam, row_variance) for t in terms]
    inside, finite = np.ones(len(x), dtype=bool), np.ones(len(x), dtype=bool)
    for own in sizes:
        inside &= own.values[:, 0] > SUSPECT * own.largest
        finite &= np.isfinite(own.values).all(1)
    groups = []
    if inside.any():
        signs = np.sign(np.einsum("rrm->rm", lam))
        signs[signs == 0.0] = 1.0
        plain = x[inside].copy()
        plain[:, theta] = (lam * signs)[at.rows, at.columns].T[inside]
        groups.append(SettledGroup(inside, at, plain, tuple(t.stop - t.start for t in terms)))
    beside = ~inside & finite
    if beside.any():
        maps = [TermMap(t.start, t.stop, t.structure, slice(0, 0), t.names, t.part_of, t.parameter_of) for t in terms]
        near = [_Sizes(s.values[beside], s.largest[beside]) for s in sizes]
        groups += _boundary(_Beside(engine, maps, x, modes, row_variance, beside), near, lam[..., beside])
    return groups


class _Sizes(NamedTuple):
    """Of one term and every model: eigenvalues of its scaled Σ (M, r), rising, and what is large for them (M,)."""

    values: Mat
    largest: Vec


def _sizes(t: Term, lam: Cube, row_variance: Vec) -> _Sizes:
    own = lam[t.start : t.stop, t.start : t.stop]
    values = np.linalg.eigvalsh(np.einsum("drm,erm->mde", own, own))
    return _Sizes(values, np.maximum(values[:, -1], row_variance))


class _Beside(NamedTuple):
    """The models near the boundary, marked in `beside` (M,), and what is known of all."""

    engine: Evaluating
    terms: list[TermMap]
    x: Mat
    modes: Any
    row_variance: Vec
    beside: BoolVec

    def loglik(self, some: BoolVec, factors: Cube) -> Vec:
        """ℓ of some of those beside, at their factors (r, r, m)."""
        return self._at(some, factors, self.modes).value

    def slopes(self, some: BoolVec, factors: Cube) -> BatchValue:
        """ℓ and its gradient, wherever modes were."""
        return self._at(some, factors, None)

    def _at(self, some: BoolVec, factors: Cube, modes: Any) -> BatchValue:
        models = among(self.beside, some)
        return self.engine.at_factors(models, self.x[models], factors, modes)


class _SettledTerm(NamedTuple):
    """One term of the models beside: factors F (r, r, m), and of each model its free entries and its rank."""

    factors: Cube
    entries: list[FreeEntries]
    ranks: IntVec

    @classmethod
    def of(cls, t: TermMap, lam: Cube, tolerance: Vec) -> _SettledTerm:
        own = lam[t.start : t.stop, t.start : t.stop]
        found = [settle_term(t, own[..., i], float(tolerance[i])) for i in range(own.shape[-1])]
        factors = np.array([f for f, _, _ in found]).transpose(1, 2, 0)
        return cls(factors, [e for _, e, _ in found], np.array([rank for _, _, rank in found]))

    def where(self, chosen: BoolVec, other: _SettledTerm) -> _SettledTerm:
        """The other's where the models are marked."""
        entries = [b if take else a for a, b, take in zip(self.entries, other.entries, chosen, strict=True)]
        factors = np.where(chosen, other.factors, self.factors)
        return _SettledTerm(factors, entries, np.where(chosen, other.ranks, self.ranks))


def _joined(terms: list[TermMap], parts: list[_SettledTerm], r: int) -> Cube:
    """Factors of all terms, (r, r, m)."""
    out = np.zeros((r, r, parts[0].factors.shape[-1]))
    for t, part in zip(terms, parts, strict=True):
        out[t.start : t.stop, t.start : t.stop] = part.factors
    return out


def _boundary(here: _Beside, near: list[_Sizes], lam: Cube) -> list[SettledGroup]:
    """Groups of the models near the boundary."""
    at, where = here.engine.layout, np.flatnonzero(here.beside)
    settled = _snapped(here, near, lam)
    rises = _rises(here, settled)
    factors = _joined(here.terms, settled, at.r)
    patterns: dict[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for i in np.flatnonzero(~rises).tolist():
        rows = np.concatenate([t.start + s.entries[i].rows for t, s in zip(here.terms, settled, strict=True)])
        columns = np.concatenate([t.start + s.entries[i].columns for t, s in zip(here.terms, settled, strict=True)])
        order = np.lexsort((columns, rows))
        key = (tuple(rows[order].tolist()), tuple(columns[order].tolist()), tuple(int(s.ranks[i]) for s in settled))
        patterns.setdefault(key, []).append(i)
    groups = []
    for (rows_of, columns_of, ranks), members in sorted(patterns.items()):
        layout = replace(at, rows=np.array(rows_of, np.intp), columns=np.array(columns_of, np.intp))
        models = np.zeros(len(here.x), dtype=bool)
        models[where[members]] = True
        free = factors[layout.rows, layout.columns][:, members].T
        moved = np.concatenate([here.x[models, : at.p], free, here.x[models, at.p + at.q :]], axis=1)
        groups.append(SettledGroup(models, layout, moved, ranks))
    return groups


def _snapped(here: _Beside, near: list[_Sizes], lam: Cube) -> list[_SettledTerm]:
    """Every term with the variance directions at zero that ℓ does not miss, as likelihood.optimum.boundary has it."""
    strict, loose, doubtful = [], [], []
    for t, (values, largest) in zip(here.terms, near, strict=True):
        strict.append(_SettledTerm.of(t, lam, RANK_TOLERANCE * largest))
        loose.append(_SettledTerm.of(t, lam, SUSPECT * largest))
        between = (values > RANK_TOLERANCE * largest[:, None]) & (values <= SUSPECT * largest[:, None])
        doubtful.append(np.asarray(between.any(1)))
    number, r = np.sum(doubtful, axis=0), here.engine.layout.r
    some = number > 0
    if not some.any():
        return strict
    best = np.full(len(some), np.inf)
    best[some] = here.loglik(some, _joined(here.terms, strict, r)[..., some])
    out, open_ = strict, some
    one_by_one = [[own if k == j else np.zeros_like(own) for k, own in enumerate(doubtful)] for j in range(len(near))]
    for chosen in [doubtful, *one_by_one]:
        tried = open_ & np.logical_or.reduce(chosen)
        if not tried.any():
            continue
        parts = [a.where(own, b) for a, b, own in zip(strict, loose, chosen, strict=True)]
        value = here.loglik(tried, _joined(here.terms, parts, r)[..., tried])
        taken = np.zeros_like(some)
        taken[tried] = value > best[tried] - SNAP_LOSS
        out = [a.where(taken, b) for a, b in zip(out, parts, strict=True)]
        open_ = open_ & ~taken & (number > 1)
    return out


def _rises(here: _Beside, settled: list[_SettledTerm]) -> BoolVec:
    """Models on whose boundary ℓ rises into the interior, as likelihood.optimum.boundary.leaving finds them."""
    row_variance = here.row_variance[here.beside]
    size, factors = 1e-3 * np.sqrt(row_variance), _joined(here.terms, settled, here.engine.layout.r)
    out = np.zeros(len(size), dtype=bool)
    for t, own in zip(here.terms, settled, strict=True):
        lost = own.ranks < t.r
        if not lost.any():
            continue
        moved, spaces = factors.copy(), {}
        for i in np.flatnonzero(lost).tolist():
            null, columns = null_space(t, own.factors[..., i], int(own.ranks[i]))
            moved[t.start : t.stop, t.start + columns, i] += size[i] * null
            spaces[i] = null, t.start + columns
        found = here.slopes(lost, moved[..., lost])
        for place, (i, (null, columns)) in enumerate(spaces.items()):
            if np.isfinite(found.value[place]):
                score = null.T @ found.lam[t.start : t.stop, columns, place] / (2.0 * size[i])
                out[i] |= steepest_variance(t, score)[0] * row_variance[i] > RISES
    return out
