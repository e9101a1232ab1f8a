"""Average predictions, comparisons and slopes over the rows of a frame, and the same of single rows.

An average is a function of the parameters whose Jacobian is the average of those of the rows: one query sums value and
gradient, and the delta method does the rest. Comparisons and slopes are functions of two averages, of the same rows
with a column set to one value and to another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.fitting.row_facts import used_rows
from polars_glmm.frames.elsewhere import read
from polars_glmm.inference.coefficients import exponentiated
from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom, coefficient_covariance
from polars_glmm.inference.mean_cells import link_of
from polars_glmm.inference.means import CORE, NOT_ESTIMABLE, on_response, refuse_core_names
from polars_glmm.inference.natural_covariance import suited_covariance
from polars_glmm.inference.schemas import Schema, table
from polars_glmm.inference.wald import Core, core
from polars_glmm.prediction.category_quantities import CATEGORY, categories_asked
from polars_glmm.prediction.columns import INTERNAL, readable_schema, require_columns
from polars_glmm.prediction.counterfactuals import (
    CompareLike,
    Comparison,
    Side,
    values_of,
)
from polars_glmm.prediction.expected import check_kind
from polars_glmm.prediction.parameters import of_fit
from polars_glmm.prediction.quantities import Averages, Random, Scale, Wanted, averages, check_scale, with_quantity
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.covariance_record import CoefficientCovariance

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
HowCompared: TypeAlias = str | Callable[[float, float], float]
TABLE: Schema = {**CORE, "n": pl.Int64(), "note": pl.String()}
HOW = ("difference", "ratio", "lnratio", "lnor")
_NUDGE = 1e-6


class Asked(NamedTuple):
    """What all three verbs share: whose rows, in which groups, at which random effects, on which scale, how tested."""

    frame: pl.LazyFrame
    by: list[str]
    wanted: Wanted
    covariance: CoefficientCovariance
    conf_level: float


def asked_of(  # noqa: PLR0913  what the public verbs share
    fit: Answer,
    frame: pl.DataFrame | pl.LazyFrame | None,
    *,
    by: str | Sequence[str] | None,
    random: Random,
    scale: Scale,
    kind: str,
    verb: str,
    df: DegreesOfFreedom,
    vcov: CovarianceChoice,
    conf_level: float,
) -> Asked:
    """The arguments checked; without a frame the rows of the fit."""
    check_scale(scale)
    check_kind(fit.spec.family, kind, scale, verb)
    if frame is None:
        lazy = used_rows(fit, f"fit.{verb}() averages over them: pass a frame, as in fit.{verb}(df).")
    else:
        lazy = read(frame, verb).lazy()
    groups = [] if by is None else [by] if isinstance(by, str) else list(by)
    schema = readable_schema(lazy)
    require_columns(schema, groups, verb)
    own = [CATEGORY] if fit.recipe.spec.family.response == "category" else []
    refuse_core_names(groups, [*TABLE, "variable", "contrast", *own])
    wanted = Wanted(random, scale, verb, kind=kind)
    return Asked(lazy, groups, wanted, coefficient_covariance(fit, vcov, df), conf_level)


def by_category(fit: Answer, asked: Asked) -> list[tuple[str | None, Asked]]:
    """The question once for each category, or once where responses are numbers, with what it is called."""
    categories = categories_asked(fit.recipe, asked.wanted.scale)
    if not categories:
        return [(None, asked)]
    return [(one, asked._replace(wanted=replace(asked.wanted, category=one))) for one in categories]


def average_predictions(fit: Answer, asked: Asked, variables: CompareLike) -> pl.DataFrame:
    """One row for each combination of values of `variables`, set in every row, and of the groups."""
    parts, keys = [], []
    for sides in values_of(fit, variables, "predictions"):
        part = _averages(fit, asked, sides)
        parts.append(part)
        values = [pl.Series(side.column, [side.value] * len(part.n), dtype=side.dtype) for side in sides]
        keys.append(pl.DataFrame([*values, *part.groups.iter_columns()]))
    value = np.concatenate([part.value for part in parts])
    jacobian = np.vstack([part.jacobian for part in parts])
    found = of_means(fit, value, jacobian, asked)
    return _table(pl.concat(keys), found, np.concatenate([part.n for part in parts]))


def average_comparisons(fit: Answer, asked: Asked, comparisons: Sequence[Comparison], how: HowCompared) -> pl.DataFrame:
    """One row for each comparison and group."""
    known: dict[Any, Averages] = {}

    def side(one: Side) -> Averages:
        if one.key not in known:
            known[one.key] = _averages(fit, asked, [one])
        return known[one.key]

    tables = []
    for one in comparisons:
        low, high = side(one.low), side(one.high)
        # where counts differ, one of the values is not determined in some rows
        same = np.where(low.n == high.n, high.value, np.nan)
        found = compared_core(fit, asked, how, (same, high.jacobian), (low.value, low.jacobian), one.width)
        m = len(same)
        labels = [pl.Series("variable", [one.variable] * m), pl.Series("contrast", [one.contrast] * m)]
        keys = pl.DataFrame([*labels, *high.groups.iter_columns()])
        tables.append(_table(keys, found, np.minimum(low.n, high.n)))
    return pl.concat(tables)


def compared_core(
    fit: Answer, asked: Asked, how: HowCompared, high: tuple[Vec, Mat], low: tuple[Vec, Mat], width: float
) -> Core:
    """The core of a comparison, divided by `width`; a ratio is tested and has its interval on the scale of its log."""
    value, jacobian = compared(how, high, low)
    found = tested(fit, value / width, jacobian / width, asked)
    if how != "ratio":
        return found
    on_log = exponentiated(tested(fit, *compared("lnratio", high, low), asked))
    return Core(*(np.where(value > 0.0, one, plain) for one, plain in zip(on_log, found, strict=True)))


def compared(how: HowCompared, high: tuple[Vec, Mat], low: tuple[Vec, Mat]) -> tuple[Vec, Mat]:
    """A function of two numbers (m,) with Jacobians (m, R), and its own Jacobian."""
    (a, a_slope), (b, b_slope) = high, low
    with np.errstate(all="ignore"):
        if callable(how):
            value, da, db = _numerically(how, a, b)
        elif how == "difference":
            value, da, db = a - b, np.ones_like(a), -np.ones_like(b)
        elif how == "ratio":
            value, da, db = a / b, 1.0 / b, -a / b**2
        elif how == "lnratio":
            value, da, db = np.log(a / b), 1.0 / a, -1.0 / b
        else:
            value = np.log(a) - np.log1p(-a) - np.log(b) + np.log1p(-b)
            da, db = 1.0 / (a * (1.0 - a)), -1.0 / (b * (1.0 - b))
        return value, da[:, None] * a_slope + db[:, None] * b_slope


def check_comparison(how: HowCompared) -> None:
    """Raise ModelError for a way of comparing that is none."""
    if not callable(how) and how not in HOW:
        near = suggest(str(how), HOW, listed=True)
        msg = f"comparison={how!r} is not known: use {enumerate_names(HOW, 'or')}, or a function of (high, low).{near}"
        raise ModelError(msg)


def _numerically(how: Callable[[float, float], float], a: Vec, b: Vec) -> tuple[Vec, Vec, Vec]:
    def at(x: Vec, y: Vec) -> Vec:
        return np.array([float(how(float(one), float(other))) for one, other in zip(x, y, strict=True)])

    ha, hb = _NUDGE * np.maximum(np.abs(a), _NUDGE), _NUDGE * np.maximum(np.abs(b), _NUDGE)
    return at(a, b), (at(a + ha, b) - at(a - ha, b)) / (2 * ha), (at(a, b + hb) - at(a, b - hb)) / (2 * hb)


def _averages(fit: Answer, asked: Asked, sides: Sequence[Side]) -> Averages:
    """Averages of the rows with some columns set; groups are those of the rows as they are."""
    copies = [f"{INTERNAL}by_{k}" for k in range(len(asked.by))]
    frame = asked.frame.with_columns(
        named.column(name).alias(copy) for name, copy in zip(asked.by, copies, strict=True)
    )
    for side in sides:
        frame = side.set_in(frame)
    frame, quantity = with_quantity(frame, frame.collect_schema(), of_fit(fit), asked.wanted)
    count = fit.spec.frequency
    weight = named.column(count) if count is not None and count in asked.frame.collect_schema() else None
    found = averages(frame, quantity, copies, len(fit.estimate.report), weight)
    return found._replace(groups=found.groups.rename(dict(zip(copies, asked.by, strict=True))))


def of_means(fit: Answer, value: Vec, jacobian: Mat, asked: Asked) -> Core:
    """Means with intervals made on the scale of the link, so that none leaves the range of the response."""
    if asked.wanted.scale == "link":
        return tested(fit, value, jacobian, asked)
    link = link_of(fit, asked.wanted.kind)
    with np.errstate(all="ignore"):
        on_link = link.forward(value)
        found = tested(fit, on_link, jacobian / link.value(on_link, 1)[1][:, None], asked)
    return on_response(fit, found, asked.wanted.kind)


def tested(fit: Answer, value: Vec, jacobian: Mat, asked: Asked) -> Core:
    """The core of functions of the parameters, values (m,) with Jacobian (m, R); null where one is not a number."""
    rows, covariance = suited_covariance(fit, asked.covariance, jacobian)
    spoiled = np.isnan(rows).any(axis=1) | np.isnan(value)
    clean = np.where(spoiled[:, None], 0.0, rows)
    variance = np.where(spoiled, np.nan, covariance.variances(clean))
    found = core(value, variance, covariance.df_each(clean), conf_level=asked.conf_level)
    return found._replace(df=np.where(spoiled, np.nan, found.df))


def _table(keys: pl.DataFrame, found: Core, n: Vec) -> pl.DataFrame:
    notes = [NOT_ESTIMABLE if np.isnan(value) else None for value in found.estimate]
    body = table(TABLE, {**found.columns(), "n": np.round(n).astype(np.int64), "note": notes})
    return pl.DataFrame([*keys.iter_columns(), *body.iter_columns()])
