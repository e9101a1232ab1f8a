"""Whether fixed effects run off to infinity: separation of counts, by linear programming (Konis 2007, ch. 4)."""

from __future__ import annotations

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.families.base import Family
from polars_glmm.likelihood.basis import Basis
from polars_glmm.typing import Vec

_COUNTS = ("binomial", "poisson", "negative_binomial")
_LOOSE = 30.0
"""Standard error of a coefficient of a unit-variance column beyond which separation is looked for."""


def separated_terms(design: Design, family: Family, basis: Basis, std_error: Vec) -> tuple[str, ...]:
    """Fixed effects along which the likelihood rises for ever; std_error (p,) in the computing basis, NaN if unknown."""
    suspicious = ~(std_error < _LOOSE)
    if family.name not in _COUNTS or not suspicious.any():
        return ()
    y, trials = design.y, design.trials
    top = np.ones_like(y) if trials is None else trials
    upper = (y == top) if family.name == "binomial" else np.zeros(len(y), dtype=bool)
    lower = y == 0
    inner = ~(upper | lower)
    rows = np.unique(np.concatenate([basis.columns, upper[None], lower[None], inner[None]]).T, axis=0)
    x = rows[:, : len(basis.columns)]
    up, low, mid = (rows[:, len(basis.columns) + k] > 0 for k in range(3))
    signed = np.concatenate([x[up], -x[low]])
    if not len(signed):
        return ()
    direction = _recession(signed, x[mid])
    if direction is None:
        return ()
    named = basis.a.T @ direction
    share = np.abs(named) * np.sqrt((design.mu.x**2).mean(1))
    return tuple(name for name, s in zip(design.mu.names, share, strict=True) if s > 1e-6 * share.max())


def _recession(signed: Vec, fixed: Vec) -> Vec | None:
    """γ in the unit box with signed·γ ≥ 0, fixed·γ = 0 and signed·γ ≠ 0, or None."""
    from scipy.optimize import linprog  # noqa: PLC0415  # 0.3 s of import for a rare question

    found = linprog(
        -signed.sum(0),
        A_ub=-signed,
        b_ub=np.zeros(len(signed)),
        A_eq=fixed if len(fixed) else None,
        b_eq=np.zeros(len(fixed)) if len(fixed) else None,
        bounds=[(-1.0, 1.0)] * signed.shape[1],
        method="highs",
    )
    if found.status != 0 or -found.fun < 1e-7 * len(signed):
        return None
    return np.where(np.abs(found.x) < 1e-7, 0.0, found.x)  # noqa: PLR2004  # rounding of the solver
