"""Computing bases and random effects of rows that are not here, from the moments of their columns."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from polars_glmm.design.apart import Apart
from polars_glmm.design.records import Predictor
from polars_glmm.likelihood.parameters.basis import Basis, centred_moments, told_apart_by
from polars_glmm.likelihood.parameters.effects import Effects, WorkingBasis, assemble, root_of, working_columns
from polars_glmm.likelihood.parameters.thresholds import bases_of


def bases_apart(design: Apart, held: Collection[str]) -> tuple[tuple[Basis, ...], tuple[Basis, ...]]:
    """As `bases_of`, of the distinct columns: the bases of the columns, and those of the coefficients."""
    places = {one.parameter: own for one, own in zip(design.predictors, design.layout.x, strict=True)}

    def made(one: Predictor, *, elsewhere: bool) -> Basis:
        return _basis(design, places[one.parameter], elsewhere=elsewhere)

    return bases_of(design.predictors, made, held)


def _basis(design: Apart, places: tuple[int, ...], *, elsewhere: bool) -> Basis:
    own = design.moments.pick(places)
    basis = centred_moments(own.mean, own.cross / own.n, elsewhere=elsewhere)
    return told_apart_by(basis, own.cross / own.n, own.mean)


def effects_of(design: Apart) -> tuple[Effects, WorkingBasis | None, list[int]]:
    """The random effects without codes, how their columns are made, and which columns of all factors are distinct."""
    if not design.factors:
        return Effects((), None, 0), None, []
    columns = list(zip(design.layout.z, [part for f in design.factors for part in f.part_of], strict=True))
    both = list(dict.fromkeys(columns))
    places, parts = [place for place, _ in both], [part for _, part in both]
    distinct = [columns.index(one) for one in both]
    places_of = iter([both.index(one) for one in columns])
    uses = [[next(places_of) for _ in f.part_of] for f in design.factors]
    own = design.moments.pick(tuple(places))
    second, factors = own.cross / own.n, design.factors
    if len(places) == 1 and own.mean[0] == 1.0 and second[0, 0] == 0.0:
        return assemble(factors, uses, np.eye(1), None, np.eye(1), (parts[0],)), None, distinct
    working = working_columns(own.mean, np.sqrt(np.diag(second)), parts)
    d = len(working.sources)
    mean, gram = np.ones(d), np.zeros((d, d))
    at = [j for j, (k, _) in enumerate(working.sources) if k >= 0]
    of = [k for k, _ in working.sources if k >= 0]
    mean[at] = [own.mean[k] - shift for k, shift in working.sources if k >= 0]
    gram[np.ix_(at, at)] = second[np.ix_(of, of)]
    root = root_of(gram + np.outer(mean, mean), working.part_of)
    return assemble(factors, uses, working.transfer, None, root, working.part_of), working, distinct
