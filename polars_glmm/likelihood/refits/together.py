"""Many designs of the same columns side by side, for the engine that fits many models at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from polars_glmm.design.by_key.records import KeyedDesign, KeyedFactor
from polars_glmm.design.records import Design, Factor
from polars_glmm.families.base import Censoring, joined_censoring, only_phi
from polars_glmm.likelihood.many.company import ROOM, ROOM_AT_ONCE
from polars_glmm.linalg.pattern import find_pattern
from polars_glmm.linalg.side_by_side import LevelsOf, crossed_in
from polars_glmm.spec.model import ModelSpec
from polars_glmm.typing import IntVec, Mat

LARGEST = 10_000
"""Rows beyond which a model gains nothing from company."""
_DEPENDENT = 1e-10
"""Smallest eigenvalue of the cross-product of unit columns that counts as zero."""
ROWS_AT_ONCE = 250_000
"""Rows of all models that are fitted together: some arrays of so many rows are made."""


def fits_together(design: Design, spec: ModelSpec) -> bool:
    """Whether the engine for many models knows this kind: grouping factors, one phi, not too many rows."""
    alone = not design.further and design.residual is None and only_phi(spec.family)
    independent = not any(factor.coupled for factor in design.factors)
    if not (alone and independent and design.factors and design.n_rows <= LARGEST):
        return False
    return _room(design) <= ROOM


def models_at_once(design: Design) -> int:
    """How many models of this size are fitted together."""
    return max(min(ROWS_AT_ONCE // max(design.n_rows, 1), ROOM_AT_ONCE // max(_room(design), 1)), 1)


def _room(design: Design) -> int:
    """Entries of the dense arrays that crossed factors need; of what is not fitted together none."""
    factors = _by_size(design)
    if len(factors) < 2 or design.n_rows > LARGEST or any(factor.coupled for factor in factors):
        return 0
    codes = tuple(factor.codes.astype(np.intp) for factor in factors)
    sizes = tuple(len(factor.z) for factor in factors)
    n_levels = tuple(factor.n_levels for factor in factors)
    alone = tuple(LevelsOf.of(np.array([n])) for n in n_levels)
    return int(crossed_in(find_pattern(codes, n_levels, sizes), alone).room[0])


def _by_size(design: Design) -> list[Factor]:
    """The factors in order of elimination: most levels first."""
    return sorted(design.factors, key=lambda factor: -factor.n_levels)


def of_responses(design: Design, responses: Mat) -> KeyedDesign:
    """One model per response (B, n) over the same rows."""
    b, order = len(responses), _order(_by_size(design))

    def tiled(v: Mat | None) -> Mat | None:
        return None if v is None else np.tile(np.take(v, order, axis=-1), b)

    made = of_designs([design], order)
    x, z = tiled(design.mu.x), tiled(_by_size(design)[0].z)
    assert x is not None  # there may be no columns, but there is an array of them
    others = []
    for one in made.others:
        own = np.repeat(np.arange(b) * int(one.model_levels[0]), design.n_rows)
        levels, codes = np.tile(one.model_levels, b), np.tile(one.codes, b) + own
        others.append(replace(one, z=np.tile(one.z, b), codes=codes, model_levels=levels))
    return replace(
        made,
        y=np.ascontiguousarray(responses[:, order]).reshape(-1),
        trials=tiled(design.trials),
        frequency=tiled(design.frequency),
        precision=tiled(design.precision),
        censoring=None if made.censoring is None else made.censoring.each(lambda v: np.tile(v, b)),
        offset=tiled(design.mu.offset),
        x=x,
        z=z,
        model_rows=np.tile(made.model_rows, b),
        model_levels=np.tile(made.model_levels, b),
        level_rows=np.tile(made.level_rows, b),
        others=tuple(others),
    )


def of_designs(designs: Sequence[Design], order: IntVec | None = None) -> KeyedDesign:
    """One model per design, all of the same columns and the same grouping factors; order: that of the only design."""
    names = [factor.name for factor in designs[0].factors]
    first = [factor.name for factor in _by_size(designs[0])]
    factors = [[design.factors[names.index(name)] for name in first] for design in designs]
    orders = [_order(own) for own in factors] if order is None else [order]

    def joined(parts: Sequence[Mat | None]) -> Mat | None:
        there = [(part, own) for part, own in zip(parts, orders, strict=True) if part is not None]
        return np.concatenate([np.take(part, own, axis=-1) for part, own in there], axis=-1) if there else None

    y, x = joined([d.y for d in designs]), joined([d.mu.x for d in designs])
    assert y is not None
    assert x is not None
    lead = [own[0] for own in factors]
    others = []
    for k in range(1, len(first)):
        own = [every[k] for every in factors]
        levels = np.array([factor.n_levels for factor in own], dtype=np.intp)
        starts = np.cumsum(levels) - levels
        codes = [f.codes[order].astype(np.intp) + start for f, order, start in zip(own, orders, starts, strict=True)]
        z = joined([factor.z for factor in own])
        assert z is not None
        one = own[0]
        others.append(KeyedFactor(one.name, names.index(one.name), one.terms, z, np.concatenate(codes), levels))
    return KeyedDesign(
        y=y,
        trials=joined([d.trials for d in designs]),
        frequency=joined([d.frequency for d in designs]),
        precision=joined([d.precision for d in designs]),
        censoring=_joined_censoring([d.censoring for d in designs], orders),
        offset=joined([d.mu.offset for d in designs]),
        names=designs[0].mu.names,
        x=x,
        group=first[0],
        terms=lead[0].terms,
        z=joined([factor.z for factor in lead]),
        model_rows=np.array([d.n_rows for d in designs], dtype=np.intp),
        model_levels=np.array([factor.n_levels for factor in lead], dtype=np.intp),
        level_rows=np.concatenate([np.bincount(factor.codes, minlength=factor.n_levels) for factor in lead]),
        others=tuple(others),
        place=names.index(first[0]),
    )


def _joined_censoring(parts: Sequence[Censoring | None], orders: Sequence[IntVec]) -> Censoring | None:
    """The censoring of all designs, one after the other."""
    known = [part.each(lambda v, o=own: v[o]) for part, own in zip(parts, orders, strict=True) if part is not None]  # type: ignore[misc]
    return joined_censoring(known) if known else None


def _order(factors: Sequence[Factor]) -> IntVec:
    """The order of rows by the levels of factors, the first one's before those of the next."""
    codes = [factor.codes for factor in factors]
    return np.lexsort(codes[::-1]) if len(codes) > 1 else np.argsort(codes[0], kind="stable")


def full_rank(design: Design) -> bool:
    """Whether the fixed effects of a resample are determined: a level of a factor may be in none of its groups."""
    return all(_independent(part.x) for part in design.predictors)


def _independent(x: Mat) -> bool:
    size = np.linalg.norm(x, axis=1)
    if not len(x):
        return True
    if not size.all():
        return False
    unit = x / size[:, None]
    return bool(np.linalg.eigvalsh(unit @ unit.T)[0] > _DEPENDENT)
