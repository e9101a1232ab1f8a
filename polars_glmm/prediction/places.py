"""Effects at places where no row of the fit was: a chain or a field says how they hang on those that are known.

b_new = Kb + rest, K = CR⁻¹ (kriging): a row at a new place multiplies the effects of the fit by a row of K, and by
√Var(rest) an effect of variance 1 of its own, which no row of the fit tells anything of. At a known place K picks, and
there is no rest: one rule for all rows, and predictions, their variances and averages need not know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.columns.coding import Column
from polars_glmm.columns.nodes import Node, looked_up
from polars_glmm.covariance.structures import alone, elsewhere, over_points, plain_name
from polars_glmm.design.points import KnownPoints, known_points
from polars_glmm.design.recipe import TermRecipe
from polars_glmm.errors import counted
from polars_glmm.prediction.effects import JoinedFactor, chosen
from polars_glmm.prediction.guards import Check

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Mat, Random


@dataclass(frozen=True, slots=True)
class _Weight(Node):
    """What a row multiplies an effect by that stands at a place, made beforehand in a column of structs."""

    column: str
    field: str
    names: tuple[str, ...]

    def to_expr(self, engine: ModuleType | None = None) -> Any:  # noqa: ARG002  Polars alone
        return named.column(self.column).struct.field(self.field)

    def inputs(self) -> frozenset[str]:
        return frozenset(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class TermPlaces:
    """The effects of one term at their places, in a plan.

    column      the internal one of weights, r for the effects and one for the rest
    structure   as in the recipe;  names: the columns of coordinates
    at (r, d)   coordinates;  sigma (r, r): the covariance matrix
    part        the predictor that the effects are added to
    """

    column: str
    structure: str
    names: tuple[str, ...]
    at: Mat
    sigma: Mat
    part: int

    def nodes(self) -> tuple[Node, ...]:
        """What rows multiply the effects by, and the rest."""
        return tuple(_Weight(self.column, str(j), self.names) for j in range(len(self.at) + 1))

    def weights(self) -> pl.Expr:
        """The column of weights: a matrix of few distinct places for each batch of rows."""
        fields = [str(j) for j in range(len(self.at) + 1)]

        def of(batch: pl.Series) -> pl.Series:
            rows = batch.struct.unnest().fill_null(np.nan).to_numpy().astype(np.float64)
            found = np.full((len(rows), len(fields)), np.nan)
            there = np.isfinite(rows).all(1)
            places, codes = np.unique(rows[there], axis=0, return_inverse=True)
            if len(places):
                weights, rest = elsewhere(self.structure, self.sigma, self.at, places)
                found[there] = np.column_stack([weights, np.sqrt(rest)])[codes.ravel()]
            return pl.DataFrame(dict(zip(fields, found.T, strict=True))).to_struct(batch.name)

        struct = pl.Struct(dict.fromkeys(fields, pl.Float64))
        own = pl.struct(named.column(name).cast(pl.Float64) for name in self.names)
        return own.map_batches(of, return_dtype=struct, is_elementwise=True).alias(self.column)

    def check(self, missing: pl.Expr) -> Check:
        """The guard against places that no number of steps leads to, and infinite ones."""
        remedy = 'Coordinates are finite numbers: drop these rows, or leave them out of it, random="none".'
        if not over_points(self.structure):
            name = plain_name(self.structure)
            remedy = f'{name}() is over whole steps: fit ou(), which is over any times, or predict with random="none".'
        unknown = named.column(self.column).struct.field("0").is_nan()
        return Check(~missing & unknown, self.names, counted(len(self.at), "place"), remedy)


def places_of(term: TermRecipe) -> KnownPoints | None:
    """The places of a term's effects where others can be foretold from them, else None.

    Variances are equal, correlations depend on distances, and places are numbers.
    """
    return known_points(term.columns) if alone(term.structure) else None


def levels_beyond(terms: Iterable[TermRecipe], *parts: int) -> frozenset[str]:
    """The columns whose levels random effects on some of the predictors look up, but for those of places."""
    nodes = [
        column.node
        for term in terms if places_of(term) is None
        for column, part in zip(term.columns, term.parts or (0,) * len(term.columns), strict=True) if part in parts
    ]  # fmt: skip
    return frozenset[str]().union(*map(looked_up, nodes))


def acting(fitted: Parameters, random: Random) -> tuple[JoinedFactor, ...]:
    """The grouping factors that `random` asks for, with effects also at places that the fit does not know.

    Modes that move with the variance parameters move weights along, which nobody has the slopes of: places of the fit
    alone then.
    """
    found = chosen(fitted.factors, random)
    return found if fitted.joint is not None else over_places(found)


def over_places(factors: Sequence[JoinedFactor]) -> tuple[JoinedFactor, ...]:
    """The factors with weights for indicators of places, and an effect for the rest behind the others.

    One fit, levels that are independent, modes of that fit: of others the factor stays as it is.
    """
    found = {factor.recipe.name: _places(factor) for factor in factors}
    more = {name: len(places) for name, places in found.items()}
    return tuple(_widened(factor, found[factor.recipe.name], more) for factor in factors)


def _places(factor: JoinedFactor) -> dict[int, TermPlaces]:
    """By term."""
    if factor.recipe.members or factor.recipe.prior or factor.scored is not None or len(factor.covariances[0]) > 1:
        return {}
    out = {}
    for t, (term, covariance) in enumerate(zip(factor.recipe.terms, factor.covariances, strict=True)):
        known = places_of(term)
        if known is not None:
            part = term.parts[0] if term.parts else 0
            own = f"{factor.tag}place_{t}", term.structure, known.names, np.array(known.points, dtype=np.float64)
            out[t] = TermPlaces(*own, covariance[0], part)
    return out


def _widened(factor: JoinedFactor, places: dict[int, TermPlaces], more: dict[str, int]) -> JoinedFactor:
    between = tuple(
        replace(one, covariance=np.pad(one.covariance, ((0, len(places)), (0, more.get(one.other, 0)), (0, 0))))
        for one in factor.between
    )
    if not places:
        return replace(factor, between=between) if any(more.values()) else factor
    terms, rest = list(factor.recipe.terms), []
    for t, own in places.items():
        *nodes, last = own.nodes()
        term = terms[t]
        columns = tuple(replace(c, node=node) for c, node in zip(term.columns, nodes, strict=True))
        terms[t] = replace(term, columns=columns)
        rest.append(TermRecipe("diag", (Column("rest", last),), term.parts[:1], term.parameters[:1]))
    k, (r, n_levels) = len(places), factor.modes.shape
    covariance = np.pad(factor.mode_covariance, ((0, k), (0, k), (0, 0)))
    covariance[range(r, r + k), range(r, r + k)] = 1.0
    return replace(
        factor,
        recipe=replace(factor.recipe, terms=(*terms, *rest)),
        term_names=(*factor.term_names, *("rest",) * k),
        modes=np.vstack([factor.modes, np.zeros((k, n_levels))]),
        mode_covariance=covariance,
        mode_slope=None if factor.mode_slope is None else np.pad(factor.mode_slope, ((0, k), (0, 0), (0, 0))),
        covariances=(*factor.covariances, *(np.ones((1, 1, 1)),) * k),
        between=between,
        places=tuple(places.values()),
    )
