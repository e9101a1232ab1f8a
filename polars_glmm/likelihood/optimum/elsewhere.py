"""Hills elsewhere: where correlations of a structure end at a limit, searches from either side of their range."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.optimum.boundary import SNAP_LOSS, SUSPECT, row_tolerances
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.optimize.search import Found
from polars_glmm.typing import BoolVec, Vec

_BESIDE = 0.05
"""Share of the range of an angle that is near its end."""


class Ended(NamedTuple):
    """Where a search over vectors with θ in `place` ended; marks on θ of what is held; what sizes of effects are.

    size            standard deviation of effects that a search starts from
    row_variance    that of a row on the scale of the effects
    """

    found: Found
    place: slice
    held: BoolVec
    size: float
    row_variance: float


Search = Callable[[Vec, BoolVec], Found]
"""A search from a vector, with what of θ stays for now."""


def highest(effects: Effects, ended: Ended, search: Search) -> Found:
    """The search's answer, or a higher one that begins at moderate correlations of either sign.

    At a limit of its correlations Σ has lost directions that the data may want elsewhere, with other standard
    deviations at zero: each such set is a hill of its own, and no slope leads from one to the other. Of several angles
    the first is also searched before the others, which are zero: a Toeplitz matrix begins at an autoregressive one.
    What has run away is left alone.
    """
    best = ended.found
    if not best.settled:
        return best
    for theta, later in _starts(effects, ended):
        x = ended.found.x.copy()
        x[ended.place] = theta
        nothing = np.zeros_like(later)
        ends = [search(x, nothing)]
        if later.any():
            ends.append(search(x, later))
            x = ends[-1].x.copy()
            x[ended.place] = _inwards(effects, x[ended.place], later)
            ends.append(search(x, nothing))
        for other in ends:
            if other.settled and other.evaluation.value < best.evaluation.value - SNAP_LOSS:
                best = other
    return best


def _inwards(effects: Effects, theta: Vec, later: BoolVec) -> Vec:
    """θ with the angle before the later ones off its limit, where it is at one: there these have no slope."""
    before, out = int(np.argmax(later)) - 1, theta.copy()
    term = next(t for f in effects.factors for t in f.terms if t.theta.start <= before < t.theta.stop)
    structure = STRUCTURES[term.structure]
    assert isinstance(structure, Scaled)  # no other has angles
    low, high = structure.root.ends
    if min(abs(theta[before] - low), abs(theta[before] - high)) < _BESIDE * (high - low):
        out[before] = np.clip(theta[before], low + _BESIDE * (high - low), high - _BESIDE * (high - low))
    return out


def _starts(effects: Effects, ended: Ended) -> Iterator[tuple[Vec, BoolVec]]:
    """θ with one term that is at a limit begun again, its first angle half-way from where it starts to either end, and
    marks of its later angles.
    """
    theta = ended.found.x[ended.place]
    tolerances = iter(row_tolerances(effects, effects.lambdas(theta), ended.row_variance, SUSPECT))
    for f in effects.factors:
        for t in f.terms:
            structure, tolerance = STRUCTURES[t.structure], next(tolerances)
            if not isinstance(structure, Scaled) or not structure.correlated or structure.field is not None:
                continue
            if ended.held[t.theta].any() or not structure.settled(theta[t.theta], t.r, tolerance)[1].any():
                continue
            first, later = t.theta.start + structure.scales(t.r), np.zeros(len(theta), dtype=bool)
            later[first + 1 : t.theta.stop] = True
            for end in structure.root.ends:
                out = theta.copy()
                out[t.theta] = structure.start(t.r, np.full(t.r, ended.size))
                out[first] = 0.5 * (out[first] + end)
                yield out, later
