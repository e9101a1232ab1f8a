"""From an optimum to the numbers people report: covariances, standard errors, modes, degrees of freedom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.estimate import Between, FactorEstimate
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.likelihood.parameters.state import FreeEntries, State, natural_sigma
from polars_glmm.linalg.between import NONE_BETWEEN, BetweenFactors, scaled
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

SLOPES_KEPT = 10_000_000
"""Entries of ∂b̂/∂β up to which a fit keeps them."""


class Covariances(NamedTuple):
    """vech of every term's Σ in design order, with its Jacobian in the state's vector (and σ, last, if gaussian)."""

    values: Vec
    jacobian: Mat
    null: BoolVec


def covariances(effects: Effects, state: State, sigma: float | None) -> Covariances:
    """Reported variances and covariances; `null` marks those without a standard error.

    They are those of a term that has lost a rank, where a neighbour of the estimate is no covariance matrix; in a
    "diag" term, whose variances bound one another in nothing, those of zero; in one that bends, what is at a limit.
    """
    width = len(state.vector()) + (0 if sigma is None else 1)
    rows: list[tuple[int, int, Vec, Mat, BoolVec]] = []
    s2 = 1.0 if sigma is None else sigma**2
    for number, f in enumerate(effects.factors):
        where = state.factor_slice(number)
        entries = state.free[number]
        for place, t in enumerate(f.terms):
            outward = f.outward[t.start : t.stop, t.start : t.stop]
            block = state.factors[number][t.start : t.stop, t.start : t.stop]
            cov = natural_sigma(f, t, state.factors[number])
            i, j = STRUCTURES[t.structure].vech(t.r)
            jac = np.zeros((len(i), width))
            for k, change in _changes(t, block, entries):
                jac[:, where.start + k] = s2 * (outward @ change @ outward.T)[i, j]
            if sigma is not None:
                jac[:, -1] = 2.0 * sigma * cov[i, j]
            lost: BoolVec = np.asarray(np.diag(cov) == 0.0)
            null = lost[i] | lost[j]
            curve = next((c for c in entries.curves if c.start == t.start), None)
            if curve is not None:
                null |= ~curve.free
            elif STRUCTURES[t.structure].correlated and int(block.any(0).sum()) < STRUCTURES[t.structure].rank(t.r):
                null[:] = True
            rows.append((f.place, place, s2 * cov[i, j], jac, null))
    rows.sort(key=lambda r: (r[0], r[1]))
    if not rows:
        return Covariances(np.empty(0), np.zeros((0, width)), np.zeros(0, dtype=bool))
    return Covariances(
        np.concatenate([r[2] for r in rows]), np.concatenate([r[3] for r in rows]), np.concatenate([r[4] for r in rows])
    )


def _changes(t: TermMap, block: Mat, entries: FreeEntries) -> Iterator[tuple[int, Mat]]:
    """∂Σ (r, r) of a term by each free parameter of its factor that is its own, with the number of that."""
    for k, (row, column) in enumerate(zip(entries.rows, entries.columns, strict=True)):
        if not t.start <= row < t.stop:
            continue
        change = np.zeros((t.r, t.r))
        a, c = row - t.start, column - t.start
        change[a] += block[:, c]
        change[:, a] += block[:, c]
        yield k, change
    k = len(entries.rows)
    for curve in entries.curves:
        tangents = curve.tangents
        if curve.start == t.start:
            half = tangents @ block.T
            yield from enumerate(half + half.swapaxes(1, 2), k)
        k += len(tangents)


def unidentified_rows(effects: Effects, marks: tuple[tuple[bool, ...], ...]) -> BoolVec:
    """Rows of `covariances` that belong to terms marked in the order of the design."""
    rows: list[BoolVec] = []
    for f in sorted(effects.factors, key=lambda f: f.place):
        rows.extend(
            np.full(len(STRUCTURES[t.structure].vech(t.r)[0]), mark)
            for t, mark in zip(f.terms, marks[f.place], strict=True)
        )
    return np.concatenate(rows) if rows else np.zeros(0, dtype=bool)


class Spherical(NamedTuple):
    """What is known of u, per factor: modes (r, G), Var(u | y) (r, r, G), and ∂û/∂β (r, p, G) where it is kept.

    between   Cov(u | y) between all levels (r, G, r, G) where it is kept, empty where it is not
    factors   the same between levels of different factors
    """

    modes: list[Mat]
    covariance: list[Cube]
    slopes: list[Cube] | None
    between: Sequence[Cube] = ()
    factors: BetweenFactors = NONE_BETWEEN


def factor_estimates(
    effects: Effects, factors: tuple[Mat, ...], u: Spherical, sigma: float | None
) -> tuple[FactorEstimate, ...]:
    """Random effects per grouping factor, in design order: b = outward·F·u, Var(b | y), and ∂b̂/∂β from ∂û/∂β."""
    s2 = 1.0 if sigma is None else sigma**2
    out = []
    slopes: Sequence[Cube | None] = u.slopes or [None] * len(u.modes)
    between = u.between or [np.empty((0,) * 4)] * len(u.modes)
    to_b = [f.size * f.outward @ factor for f, factor in zip(effects.factors, factors, strict=True)]
    across = between_estimates([f.name for f in effects.factors], to_b, u.factors, s2)
    together = zip(effects.factors, factors, to_b, u.modes, u.covariance, slopes, between, across, strict=True)
    for f, factor, outward, mode, cov, slope, wide, others in together:
        spread = np.tensordot(outward, np.tensordot(outward, cov, (1, 1)), (1, 1)) * s2
        estimate = FactorEstimate(
            name=f.name,
            term_names=tuple(name for t in f.terms for name in t.names),
            covariances=tuple(s2 * natural_sigma(f, t, factor) for t in f.terms),
            structures=tuple(t.structure for t in f.terms),
            modes=outward @ mode,
            mode_covariance=spread,
            mode_slope=None if slope is None else np.tensordot(outward, slope, (1, 0)),
            parameters=tuple(on for t in f.terms for on in t.parameter_of),
            level_covariance=None if not wide.size else s2 * np.einsum("ir,rgsh,js->igjh", outward, wide, outward),
            between=others,
        )
        out.append((f.place, estimate))
    return tuple(e for _, e in sorted(out, key=lambda pair: pair[0]))


def between_estimates(
    names: Sequence[str], to_b: Sequence[Cube], u: BetweenFactors, s2: float = 1.0
) -> list[tuple[Between, ...]]:
    """Per factor Cov(b | y) with those behind it, from that of u, with b = to_b · u: (r, r), or (r, r, G) by level."""
    out: list[list[Between]] = [[] for _ in names]
    for (f, g), pairs in u.pairs.items():
        left, right, values = scaled(pairs, to_b[f], to_b[g])
        out[f].append(Between(names[g], left, right, s2 * values, u.every))
    return [tuple(own) for own in out]


def propagate(jac: Mat, inner: Mat, null: BoolVec) -> Mat:
    """jac · inner · jac', with NaN only where a parameter that matters is NaN, and where `null` says so."""
    missing = np.isnan(np.diag(inner))
    known = np.where(np.isnan(inner), 0.0, inner)
    out = jac @ known @ jac.T
    affected = null | (np.abs(jac[:, missing]) > 0).any(1)
    out[affected] = np.nan
    out[:, affected] = np.nan
    return out


def seconds(clock: dict[str, float]) -> dict[str, float]:
    """Time between the marks of a clock, by the name of the later one."""
    return {b: clock[b] - clock[a] for a, b in pairwise(clock)}
