"""Which directions of variance are zero at an optimum, and whether ℓ rises off that boundary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.state import Rank, State, scaled_sigma, settle
from polars_glmm.typing import Mat, Vec

SNAP_LOSS = 1e-6
"""Log-likelihood that setting a variance direction to zero may cost."""


RANK_TOLERANCE = 1e-8
"""Eigenvalues of a scaled Σ below this share of the largest, or of the row variance, are zero."""


SUSPECT = 1e-3
"""Eigenvalues below this share are worth trying at zero."""


def row_tolerances(effects: Effects, lambdas: list[Mat], row_variance: float, share: float) -> Vec:
    """Per term: the size of an eigenvalue of its scaled Σ that counts as zero."""
    out = []
    for f, lam in zip(effects.factors, lambdas, strict=True):
        for t in f.terms:
            largest = float(np.linalg.eigvalsh(scaled_sigma(lam, t))[-1])
            out.append(share * max(largest, row_variance))
    return np.array(out)


def settle_ranks(
    effects: Effects,
    beta: Vec,
    lambdas: list[Mat],
    gamma: Vec | None,
    row_variance: float,
    loglik: Callable[[State], float],
) -> tuple[State, list[Rank]]:
    """The state with all variance directions at zero that ℓ does not miss."""
    strict = row_tolerances(effects, lambdas, row_variance, RANK_TOLERANCE)
    suspect = row_tolerances(effects, lambdas, row_variance, SUSPECT)
    plain, ranks = settle(effects, beta, lambdas, gamma, strict)
    position, doubtful = 0, []
    for f, lam in zip(effects.factors, lambdas, strict=True):
        for t in f.terms:
            values = np.linalg.eigvalsh(scaled_sigma(lam, t))
            if ((values > strict[position]) & (values <= suspect[position])).any():
                doubtful.append(position)
            position += 1
    if not doubtful:
        return plain, ranks
    best = loglik(plain)
    for chosen in [doubtful] if len(doubtful) == 1 else [doubtful, *([d] for d in doubtful)]:
        tolerances = strict.copy()
        tolerances[chosen] = suspect[chosen]
        snapped, snapped_ranks = settle(effects, beta, lambdas, gamma, tolerances)
        if loglik(snapped) > best - SNAP_LOSS:
            return snapped, snapped_ranks
    return plain, ranks


def leaving(
    effects: Effects, state: State, ranks: list[Rank], row_variance: float, gradient: Callable[[State], Gradient]
) -> State | None:
    """A state off the boundary from which ℓ rises, or None: the one-sided score ∂ℓ/∂Σ on each null space.

    ∂ℓ/∂F = 2(∂ℓ/∂Σ)F, so a small column εn in F shows N'(∂ℓ/∂Σ)n to first order.
    """
    size = 1e-3 * np.sqrt(row_variance)
    for rank in ranks:
        f = effects.factors[rank.factor]
        t = f.terms[rank.term]
        if rank.rank == t.r:
            continue
        block = state.factors[rank.factor][t.start : t.stop, t.start : t.stop]
        if t.structure == "diag":
            null = np.eye(t.r)[:, ~block.any(1)]
            free_column = np.flatnonzero(~block.any(1))
        else:
            u, s, _ = np.linalg.svd(block)
            null = u[:, s <= 1e-12 * max(float(s.max(initial=0.0)), 1e-300)] if s.any() else np.eye(t.r)
            free_column = np.full(null.shape[1], rank.rank)
        for n, column in zip(null.T, free_column, strict=True):
            factors = [m.copy() for m in state.factors]
            factors[rank.factor][t.start : t.stop, t.start + column] += size * n
            moved = State(state.beta, tuple(factors), state.gamma, state.free)
            g = gradient(moved)
            if not np.isfinite(g.value):
                continue
            slope = float(n @ g.factors[rank.factor][t.start : t.stop, t.start + column]) / (2.0 * size)
            if slope * row_variance > 1e-3:  # in log-likelihood per unit of relative variance
                factors[rank.factor][t.start : t.stop, t.start + column] += 0.1 * np.sqrt(row_variance) * n
                return State(state.beta, tuple(factors), state.gamma, state.free)
    return None
