"""From the jet of a log density to its arrays of derivatives."""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement

import numpy as np

from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density
from polars_glmm.families.jet import Jet
from polars_glmm.typing import BoolVec, Vec

_ZERO = np.zeros(())


def density_of(found: Jet, order: int, degrees: Degrees, excluded: BoolVec | None = None) -> Density:
    """The derivatives that a jet holds, zeros broadcast; −∞ with none in rows that are excluded."""
    shape, n = found.f.shape, len(degrees)
    still = [k for k in range(n) if degrees[k] < order]

    def part(degree: jet.Degree) -> Vec:
        made = found.parts.get(degree, _ZERO)
        if made.shape != shape:
            made = np.broadcast_to(made, shape)
        if excluded is not None:
            made = np.where(excluded, 0.0 if degree else -np.inf, made)
        return -made if len(degree) >= 2 else made

    def tensor(rank: int) -> dict[jet.Degree, Vec]:
        if rank > order:
            return {}
        return {degree: part(degree) for degree in wanted_degrees(n, rank, tuple(degrees), tuple(still))}

    g = tuple(part((k,)) if degrees[k] else None for k in range(n))
    return Density(part(()), g if order else (), tensor(2), tensor(3))


@cache
def wanted_degrees(n: int, rank: int, most: Degrees, still: tuple[int, ...]) -> tuple[jet.Degree, ...]:
    """The derivatives of a rank in n predictors: no more in each than asked for, one at most in those still."""
    return tuple(
        degree
        for degree in combinations_with_replacement(range(n), rank)
        if all(degree.count(k) <= most[k] for k in degree) and sum(k in still for k in degree) <= 1
    )
