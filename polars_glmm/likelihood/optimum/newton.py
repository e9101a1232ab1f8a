"""Newton's step, the inverse of a Hessian, and the steps of the differences it is made from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.parameters.state import State
from polars_glmm.typing import BoolVec, Mat, Vec

CENTRAL = 50.0
"""Central differences, whose error is of second order, take steps this much longer."""


FORWARD, ERROR_SHARE, LONGEST = 1e-5, 1e-4, 1e-3
"""Steps of forward differences as shares of: the scale on which ℓ bends; a standard error, at most that scale."""


ROUNDING = 1e-13
"""Newton decrement that is rounding error of ℓ."""


HESSIAN_STALE = 1e-4
"""A step of a larger decrement than this leaves a Hessian that belongs to another point."""


FLAT = 1e-8
"""Eigenvalue of a Hessian with unit diagonal below which its direction is not identified."""


NO_CURVATURE = 1e-32
"""Share of the largest curvature below which a parameter in units of the rows has none: to enlarge it would enlarge
rounding."""


def newton(h: Mat, g: Vec, least: float = 0.0) -> tuple[Vec, float]:
    """−H⁻¹g and ½|g'H⁻¹g|; directions without curvature are left alone, parameters with less than a share of it too."""
    own = np.abs(np.diag(h))
    scale = np.sqrt(np.maximum(own, max(least * float(own.max(initial=0.0)), 1e-300)))
    values, vectors = np.linalg.eigh(h / np.outer(scale, scale))
    use = np.abs(values) > FLAT
    projected = vectors.T @ (g / scale)
    inverse = np.where(use, 1.0 / np.where(use, np.abs(values), 1.0), 0.0)
    return -(vectors @ (projected * inverse)) / scale, 0.5 * float((projected**2 * inverse).sum())


def widen(h: Inverted, held: BoolVec) -> Inverted:
    """The same with held parameters back in place, without variance."""
    if not held.any():
        return h
    free = ~held
    vcov = np.full((len(held),) * 2, np.nan)
    vcov[np.ix_(free, free)] = h.vcov
    flat = np.zeros(len(held), dtype=bool)
    flat[free] = h.flat
    return Inverted(vcov, h.smallest, flat)


class Inverted(NamedTuple):
    """(−∂²ℓ)⁻¹ with NaN where not identified; smallest eigenvalue of the Hessian at unit diagonal; flat (P,) marks."""

    vcov: Mat
    smallest: float
    flat: BoolVec


def invert(h: Mat) -> Inverted:
    """Covariance matrix of the parameters; those that load on a flat or wrong direction get NaN."""
    if not len(h):
        return Inverted(h, np.inf, np.zeros(0, dtype=bool))
    diag = np.diag(h)
    scale = np.sqrt(np.where(diag > 0, diag, 1.0))
    values, vectors = np.linalg.eigh(h / np.outer(scale, scale))
    bad = values < FLAT
    flat = (np.abs(vectors[:, bad]) > 1e-3).any(1) | ~(diag > 0)
    inverse = np.where(bad, 0.0, 1.0 / np.where(bad, 1.0, values))
    vcov = (vectors * inverse) @ vectors.T / np.outer(scale, scale)
    vcov[flat] = np.nan
    vcov[:, flat] = np.nan
    return Inverted(vcov, float(values[0]), flat)


class Scale(NamedTuple):
    """Sizes against which steps of differences are small: spread of a row in eta, and the scale on which ℓ bends.

    n_mean    coefficients of the mean; the others are of logarithms (None: there are no others)
    unit      random effects are in units of a row's spread, in whatever predictor they are
    """

    row: float
    bend: float
    n_mean: int | None = None
    unit: bool = False


def difference_steps(state: State, scale: Scale, std_error: Vec | None) -> Vec:
    """Steps of forward differences: 1e-5 of the scale on which ℓ bends, more where the data say little.

    A gradient is known to rounding error of its terms, so a step must be worth something in standard errors too.
    """
    small, p = min(scale.row, scale.bend), len(state.beta)
    n_mean = p if scale.n_mean is None else scale.n_mean
    least, bend = (1e-2, 1.0) if scale.unit else (1e-2 * small, scale.bend)
    parts = [np.full(n_mean, small), np.ones(p - n_mean)]
    for f, e in zip(state.factors, state.free, strict=True):
        size = float(np.abs(f).max(initial=0.0)) if f.size else 0.0
        parts.append(e.sizes(np.full(len(f), min(max(size, least), bend))))
    steps = FORWARD * np.concatenate(parts)
    if std_error is None:
        return steps
    most = np.full(len(steps), LONGEST * bend)
    most[:n_mean] = LONGEST * scale.bend
    enough: Vec = np.minimum(ERROR_SHARE * std_error, most)
    return np.asarray(np.maximum(steps, enough))
