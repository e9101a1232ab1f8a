"""Ranks of the covariance matrices of many models, each with one term: the rules of optimum.boundary, by pattern.

Models whose factors are free in the same entries go on together: one group for those in the interior, one for every
way to be on the boundary. Several terms on the boundary, and boundaries that the likelihood rises from, are left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

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
from polars_glmm.likelihood.parameters.state import settle_term
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


class Evaluating(Protocol):
    """What settling asks of an engine: ℓ and its gradient in Λ for some of the models, at any factors (r, r, m)."""

    @property
    def layout(self) -> SearchLayout: ...

    def at_factors(self, models: BoolVec, x: Mat, factors: Cube, modes: Mat | None) -> BatchValue: ...


class SettledGroup(NamedTuple):
    """Models (M,) whose factors are free in the same entries, their vectors x (m, P) in `layout`, and their rank."""

    models: BoolVec
    layout: SearchLayout
    x: Mat
    rank: int

    @property
    def singular(self) -> bool:
        return self.rank < self.layout.r


def settle(engine: Evaluating, terms: tuple[Term, ...], x: Mat, modes: Mat, row_variance: Vec) -> list[SettledGroup]:
    """Groups of models by the free entries of their factors."""
    at = engine.layout
    theta = slice(at.p, at.p + at.q)
    lam = at.lam(x[:, theta])
    values = np.linalg.eigvalsh(np.einsum("drm,erm->mde", lam, lam))
    largest = np.maximum(values[:, -1], row_variance)
    inside = values[:, 0] > SUSPECT * largest
    groups = []
    if inside.any():
        signs = np.sign(np.einsum("rrm->rm", lam))
        signs[signs == 0.0] = 1.0
        plain = x[inside].copy()
        plain[:, theta] = (lam * signs)[at.rows, at.columns].T[inside]
        groups.append(SettledGroup(inside, at, plain, at.r))
    beside = ~inside & np.isfinite(values).all(1)
    if len(terms) == 1 and beside.any():
        groups += _boundary(engine, terms[0], x, modes, (beside, values, largest, row_variance))
    return groups


def _boundary(
    engine: Evaluating, term: Term, x: Mat, modes: Mat, judged: tuple[BoolVec, Mat, Vec, Vec]
) -> list[SettledGroup]:
    """Groups of the models near the boundary."""
    beside, values, largest, row_variance = judged
    at, where = engine.layout, np.flatnonzero(beside)
    t = TermMap(term.start, term.stop, term.structure, slice(0, at.q), term.names, term.part_of, term.parameter_of)
    lam = at.lam(x[beside, at.p : at.p + at.q])
    strict = [settle_term(t, lam[..., i], RANK_TOLERANCE * largest[k]) for i, k in enumerate(where)]
    snapped = [settle_term(t, lam[..., i], SUSPECT * largest[k]) for i, k in enumerate(where)]
    own = values[beside]
    doubtful = ((own > RANK_TOLERANCE * largest[beside, None]) & (own <= SUSPECT * largest[beside, None])).any(1)
    doubtful = np.asarray(doubtful)
    plain_factors = np.array([s[0] for s in strict]).transpose(1, 2, 0)
    snapped_factors = np.array([s[0] for s in snapped]).transpose(1, 2, 0)
    if doubtful.any():
        some = among(beside, doubtful)
        before = engine.at_factors(some, x[some], plain_factors[..., doubtful], modes).value
        after = engine.at_factors(some, x[some], snapped_factors[..., doubtful], modes).value
        take = np.zeros(len(where), dtype=bool)
        take[np.flatnonzero(doubtful)[after > before - SNAP_LOSS]] = True
        strict = [b if chosen else a for a, b, chosen in zip(strict, snapped, take, strict=True)]
    factors = np.array([s[0] for s in strict]).transpose(1, 2, 0)
    ranks = np.array([s[2] for s in strict])
    rises = _rises(engine, t, x, factors, (beside, ranks, row_variance))
    patterns: dict[tuple[tuple[int, ...], tuple[int, ...], int], list[int]] = {}
    for i, (_, entries, rank) in enumerate(strict):
        if not rises[i]:
            order = np.lexsort((entries.columns, entries.rows))
            key = (tuple(entries.rows[order].tolist()), tuple(entries.columns[order].tolist()), rank)
            patterns.setdefault(key, []).append(i)
    groups = []
    for (rows, columns, rank), members in sorted(patterns.items()):
        layout = replace(at, rows=np.array(rows, np.intp), columns=np.array(columns, np.intp))
        models = np.zeros(len(x), dtype=bool)
        models[where[members]] = True
        free = factors[layout.rows, layout.columns][:, members].T
        moved = np.concatenate([x[models, : at.p], free, x[models, at.p + at.q :]], axis=1)
        groups.append(SettledGroup(models, layout, moved, rank))
    return groups


def _rises(engine: Evaluating, t: TermMap, x: Mat, factors: Cube, judged: tuple[BoolVec, IntVec, Vec]) -> BoolVec:
    """Models on whose boundary ℓ rises into the interior, as likelihood.optimum.boundary.leaving finds them."""
    beside, ranks, row_variance = judged
    size = 1e-3 * np.sqrt(row_variance[beside])
    spaces = [null_space(t, factors[..., i], int(rank)) for i, rank in enumerate(ranks)]
    has = ranks < t.r
    out = np.zeros(len(ranks), dtype=bool)
    if not has.any():
        return out
    moved = factors.copy()
    for i, (null, columns) in enumerate(spaces):
        moved[:, columns, i] += size[i] * null
    found = engine.at_factors(among(beside, has), x[among(beside, has)], moved[..., has], None)
    for place, i in enumerate(np.flatnonzero(has).tolist()):
        null, columns = spaces[i]
        if np.isfinite(found.value[place]):
            score = null.T @ found.lam[:, columns, place] / (2.0 * size[i])
            out[i] = steepest_variance(t, score)[0] * row_variance[beside][i] > RISES
    return out
