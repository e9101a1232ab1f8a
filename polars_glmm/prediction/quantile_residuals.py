"""Quantile residuals (Dunn & Smyth 1996): where a response stands in the distribution that the model gives its row.

F is that of the family itself, not of simulations: smooth, exact, and the same for every number of draws. A count takes
up the interval from P(Y < y) to P(Y ≤ y), in which a point is drawn; the draw of a row depends on the seed and the
row's place alone, so batches and engines do not matter. Normal scores are taken in the nearer tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.families.averages import take_rows
from polars_glmm.families.censored_residuals import censored_quantiles
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.given import INNER, Given, add_distribution, cdf_of, inner_of
from polars_glmm.prediction.linear_predictor import MISSING
from polars_glmm.prediction.rows import response_inputs

if TYPE_CHECKING:
    import numpy.typing as npt

    from polars_glmm.design.recipe import Recipe
    from polars_glmm.families.base import Family, Rows
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import IntVec, Vec

QUANTILES = ("quantile_low", "quantile_high", "resid_quantile")
SEED = "quantile_seed"
_ROW = f"{INTERNAL}row"
_QUANTILE = f"{INTERNAL}quantile"
Words: TypeAlias = "npt.NDArray[np.uint64]"


def uniform_of(seed: int, row: IntVec) -> Vec:
    """A uniform number in (0, 1) for every row, from seed and place alone (SplitMix64; Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        z = row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _mixed(np.array([seed], dtype=np.uint64))
        share = (_mixed(z) >> np.uint64(11)).astype(np.float64)
    return np.asarray((share + 0.5) * 2.0**-53)


def _mixed(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def add_quantiles(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, given: Given, seed: int, *, verb: str
) -> pl.LazyFrame:
    """The frame with MISSING and a struct column of QUANTILES; `quantile_columns` takes them out."""
    recipe = fitted.recipe
    response = response_inputs(recipe)
    frame = frame.with_row_index(_ROW)
    frame = add_distribution(frame, schema, fitted, given, verb=verb, also_used=response)

    def quantiles(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        values = np.full((3, rows.height), np.nan)
        complete = ~rows[MISSING].to_numpy()
        used = rows.filter(complete)
        if used.height:
            values[:, complete] = _quantiles(recipe, used, uniform_of(seed, used[_ROW].to_numpy()))
        made = [pl.Series(name, values[i], nan_to_null=True) for i, name in enumerate(QUANTILES)]
        return pl.DataFrame(made).to_struct(batch.name)

    struct = pl.Struct(dict.fromkeys(QUANTILES, pl.Float64()))
    fields = columns([_ROW, *INNER, *sorted(response)])
    made = pl.struct(fields).map_batches(quantiles, return_dtype=struct, is_elementwise=True)
    return frame.with_columns(made.alias(_QUANTILE))


def quantile_columns(prefix: str) -> list[pl.Expr]:
    """The columns that `add_quantiles` prepared, null in incomplete rows."""
    return [
        pl.when(~pl.col(MISSING)).then(pl.col(_QUANTILE).struct.field(name)).alias(f"{prefix}{name}")
        for name in QUANTILES
    ]


def _quantiles(recipe: Recipe, used: pl.DataFrame, uniform: Vec) -> tuple[Vec, Vec, Vec]:
    """P(Y < y), P(Y ≤ y) and the normal score of a point between them."""
    family = recipe.spec.family
    rows, inner = response_arrays(recipe, used), inner_of(used, family)
    low, high = _ends(family, rows, inner, upper=False)
    score = _normal(low + uniform * (high - low))
    far = np.flatnonzero(low > 0.5)  # the other tail has more digits there
    if len(far):
        part = inner[0][far], inner[1][far], _some(inner[2], far)
        most, least = _ends(family, take_rows(rows, far), part, upper=True)
        score[far] = -_normal(most + uniform[far] * (least - most))
    return low, high, score


def _some(beyond: Any, rows: IntVec) -> Any:
    """What a family takes beyond the mean, of some rows: nothing, an array, or one of each parameter."""
    if isinstance(beyond, tuple):
        return tuple(one[rows] for one in beyond)
    return None if beyond is None else beyond[rows]


def _ends(family: Family, rows: Rows, inner: tuple[Vec, Vec, Vec | None], *, upper: bool) -> tuple[Vec, Vec]:
    if rows.censoring is not None:
        return censored_quantiles(rows, lambda one: cdf_of(family, one, inner, upper=upper), upper=upper)
    high = cdf_of(family, rows, inner, upper=upper)
    if not family.discrete:
        return high, high
    return cdf_of(family, rows._replace(y=rows.y - 1.0), inner, upper=upper), high


def _normal(p: Vec) -> Vec:
    from scipy.special import ndtri  # noqa: PLC0415  scipy stays out of plain imports

    return np.asarray(ndtri(p))
