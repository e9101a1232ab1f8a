"""Means over the population, in a lazy plan: the random effects of every row integrated out, not set to zero.

The random part of a row is N(0, z'Σz) whatever the model, so the mean is a function of eta = x'β and v = z'Σz
(families.averages), with the delta method in (β, Σ): v moves with the estimated covariances too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.covariance.structures import STRUCTURES, natural_slopes
from polars_glmm.errors import enumerate_names
from polars_glmm.families.averages import averaged_mean
from polars_glmm.families.normal_nodes import count_of
from polars_glmm.prediction.columns import INTERNAL, require_columns
from polars_glmm.prediction.effects import MODEL
from polars_glmm.prediction.linear_predictor import (
    ETA,
    MISSING,
    STD_ERROR,
    Purpose,
    add_linear_predictor,
    require_dtypes,
)
from polars_glmm.prediction.members import refuse_slots, size_of_slots, slots_size
from polars_glmm.prediction.parameters import refuse_random_phi
from polars_glmm.prediction.places import levels_beyond, places_of
from polars_glmm.prediction.variances import quadratic

if TYPE_CHECKING:
    from polars_glmm.families.links import Link
    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Cube, IntVec, Mat, Vec

MEAN, MEAN_ERROR = f"{INTERNAL}mean", f"{INTERNAL}mean_error"
ON_LINK, LINK_ERROR = f"{INTERNAL}on_link", f"{INTERNAL}link_error"
POPULATION = f"{INTERNAL}population"
RANDOM_VARIANCE = f"{INTERNAL}random_variance"
_FIELDS = (MEAN, MEAN_ERROR, ON_LINK, LINK_ERROR)


class CovarianceEntry(NamedTuple):
    """One entry of a covariance matrix: the columns of z it belongs to, its place in the report, and 1 or 2."""

    i: int
    j: int
    place: int
    times: float


def add_population_predictor(
    frame: pl.LazyFrame,
    schema: pl.Schema,
    fitted: Parameters,
    *,
    verb: str,
    also_used: frozenset[str] = frozenset(),
    std_error: bool = True,
) -> pl.LazyFrame:
    """The frame with MISSING, ETA = x'β, its STD_ERROR on request, and RANDOM_VARIANCE = Σ_f z'Σ_f z of every row.

    Of random effects those on the mean count, which is all that a mean knows.

    Needs the columns that random effects multiply, not the keys of the groups: no level is looked up. But those of rows
    in several levels: the variance is that of Σ_s w_s b_s, and slots may hold the same level.
    """
    if fitted.recipe.spec.family.curve is not None:
        refuse_random_phi(fitted, "an average over random effects")
    frame = add_population_rows(frame, schema, fitted, Purpose(verb, also_used=also_used, std_error=std_error))
    columns = _columns(fitted, 0)
    covariances = [_stacked(factor) for factor in fitted.factors]

    def variances(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        return pl.Series(batch.name, random_variances(rows, covariances, _model(rows)))

    fields = [pl.col(MISSING), *columns, *_own(fitted)]
    made = pl.struct(fields).map_batches(variances, return_dtype=pl.Float64, is_elementwise=True)
    return frame.with_columns(made.alias(RANDOM_VARIANCE))


def add_population_rows(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose
) -> pl.LazyFrame:
    """The frame with the predictor of `purpose` at random effects of zero, and what those on its parts multiply."""
    slopes = frozenset[str]().union(*(factor.slope_inputs(*purpose.parts) for factor in fitted.factors))
    require_columns(schema, slopes, purpose.verb)
    require_dtypes(schema, slopes, fitted.recipe)
    slots = frozenset(name for factor in fitted.factors if factor.recipe.members for name in factor.recipe.columns)
    if not slots <= set(schema):
        instead = f"Give {enumerate_names(sorted(slots))} in the frame, or ask for random='none'."
        refuse_slots(fitted.factors, "An average over random effects depends on the levels of a row", instead)
    terms = [term for factor in fitted.factors for term in factor.recipe.terms]
    levels = levels_beyond(terms, *purpose.parts)
    purpose = replace(purpose, factors=(), also_used=purpose.also_used | slopes | slots, levels=levels)
    frame = add_linear_predictor(frame, schema, fitted, purpose)
    return frame.with_columns(size_of_slots(factor, schema) for factor in fitted.factors if factor.recipe.members)


@dataclass(frozen=True, slots=True, eq=False)
class PredictorCovariance:
    """The covariance V of the random parts of a row's predictors, over those that have any.

    places       of these predictors, d of them
    fields       what a struct of the rows must hold
    owners       by column of z, which of them it is added to, −1: to none
    covariances  Σ_f of all factors
    """

    places: tuple[int, ...]
    fields: list[pl.Expr]
    owners: tuple[int, ...]
    covariances: list[Cube]

    @classmethod
    def of(cls, fitted: Parameters, wanted: Sequence[int]) -> PredictorCovariance:
        """That of some predictors of a fit, or of many."""
        parts = [part for factor in fitted.factors for part in factor.part_of]
        places = tuple(sorted({*parts} & {*wanted}))
        owners = tuple(places.index(part) if part in places else -1 for part in parts)
        covariances = [_stacked(one) for one in fitted.factors]
        return cls(places, [*_columns(fitted, *places), *_own(fitted)], owners, covariances)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Predictors two by two, by their places."""
        return [(one, other) for i, one in enumerate(self.places) for other in self.places[: i + 1]]

    def n_nodes(self, rows: pl.DataFrame) -> int:
        """How many nodes a mean over some rows takes."""
        found = self.at(rows)
        return count_of(len(self.places), float(np.sqrt(np.nanmax(np.einsum("kkn->kn", found), initial=0.0))))

    def at(self, rows: pl.DataFrame) -> Cube:
        """V (d, d, n) of rows."""
        found, start, model = np.zeros((len(self.places), len(self.places), rows.height)), 0, _model(rows)
        z = [np.broadcast_to(rows[f"z_{k}"].to_numpy(), rows.height) for k in range(len(self.owners))]
        for covariance in self.covariances:
            r = covariance.shape[1]
            for i in range(start, start + r):
                for j in range(start, start + r):
                    if min(self.owners[i], self.owners[j]) >= 0:
                        own = covariance[:, i - start, j - start][model]
                        found[self.owners[i], self.owners[j]] += z[i] * z[j] * own
            start += r
        return found

    def gradient(self, fitted: Parameters, bends: Sequence[pl.Expr]) -> tuple[list[pl.Expr], list[int]]:
        """∂/∂(entries of Σ) and their places in the report, from ½ ∂²/∂eta_k ∂eta_l of the `pairs`."""
        z, of = random_columns(fitted, *self.places), dict(zip(self.pairs, bends, strict=True))
        entries = covariance_entries(fitted, fitted.beta.shape[1] + fitted.gamma.shape[1])
        entries = [one for one in entries if min(self.owners[one.i], self.owners[one.j]) >= 0]
        on = [sorted((self.places[self.owners[e.i]], self.places[self.owners[e.j]]), reverse=True) for e in entries]
        found = [of[a, b] * (e.times * z[e.i] * z[e.j]) for e, (a, b) in zip(entries, on, strict=True)]
        return found, [e.place for e in entries]


def population_mean(fitted: Parameters, link: Link) -> pl.Expr:
    """Struct of MEAN and MEAN_ERROR, ON_LINK and LINK_ERROR on the scale of the link, of a population predictor's rows.

    A variance without a standard error, as at a boundary, counts as known.
    """
    assert fitted.report_vcov is not None  # every fit has one
    p, s = fitted.beta.shape[1], fitted.gamma.shape[1]
    entries = covariance_entries(fitted, p + s)
    places = np.array([entry.place for entry in entries], dtype=np.intp)
    report = np.nan_to_num(fitted.report_vcov)
    crossed, own = report[:, :p][:, :, places], report[:, places][:, :, places]
    nodes = fitted.fixed("mu").nodes
    inputs = [node.to_expr().alias(f"x_{j}") for j, node in enumerate(nodes)]

    def means(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        eta, v, model = rows[ETA].to_numpy(), rows[RANDOM_VARIANCE].to_numpy(), _model(rows)
        with np.errstate(all="ignore"):
            mean, d_eta, d_variance = averaged_mean(link, eta, v)
            z = [rows[f"z_{k}"].to_numpy() for k in range(_width(fitted))]
            g = np.array([d_variance * e.times * z[e.i] * z[e.j] for e in entries]).reshape(len(entries), len(eta))
            x = np.array([rows[f"x_{j}"].to_numpy() for j in range(p)]).reshape(p, len(eta))
            square = (d_eta * rows[STD_ERROR].to_numpy()) ** 2 + quadratic(g, own, model)
            square = square + 2.0 * d_eta * _bilinear(x, crossed, g, model)
            error = np.sqrt(np.maximum(square, 0.0))
            on_link = link.forward(mean)
            link_error = error / np.abs(link.value(on_link, 1)[1])
        both = zip(_FIELDS, (mean, error, on_link, link_error), strict=True)
        made = [pl.Series(name, values) for name, values in both]
        return pl.DataFrame(made).to_struct(batch.name)

    struct = pl.Struct(dict.fromkeys(_FIELDS, pl.Float64()))
    fields = [pl.col(ETA, RANDOM_VARIANCE, STD_ERROR), *inputs, *_columns(fitted, 0), *_own(fitted)]
    return pl.struct(fields).map_batches(means, return_dtype=struct, is_elementwise=True)


def random_variances(rows: pl.DataFrame, covariances: list[Cube], model: IntVec) -> Vec:
    """Σ_f z'Σ_f z (n,) for columns z_0, z_1 … of all factors side by side and Σ_f (M, r, r) of each row's fit."""
    total, start = np.zeros(rows.height), 0
    with np.errstate(all="ignore"):
        for covariance in covariances:
            r = covariance.shape[1]
            z = [rows[f"z_{start + k}"].to_numpy() for k in range(r)]
            for i in range(r):
                for j in range(i + 1):
                    total = total + (1.0 if i == j else 2.0) * z[i] * z[j] * covariance[:, i, j][model]
            start += r
    return np.maximum(total, 0.0)


def random_columns(fitted: Parameters, *parts: int) -> list[pl.Expr]:
    """What random effects multiply, times the size of what a row has of its levels; 0 of those on other predictors."""
    return [
        pl.lit(0.0) if on not in parts else one * column(slots_size(factor)) if factor.recipe.members else one
        for factor in fitted.factors
        for on, one in zip(factor.part_of, _multiplied(factor), strict=True)
    ]


def _multiplied(factor: JoinedFactor) -> list[pl.Expr]:
    """What the effects of a factor multiply; fields and chains vary as much at any place: a new one is as the first."""
    found: list[pl.Expr] = []
    for term in factor.recipe.terms:
        own = [one.node.to_expr() for one in term.columns]
        if places_of(term) is not None:
            own[0] = 1.0 - pl.sum_horizontal(own[1:])
        found += own
    return found


def _columns(fitted: Parameters, *parts: int) -> list[pl.Expr]:
    return [one.alias(f"z_{k}") for k, one in enumerate(random_columns(fitted, *parts))]


def _width(fitted: Parameters) -> int:
    return sum(len(factor.nodes) for factor in fitted.factors)


def _own(fitted: Parameters) -> list[pl.Expr]:
    return [] if fitted.model is None else [pl.col(MODEL)]


def _model(rows: pl.DataFrame) -> IntVec:
    return rows[MODEL].to_numpy() if MODEL in rows.columns else np.zeros(1, dtype=np.intp)


def _stacked(factor: JoinedFactor) -> Cube:
    """Σ (M, r, r) of a factor, block diagonal over its terms."""
    r = len(factor.nodes)
    whole, start = np.zeros((len(factor.covariances[0]), r, r)), 0
    for block in factor.covariances:
        stop = start + block.shape[1]
        whole[:, start:stop, start:stop] = block
        start = stop
    return whole


def covariance_entries(fitted: Parameters, first: int) -> list[CovarianceEntry]:
    """Where the entries of all covariance matrices stand in a report, terms in the order of the formula."""
    entries, place, start = [], first, 0
    for factor in fitted.factors:
        first_of = start
        for term in factor.recipe.terms:
            r = len(term.columns)
            structure = STRUCTURES[term.structure]
            if structure.bends:
                own = slice(start - first_of, start - first_of + r)
                whole = _stacked(factor)[0, own, own]
                for slopes in np.nan_to_num(natural_slopes(structure, whole)):
                    entries += [
                        CovarianceEntry(start + i, start + j, place, (1.0 if i == j else 2.0) * float(slopes[i, j]))
                        for i in range(r) for j in range(i + 1) if slopes[i, j] != 0.0
                    ]  # fmt: skip
                    place += 1
                start += r
                continue
            for i, j in zip(*structure.vech(r), strict=True):
                entries.append(CovarianceEntry(start + int(i), start + int(j), place, 1.0 if i == j else 2.0))
                place += 1
            start += r
    return entries


def _bilinear(x: Mat, matrix: Cube, g: Mat, model: IntVec) -> Vec:
    """x'Mg (n,) with M (fits, p, q) of each row's fit."""
    if len(matrix) == 1:
        return np.asarray(np.einsum("pn,pn->n", x, matrix[0] @ g))
    total = np.zeros(x.shape[1])
    for j, xj in enumerate(x):
        for k, gk in enumerate(g):
            total += xj * gk * matrix[:, j, k][model]
    return total
