"""Some rows of a design: as they are, or as a design of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polars_glmm.design.records import Design, Factor, Predictor, ResidualRows
from polars_glmm.errors import ModelError
from polars_glmm.typing import BoolVec, CodeVec, IntVec, Mat


def rows_of(design: Design, rows: IntVec) -> Design:
    """Some rows of a design, in a given order, with the levels they had."""

    def part(v: Mat | None) -> Mat | None:
        return None if v is None else np.ascontiguousarray(np.take(v, rows, axis=-1))

    def predictor(one: Predictor) -> Predictor:
        return replace(one, x=np.take(one.x, rows, axis=1), offset=part(one.offset))

    return replace(
        design,
        y=np.take(design.y, rows),
        trials=part(design.trials),
        frequency=part(design.frequency),
        precision=part(design.precision),
        censoring=None if design.censoring is None else design.censoring.each(lambda v: np.take(v, rows)),
        inputs=tuple(np.take(one, rows) for one in design.inputs),
        mu=predictor(design.mu),
        further=tuple(map(predictor, design.further)),
        factors=tuple(replace(f, z=np.take(f.z, rows, axis=1), codes=f.codes[rows]) for f in design.factors),
        residual=_residual(design.residual, rows),
    )


def _residual(residual: ResidualRows | None, rows: IntVec) -> ResidualRows | None:
    """Groups of correlated rows, some rows of them; rows of one group stay correlated at the places they had."""
    if residual is None:
        return None
    return replace(residual, codes=residual.codes[rows], places=residual.places[rows])


def relevelled(factor: Factor, codes: IntVec | CodeVec) -> Factor:
    """A factor whose rows have other levels, numbered anew. Raises ModelError where levels know each other.

    Nor can levels be that share rows.
    """
    if factor.sets is not None:
        msg = f"Rows are in several levels of {factor.name!r}: these cannot be drawn again, or be left out one by one. "
        msg += "Use kind='parametric', or folds of rows."
        raise ModelError(msg)
    if factor.prior is not None:
        msg = f"known= relates the levels of {factor.name!r}: they cannot be drawn again as if they were independent. "
        msg += "Use kind='parametric', whose draws keep the relation."
        raise ModelError(msg)
    own, n_levels = relevelled_codes(codes)
    return replace(factor, codes=own.astype(np.int32), n_levels=n_levels)


def relevelled_codes(codes: IntVec | CodeVec) -> tuple[IntVec, int]:
    """Codes numbered anew, without gaps, and how many there are."""
    labels, own = np.unique(codes, return_inverse=True)
    return own, len(labels)


def design_of(design: Design, rows: BoolVec) -> Design:
    """The rows that are marked as a design of their own: only levels that occur in them, or that know each other.

    All levels of rows that have several.
    """
    made = rows_of(design, np.flatnonzero(rows))
    return replace(made, factors=tuple(f if f.coupled else relevelled(f, f.codes) for f in made.factors))
