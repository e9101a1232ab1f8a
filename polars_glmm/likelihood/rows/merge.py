"""Rows with one linear predictor made one row, for families whose sufficient statistic allows it.

Σ_i f_i log p(y_i | η) = F·(ȳη − b(η)) for a Poisson, with F = Σf and ȳ = Σfy/F, and a binomial of Σfn trials with Σfy
successes: exact but for terms without parameters, which are counted from the rows themselves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Design, Predictor
from polars_glmm.families.base import Family
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.typing import Vec

_WORTH = 0.8


class Merged(NamedTuple):
    """Rows to compute with: a design, its fixed columns with the computing basis, and random effects."""

    design: Design
    x: Basis
    effects: Effects


def merge_rows(design: Design, x: Basis, effects: Effects, family: Family) -> Merged:
    """Neighbouring rows with equal linear predictors merged; the same where that saves little.

    A counted frame comes sorted by its keys with the response last, so that equal predictors are neighbours.
    """
    same = Merged(design, x, effects)
    if not family.sufficient or design.frequency is None:
        return same
    change = np.ones(design.n_rows, dtype=bool)
    change[1:] = (x.x[:, 1:] != x.x[:, :-1]).any(0)
    for f in effects.factors:
        change[1:] |= f.codes[1:] != f.codes[:-1]
    if effects.columns is not None:
        change[1:] |= (effects.columns[:, 1:] != effects.columns[:, :-1]).any(0)
    if design.mu.offset is not None:
        change[1:] |= design.mu.offset[1:] != design.mu.offset[:-1]
    starts = np.flatnonzero(change)
    if len(starts) > _WORTH * design.n_rows:
        return same

    def total(v: Vec) -> Vec:
        return np.add.reduceat(v, starts)

    frequency, successes = total(design.frequency), total(design.frequency * design.y)
    if not family.takes_trials:
        y, trials, kept = successes / frequency, None, frequency
    else:
        trials = frequency if design.trials is None else total(design.frequency * design.trials)
        y, kept = successes, None
    offset = None if design.mu.offset is None else design.mu.offset[starts]
    names = design.mu.names
    fixed = replace(x, x=np.ascontiguousarray(x.x[:, starts]))
    mu = Predictor(fixed.x, names, offset)
    maps = tuple(replace(f, codes=f.codes[starts]) for f in effects.factors)
    columns = None if effects.columns is None else np.ascontiguousarray(effects.columns[:, starts])
    small = replace(design, y=y, trials=trials, frequency=kept, mu=mu, factors=())
    return Merged(small, fixed, replace(effects, factors=maps, columns=columns))
