"""The restricted likelihood of gaussian rows: β integrated out under a flat prior (Harville 1974), with its gradient.

    ℓ_R = ℓ − ½ log|M| + ½ p log 2π,   M = X'V⁻¹X = X̃'WX̃ + B'B,   B = H⁻¹Λ'Z'WX,   X̃ = X − ZΛB

B is the least-squares fit of X by the spherical effects, so M is a sum of squares and its derivatives are those with B
where it is: with E = Z'WX̃ = Z'V⁻¹X and W = diag(w_i), w_i = precision_i · frequency_i / phi_i²,

    ∂M/∂Λ = −(E'B + B'E) over levels,   ∂M/∂γ = −2 Σ x_phi w_i x̃_i x̃_i'

One pass collects M and both derivatives, each of the order of p²; what is asked of them follows when all units are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.modes import UnitAt, cell_effects, concatenate, curvature, to_levels
from polars_glmm.linalg.coupled import prior_times
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.typing import Cube, Mat, Vec


class Restricted(NamedTuple):
    """M = X'V⁻¹X (p, p) in the computing basis, and what its derivatives are made of.

    by_factor   Σ E B' per factor, (d, r_f, p, p): ∂M/∂(T_fΛ_f) is the negative of this and its transpose in (p, p)
    by_phi      Σ x_phi w x̃ x̃' (s, p, p): ∂M/∂γ is −2 times this; None where no phi is a parameter
    """

    m: Mat
    by_factor: list[Cube]
    by_phi: Cube | None


class RestrictedTerm(NamedTuple):
    """−½ log|M| and its gradient in T_fΛ_f and in the coefficients of all predictors, zero in those of the mean."""

    value: float
    factors: list[Mat]
    beta: Vec


def restricted_unit(here: UnitAt, factor: Factorised | None) -> Restricted | None:
    """A unit's part of M; `factor` is its factorised H, where at hand. None where H is not positive definite."""
    unit, at, models = here.unit, here.at, here.unit.models
    weights = [here.density.rows(block, at, 2).w[0, 0] for block, at in zip(unit.blocks, here.fixed, strict=True)]
    b: list[Cube] = []
    if at.factors:
        if factor is None:
            sums = [block.zz_sums({(0, 0): w}) for block, w in zip(unit.blocks, weights, strict=True)]
            factor = models.factorise(unit.eliminator, curvature(here, concatenate(sums)))
        if factor is None:
            return None
        zwx = concatenate([block.z_sums([block.x * w]) for block, w in zip(unit.blocks, weights, strict=True)])
        pulled = to_levels(unit, zwx)
        b = factor.solve([models.transposed_times(lam, part) for lam, part in zip(at.factors, pulled, strict=True)])
    fitted = cell_effects(unit, at.factors, b)
    weighted_b = prior_times(unit.eliminator, b)
    squares = (models.crossed(one, other, f) for f, (one, other) in enumerate(zip(b, weighted_b, strict=True)))
    m = np.asarray(sum(squares, np.zeros(2 * (len(unit.blocks[0].x),))))
    further = unit.blocks[0].parts[1:]
    by_phi: Cube | None = np.zeros((len(at.beta) - len(m), *m.shape)) if further else None
    cells: list[Cube] = []
    for block, w in zip(unit.blocks, weights, strict=True):
        left = block.x
        if fitted is not None:
            (explained, *_) = block.combine(fitted[..., block.cells])
            assert explained is not None  # random effects are the mean's
            left = left - explained
        weighted = left * w
        m = m + weighted @ left.T
        if fitted is not None:
            cells.append(block.z_sums([weighted]))
        if by_phi is not None:
            x_phi = block.parts[1].columns
            columns = np.ones((1, len(w))) if x_phi is None else x_phi
            by_phi = by_phi + np.array([(weighted * column) @ left.T for column in columns])
    e = to_levels(unit, concatenate(cells)) if cells else []
    by_factor = [np.einsum("dpG,rqG->drpq", ef, bf, optimize=True) for ef, bf in zip(e, b, strict=True)]
    return Restricted(m, by_factor, by_phi)


def together(parts: Sequence[Restricted | None]) -> Restricted | None:
    """The sum over units; None where a unit has none."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    by_phi = [part.by_phi for part in known if part.by_phi is not None]
    return Restricted(
        np.asarray(sum(part.m for part in known)),
        [np.asarray(sum(part.by_factor[f] for part in known)) for f in range(len(known[0].by_factor))],
        np.asarray(sum(by_phi)) if by_phi else None,
    )


def restricted_term(found: Restricted | None) -> RestrictedTerm | None:
    """The term by which ℓ becomes restricted; None where M is singular: a fixed effect is not determined."""
    if found is None:
        return None
    inverse = inverse_of(found)
    if inverse is None:
        return None
    by_phi = [] if found.by_phi is None else np.einsum("spq,pq->s", found.by_phi, inverse)
    return RestrictedTerm(
        -0.5 * float(np.linalg.slogdet(found.m)[1]),
        [np.einsum("drpq,pq->dr", part, inverse) for part in found.by_factor],
        np.append(np.zeros(len(inverse)), by_phi),
    )


def inverse_of(found: Restricted) -> Mat | None:
    """Var(β̂_c) = M⁻¹ (p, p), or None."""
    try:
        low = np.linalg.cholesky(found.m)
    except np.linalg.LinAlgError:
        return None
    half = np.linalg.solve(low, np.eye(len(low)))
    return half.T @ half


def vcov_changes(found: Restricted, inverse: Mat) -> tuple[list[Cube], Cube]:
    """∂M⁻¹/∂(T_fΛ_f) per factor (d, r_f, p, p), and ∂M⁻¹/∂γ (s, p, p)."""
    by_factor = [inverse @ (part + part.swapaxes(2, 3)) @ inverse for part in found.by_factor]
    by_phi = np.empty((0, *inverse.shape)) if found.by_phi is None else 2.0 * inverse @ found.by_phi @ inverse
    return by_factor, by_phi
