"""The distribution of each row's response in a plan: at the modes, at zero, or with random effects integrated out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families.averages import averaged_cdf, averaged_density, part_of, take_rows
from polars_glmm.families.base import all_parts
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.linear_predictor import ETA, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.parameters import refuse_random_phi
from polars_glmm.prediction.places import over_places
from polars_glmm.prediction.population import RANDOM_VARIANCE, add_population_predictor
from polars_glmm.prediction.rows import PHI, beyond, phi_inputs, with_phi

if TYPE_CHECKING:
    from polars_glmm.families.base import Family, Rows
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Vec

Given = Literal["modes", "zero", "integrate"]
VARIANCE_OF_ETA = f"{INTERNAL}eta_variance"
INNER = (MISSING, ETA, VARIANCE_OF_ETA, PHI)
"""What a row's distribution is computed from, besides the response."""
_REMEDY = 'The modes are of levels with an effect: drop these rows, or use given="integrate".'


def add_distribution(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, given: Given, *, verb: str, also_used: frozenset[str]
) -> pl.LazyFrame:
    """The frame with MISSING, ETA, the variance of eta that the random effects have, and PHI.

    given   "modes": the random effects are at their modes; "zero": at zero; "integrate": averaged over, keys not read
    """
    if given not in get_args(Given):
        hint = suggest(str(given), get_args(Given), listed=True)
        msg = f"given={given!r} is not known: use {enumerate_names(get_args(Given), 'or')}.{hint}"
        raise ModelError(msg)
    if given == "integrate":
        refuse_random_phi(fitted, f"the distribution that {verb}() needs")
    used = also_used | phi_inputs(fitted)
    if given == "integrate" and fitted.factors:
        frame = add_population_predictor(frame, schema, fitted, verb=verb, also_used=used, std_error=False)
        variance = pl.col(RANDOM_VARIANCE)
    else:
        factors = over_places(fitted.factors) if given == "modes" else ()
        parts = all_parts(fitted.recipe.spec.family)
        purpose = Purpose(verb, factors, remedy=_REMEDY, also_used=used, parts=parts)
        frame = add_linear_predictor(frame, schema, fitted, purpose)
        frame = with_phi(frame, schema, fitted, verb=verb, factors=purpose.acting)
        return frame.with_columns(pl.lit(0.0).alias(VARIANCE_OF_ETA))
    return with_phi(frame.with_columns(variance.alias(VARIANCE_OF_ETA)), schema, fitted, verb=verb)


def inner_of(rows: pl.DataFrame, family: Family) -> tuple[Vec, Vec, Vec | None]:
    """eta, its variance and phi (None where the family has none) of complete rows; each (n,)."""
    return (
        rows[ETA].to_numpy(), rows[VARIANCE_OF_ETA].to_numpy(), beyond(rows[PHI], family)
    )  # fmt: skip


def cdf_of(family: Family, rows: Rows, inner: tuple[Vec, Vec, Vec | None], *, upper: bool = False) -> Vec:
    """P(Y ≤ y), or P(Y > y), of each row (n,)."""
    eta, variance, phi = inner
    if not variance.any():
        with np.errstate(all="ignore"):
            return np.asarray(family.cdf(rows, family.mean(eta), phi, upper=upper))
    return averaged_cdf(family, rows, eta, variance, phi, upper=upper)


def probability_of(family: Family, rows: Rows, inner: tuple[Vec, Vec, Vec | None]) -> Vec:
    """The probability of y, or its density, of each row (n,); zero where the family has no such response."""
    out = np.zeros(len(rows.y))
    possible = np.flatnonzero(~family.outside_support(rows))
    if len(possible):
        eta, variance, phi = inner
        own = eta[possible], variance[possible], part_of(phi, possible)
        out[possible] = averaged_density(family, take_rows(rows, possible), *own)
    return out
