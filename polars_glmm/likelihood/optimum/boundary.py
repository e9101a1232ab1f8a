"""The boundary of covariance matrices: which directions have no variance, and whether ℓ rises from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.likelihood.parameters.state import Rank, State, Tolerances, lost_rank, scaled_sigma, settle
from polars_glmm.linalg.differences import symmetric
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

SNAP_LOSS = 1e-6
"""Log-likelihood that setting a variance direction to zero may cost."""
RANK_TOLERANCE = 1e-8
"""Eigenvalues of a scaled Σ below this share of the largest, or of the row variance, are zero."""
SUSPECT = 1e-3
"""Eigenvalues below this share are worth trying at zero."""
RISES = 1e-3
"""One-sided score, in log-likelihood per unit of relative variance, from which a boundary is left."""
_BESIDE = 1e-3
"""How far inside a limit its slope is taken: relative standard deviations, or angles."""


def row_tolerances(effects: Effects, lambdas: list[Mat], row_variance: float, share: float) -> Tolerances:
    """Per term: the size of an eigenvalue of its scaled Σ that counts as zero."""
    out: Tolerances = []
    for f, lam in zip(effects.factors, lambdas, strict=True):
        for t in f.terms:
            largest = float(np.linalg.eigvalsh(scaled_sigma(lam, t))[-1])
            out.append(share * max(largest, row_variance))
    return out


class Unsettled(NamedTuple):
    """Where a search ended: beta in the computing basis, θ of the scaled factors; marks on θ of what is held."""

    beta: Vec
    theta: Vec
    held: BoolVec | None = None


def settle_ranks(
    effects: Effects, at: Unsettled, row_variance: float, loglik: Callable[[State], float]
) -> tuple[State, list[Rank]]:
    """The state with all variance directions at zero that ℓ does not miss; what is held stays as it is."""
    beta, theta, held = at
    lambdas = effects.lambdas(theta)
    strict = row_tolerances(effects, lambdas, row_variance, RANK_TOLERANCE)
    suspect = row_tolerances(effects, lambdas, row_variance, SUSPECT)
    if held is not None:
        strict, suspect = _sparing(effects, strict, held), _sparing(effects, suspect, held)
    plain, ranks = settle(effects, beta, theta, strict)
    position, doubtful = 0, []
    for f, lam in zip(effects.factors, lambdas, strict=True):
        for t in f.terms:
            free = held is None or not held[t.theta].any()
            if free and _doubtful(t, theta[t.theta], lam, (strict[position], suspect[position])):
                doubtful.append(position)
            position += 1
    if not doubtful:
        return plain, ranks
    best = loglik(plain)
    for chosen in [doubtful] if len(doubtful) == 1 else [doubtful, *([d] for d in doubtful)]:
        tolerances = [suspect[i] if i in chosen else strict[i] for i in range(len(strict))]
        snapped, snapped_ranks = settle(effects, beta, theta, tolerances)
        if loglik(snapped) > best - SNAP_LOSS:
            return snapped, snapped_ranks
    return plain, ranks


def _doubtful(t: TermMap, theta: Vec, lam: Mat, tolerances: tuple[float | Vec, float | Vec]) -> bool:
    """Whether a term is near enough to its boundary to be tried there: beyond a strict tolerance, within another."""
    structure, (strict, suspect) = STRUCTURES[t.structure], tolerances
    if isinstance(structure, Scaled):
        return bool((structure.settled(theta, t.r, strict)[1] != structure.settled(theta, t.r, suspect)[1]).any())
    values = np.linalg.eigvalsh(scaled_sigma(lam, t))
    return bool(((values > strict) & (values <= suspect)).any())


def _sparing(effects: Effects, tolerances: Tolerances, held: BoolVec) -> Tolerances:
    """Tolerances below zero for what is held: standard deviations of a "diag" term one by one, else whole terms."""
    terms = [t for f in effects.factors for t in f.terms]
    spared: list[float | Vec] = []
    for t, share in zip(terms, tolerances, strict=True):
        if STRUCTURES[t.structure].correlated or STRUCTURES[t.structure].bends:
            spared.append(-1.0 if held[t.theta].any() else share)
        else:
            spared.append(np.where(held[t.theta], -1.0, share))
    return spared


class Rise(NamedTuple):
    """A boundary from which ℓ rises: the score ∂ℓ/∂(variance) there, per unit of row variance, and a state beyond."""

    score: float
    away: State


def leaving(
    effects: Effects, state: State, ranks: list[Rank], row_variance: float, gradient: Callable[[State], Gradient]
) -> Rise | None:
    """How ℓ rises from the boundary, or None: the one-sided score of each term on the null space N of its Σ.

    ∂ℓ/∂F = 2(∂ℓ/∂Σ)F, so columns εN in F show N'(∂ℓ/∂Σ)N to first order; ℓ rises for some variance on the null space
    where its largest eigenvalue is positive, though no single column of N may show it.
    """
    size = 1e-3 * np.sqrt(row_variance)
    steepest: Rise | None = None
    for rank in ranks:
        f = effects.factors[rank.factor]
        t = f.terms[rank.term]
        if STRUCTURES[t.structure].bends:
            rise = _leaving_curve(effects, state, rank, row_variance, gradient)
            if rise is not None and rise.score > (0.0 if steepest is None else steepest.score):
                steepest = rise
            continue
        if not lost_rank(effects, rank):
            continue
        own = slice(t.start, t.stop)
        null, columns = null_space(t, state.factors[rank.factor][own, own], rank.rank)
        at = (slice(t.start, t.stop), t.start + columns)

        def moved(step: Mat, number: int = rank.factor, at: tuple[slice, IntVec] = at) -> State:
            factors = [m.copy() for m in state.factors]
            factors[number][at] += step
            return replace(state, factors=tuple(factors))

        g = gradient(moved(size * null))
        if not np.isfinite(g.value):
            continue
        score, direction = steepest_variance(t, null.T @ g.factors[rank.factor][at] / (2.0 * size))
        score *= row_variance
        if score > max(RISES, 0.0 if steepest is None else steepest.score):
            step = np.zeros_like(null)
            place = int(np.argmax(np.abs(direction))) if not STRUCTURES[t.structure].correlated else 0
            step[:, place] = 0.1 * np.sqrt(row_variance) * null @ direction
            steepest = Rise(score, moved(step))
    return steepest


def _leaving_curve(
    effects: Effects, state: State, rank: Rank, row_variance: float, gradient: Callable[[State], Gradient]
) -> Rise | None:
    """The same for a structure that bends, limit by limit: ℓ is even about each, so its slope beside shows its bend."""
    f = effects.factors[rank.factor]
    t, place = f.terms[rank.term], rank.factor
    entries = state.free[place]
    number = next(k for k, c in enumerate(entries.curves) if c.start == t.start)
    curve = entries.curves[number]
    k = curve.scaled.scales(t.r)
    none = not curve.theta[:k].any()
    steepest: Rise | None = None

    def at(theta: Vec) -> State:
        curves = (*entries.curves[:number], curve._replace(theta=theta), *entries.curves[number + 1 :])
        free = (*state.free[:place], entries._replace(curves=curves), *state.free[place + 1 :])
        factors = [m.copy() for m in state.factors]
        factors[place][curve.own, curve.own] = curves[number].block
        return State(state.beta, tuple(factors), free)

    for j in np.flatnonzero(~curve.free).tolist():
        if j >= k and none:
            continue  # correlations of nothing
        small, far = np.array([_BESIDE, 0.3])
        if j < k:
            small, far = curve.scaled.roots(np.sqrt(row_variance) * np.array([_BESIDE, 0.1]))
        beside = curve.theta.copy()
        inward = -1.0 if beside[j] > 0.0 else 1.0
        beside[j] += inward * small
        g = gradient(at(beside))
        if not np.isfinite(g.value):
            continue
        tangent = curve.scaled.tangent(beside, t.r)[j]
        gain = 0.5 * inward * small * float(np.vdot(tangent, g.factors[place][curve.own, curve.own]))
        if j < k and curve.scaled.squared:
            gain /= 2.0  # a variance is the fourth power
        score = gain / _BESIDE**2
        if score > max(RISES, 0.0 if steepest is None else steepest.score):
            beside[j] = curve.theta[j] + inward * far
            steepest = Rise(score, at(beside))
    return steepest


def null_space(t: TermMap, block: Mat, rank: int) -> tuple[Mat, IntVec]:
    """Directions without variance of a settled factor (r, r), as columns, and the columns of F that are free for them.

    A "diag" term can gain variance along its axes only.
    """
    if not STRUCTURES[t.structure].correlated:
        free = np.flatnonzero(~block.any(1))
        return np.eye(t.r)[:, free], free
    null = np.linalg.svd(block)[0][:, rank:] if rank else np.eye(t.r)
    return null, np.arange(rank, t.r)


def steepest_variance(t: TermMap, score: Mat) -> tuple[float, Vec]:
    """The largest slope of ℓ in a variance on the null space, and its direction there, from N'(∂ℓ/∂Σ)N (m, m)."""
    if not STRUCTURES[t.structure].correlated:
        best = int(np.argmax(np.diag(score)))
        return float(score[best, best]), np.eye(len(score))[best]
    values, vectors = np.linalg.eigh(symmetric(score))
    return float(values[-1]), vectors[:, -1]
