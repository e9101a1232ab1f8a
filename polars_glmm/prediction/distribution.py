"""The distribution of the response that a model expects of rows: probabilities by value, and counts beside observed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.families.base import Rows
from polars_glmm.families.quantiles import averaged_quantile
from polars_glmm.frames.batches import batches, whole
from polars_glmm.frames.elsewhere import read
from polars_glmm.prediction.categories import refuse_categories
from polars_glmm.prediction.columns import INTERNAL, readable_schema, require_columns
from polars_glmm.prediction.given import INNER, Given, add_distribution, cdf_of, inner_of, probability_of
from polars_glmm.prediction.linear_predictor import MISSING
from polars_glmm.prediction.parameters import of_fit
from polars_glmm.prediction.rows import response_inputs, size_inputs, sizes_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Vec

_REST = 1e-6
"""Probability that the values listed by default may leave out."""
_MOST_VALUES = 100_000
_ROWS = 1 << 16
_ROW, _AT = f"{INTERNAL}row", f"{INTERNAL}at"
RANDOM: dict[str, Given] = {"integrate": "integrate", "all": "modes", "none": "zero"}


def distribution(
    frame: pl.DataFrame | pl.LazyFrame,
    fit: Answer,
    values: Sequence[float] | None = None,
    *,
    random: str = "integrate",
    average: bool = False,
    by: str | Sequence[str] | None = None,
) -> pl.DataFrame:
    """Long: `row` (its place in the frame), then value, probability, cumulative; averaged: the columns `by` instead.

    values    what probabilities are asked of; None: whole numbers from 0 until less than 1e-6 is left. Of a family that
              is not of counts they must be given, and `probability` is the density.
    random    "integrate": random effects averaged over, "all": at their modes, "none": at zero
    average   mean over the rows, of each group of the columns `by` where they are given: the mixture that the model
              expects of such rows

    Needs the columns of a prediction, and the trials where the response is out of some; incomplete rows are left out.
    Raises ModelError for arguments that are not known, or values that must be given; ColumnError for absent columns.
    """
    keys = [] if by is None else [by] if isinstance(by, str) else list(by)
    refuse_categories(fit.recipe, "distribution()", "predict(kind='response') has the probability of each")
    fitted, family = of_fit(fit), fit.recipe.spec.family
    rows, inner, sizes = _collected(frame, fitted, random, keys)
    if values is None:
        values = _default_values(fitted, inner, sizes)
    at = np.asarray(values, dtype=np.float64)
    shown = at.astype(np.int64) if (at == np.round(at)).all() else at
    n = rows.height
    probability, cumulative = np.empty((2, len(at), n))
    for k, value in enumerate(at):
        here = sizes._replace(y=np.full(n, value))
        probability[k] = probability_of(family, here, inner)
        cumulative[k] = cdf_of(family, here, inner)
    if not average and not keys:
        front = {"row": np.repeat(rows[_ROW].to_numpy(), len(at)), "value": np.tile(shown, n)}
        return pl.DataFrame(front | {"probability": probability.T.ravel(), "cumulative": cumulative.T.ravel()})
    if not n:
        msg = "distribution: no row is complete in the columns that the model uses, and a mean needs some."
        raise ColumnError(msg)
    weights = rows.select(*columns(keys), pl.Series(_AT, np.arange(n)))
    groups = weights.select(pl.all().implode())
    if keys:
        groups = weights.group_by(columns(keys), maintain_order=True).agg(_AT)
    made = []
    for i, own in enumerate(groups[_AT].to_list()):
        means = {"probability": probability[:, own].mean(1), "cumulative": cumulative[:, own].mean(1)}
        table = pl.DataFrame({"value": shown} | means)
        made.append(groups[i : i + 1].drop(_AT).join(table, how="cross") if keys else table)
    return pl.concat(made)


def count_table(frame: pl.DataFrame | pl.LazyFrame, fit: Answer, *, random: str = "integrate") -> pl.DataFrame:
    """Observed counts of every value of the response beside those expected: value, observed, expected, std_error.

    Values run from 0 to the largest observed. expected is Σ P(Y = value) over the rows (frequencies counted),
    std_error √Σ P(1 − P), its standard deviation if rows were independent: with `random="all"` they are, given the
    random effects; with "integrate" rows of one group go together and the deviation is larger. Lazy frames stream.
    Raises ModelError for a family that is not of counts.
    """
    family, recipe = fit.recipe.spec.family, fit.recipe
    if not family.discrete:
        msg = f"count_table() is of counts, and {family.name} is not: use distribution(frame, values=…)."
        raise ModelError(msg)
    fitted, lazy = of_fit(fit), read(frame, "count_table()").lazy()
    schema = readable_schema(lazy)
    response = response_inputs(recipe)
    require_columns(schema, response, "count_table")
    frequency = recipe.spec.frequency
    used = response if frequency is None else response | {frequency}
    lazy = add_distribution(lazy, schema, fitted, _given(random), verb="count_table", also_used=used)
    lazy = lazy.filter(~pl.col(MISSING)).select(columns([*INNER, *sorted(used)]))
    largest = max((float(response_arrays(recipe, rows).y.max()) for rows in _pieces(lazy)), default=-1.0)
    if largest < 0.0:
        msg = "count_table: no row is complete in the columns that the model uses."
        raise ColumnError(msg)
    values = np.arange(int(largest) + 1)
    observed, expected, variance = np.zeros((3, len(values)))
    for rows in _pieces(lazy):
        w = np.ones(rows.height) if frequency is None else rows[frequency].cast(pl.Float64).to_numpy()
        own, inner = response_arrays(recipe, rows), inner_of(rows, family)
        observed += np.bincount(own.y.astype(np.intp), w, len(values))
        for value in values:
            p = probability_of(family, own._replace(y=np.full(rows.height, float(value))), inner)
            expected[value] += w @ p
            variance[value] += w @ (p * (1.0 - p))
    return pl.DataFrame({"value": values, "observed": observed, "expected": expected, "std_error": np.sqrt(variance)})


def _pieces(lazy: pl.LazyFrame) -> Iterator[pl.DataFrame]:
    """The rows of a query, some at a time."""
    return (rows for rows in batches(lazy, _ROWS) if rows.height)


def _collected(
    frame: pl.DataFrame | pl.LazyFrame, fitted: Parameters, random: str, keys: list[str]
) -> tuple[pl.DataFrame, tuple[Vec, Vec, Vec | None], Rows]:
    """Complete rows with their place and keys, what their distributions are computed from, and their sizes."""
    lazy = read(frame, "distribution()").lazy()
    schema = readable_schema(lazy)
    sizes = size_inputs(fitted.recipe)
    require_columns(schema, [*sizes, *keys], "distribution")
    lazy = lazy.with_row_index(_ROW)
    lazy = add_distribution(lazy, schema, fitted, _given(random), verb="distribution", also_used=sizes)
    wanted = dict.fromkeys([_ROW, *INNER, *sorted(sizes), *keys])
    rows = whole(lazy.select(columns(list(wanted))).filter(~pl.col(MISSING)))
    return rows, inner_of(rows, fitted.recipe.spec.family), sizes_of(fitted.recipe, rows)


def _given(random: str) -> Given:
    if random not in RANDOM:
        msg = f"random={random!r} is not known: use 'integrate', 'all' or 'none'."
        raise ModelError(msg)
    return RANDOM[random]


def _default_values(fitted: Parameters, inner: tuple[Vec, Vec, Vec | None], sizes: Rows) -> list[float]:
    family = fitted.recipe.spec.family
    if not family.discrete:
        msg = f"distribution() of {family.name} responses needs values=, the points at which the density is wanted."
        raise ModelError(msg)
    if sizes.trials is not None:
        most = float(sizes.trials.max(initial=0.0))
    elif not fitted.recipe.spec.family.takes_trials:
        eta, variance, phi = inner
        most = float(np.max(averaged_quantile(family, sizes, eta, variance, phi, 1.0 - _REST), initial=0.0))
    else:
        most = 1.0
    if most > _MOST_VALUES:
        msg = f"distribution() would list values up to {most:.0f}: choose some with values=."
        raise ModelError(msg)
    return [float(value) for value in range(int(most) + 1)]
