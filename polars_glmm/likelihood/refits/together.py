"""Many designs of the same columns side by side, for the engine that fits many models at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.design.records import Design, Term
from polars_glmm.families.base import Censoring, Family, joined_censoring, only_phi
from polars_glmm.typing import IntVec, Mat

LARGEST = 10_000
"""Rows beyond which a model gains nothing from company."""
_DEPENDENT = 1e-10
"""Smallest eigenvalue of the cross-product of unit columns that counts as zero."""
ROWS_AT_ONCE = 250_000
"""Rows of all models that are fitted together: some arrays of so many rows are made."""


def fits_together(design: Design, family: Family) -> bool:
    """Whether the engine for many models knows this kind: one grouping factor, one phi, not too many rows."""
    alone = not design.further and design.residual is None and only_phi(family)
    independent = not any(factor.coupled for factor in design.factors)
    return alone and independent and len(design.factors) == 1 and design.n_rows <= LARGEST


def of_responses(design: Design, responses: Mat) -> KeyedDesign:
    """One model per response (B, n) over the same rows."""
    b, own = len(responses), _by_level(design)

    def tiled(v: Mat | None) -> Mat | None:
        return None if v is None else np.tile(np.take(v, own.order, axis=-1), b)

    x = tiled(design.mu.x)
    assert x is not None  # there may be no columns, but there is an array of them
    return KeyedDesign(
        y=np.ascontiguousarray(responses[:, own.order]).reshape(-1),
        trials=tiled(design.trials),
        frequency=tiled(design.frequency),
        precision=tiled(design.precision),
        censoring=None if design.censoring is None else design.censoring.each(lambda v: np.tile(v[own.order], b)),
        offset=tiled(design.mu.offset),
        names=design.mu.names,
        x=x,
        group=own.group,
        terms=own.terms,
        z=tiled(own.z),
        model_rows=np.full(b, design.n_rows, dtype=np.intp),
        model_levels=np.full(b, len(own.counts), dtype=np.intp),
        level_rows=np.tile(own.counts, b),
    )


def of_designs(designs: Sequence[Design]) -> KeyedDesign:
    """One model per design, all of the same columns and the same grouping factor."""
    owns = [_by_level(design) for design in designs]

    def joined(parts: Sequence[Mat | None]) -> Mat | None:
        there = [(part, own.order) for part, own in zip(parts, owns, strict=True) if part is not None]
        return np.concatenate([np.take(part, order, axis=-1) for part, order in there], axis=-1) if there else None

    y, x = joined([d.y for d in designs]), joined([d.mu.x for d in designs])
    assert y is not None
    assert x is not None
    return KeyedDesign(
        y=y,
        trials=joined([d.trials for d in designs]),
        frequency=joined([d.frequency for d in designs]),
        precision=joined([d.precision for d in designs]),
        censoring=_joined_censoring([d.censoring for d in designs], owns),
        offset=joined([d.mu.offset for d in designs]),
        names=designs[0].mu.names,
        x=x,
        group=owns[0].group,
        terms=owns[0].terms,
        z=joined([own.z for own in owns]),
        model_rows=np.array([d.n_rows for d in designs], dtype=np.intp),
        model_levels=np.array([len(own.counts) for own in owns], dtype=np.intp),
        level_rows=np.concatenate([own.counts for own in owns]),
    )


def _joined_censoring(parts: Sequence[Censoring | None], owns: Sequence[_ByLevel]) -> Censoring | None:
    """The censoring of all designs, one after the other."""
    known = [part.each(lambda v, o=own: v[o.order]) for part, own in zip(parts, owns, strict=True) if part is not None]  # type: ignore[misc]
    return joined_censoring(known) if known else None


class _ByLevel(NamedTuple):
    """The order of a design's rows by level, rows of each level, and the one grouping factor."""

    order: IntVec
    counts: IntVec
    group: str
    terms: tuple[Term, ...]
    z: Mat


def _by_level(design: Design) -> _ByLevel:
    (factor,) = design.factors
    order, counts = np.argsort(factor.codes, kind="stable"), np.bincount(factor.codes, minlength=factor.n_levels)
    return _ByLevel(order, counts, factor.name, factor.terms, factor.z)


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
